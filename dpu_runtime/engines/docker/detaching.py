"""Ports that must go: at once, or as soon as the daemon can be asked.

dockerd must be able to remove a container whatever the state of the daemon, so a detach that fails stays in
the state file and is tried again.
"""

import asyncio

from dpu_runtime.api.client import NoDaemonError
from dpu_runtime.config.errors import RpcError
from dpu_runtime.engines.docker.daemon_call import call
from dpu_runtime.engines.docker.protocol import RefusedError
from dpu_runtime.engines.docker.records import log

DETACH_TIMEOUT_S = 3.0
RETRY_S_MIN = 0.5
RETRY_S_MAX = 5.0


class Detacher:
    """Takes away the ports of those in `store.detach`."""

    def __init__(self, store):
        self._store = store
        self._wake = asyncio.Event()

    def later(self):
        """Look at `store.detach` again."""
        self._wake.set()

    async def now(self, owner):
        """Take away the ports of `owner`, a key of `store.detach`. Raises NoDaemonError and RpcError."""
        gone = await call(self._store.detach[owner], "port.detach", DETACH_TIMEOUT_S, owner=owner)
        for name in gone["names"]:
            log.info("%s: port %s is gone", owner, name)
        self._store.update(detach={owner: None})

    async def run(self):
        """Take away what is in `store.detach`, for ever."""
        delay_s = RETRY_S_MIN
        while True:
            if not self._store.detach:
                delay_s = RETRY_S_MIN
                await self._wake.wait()
            self._wake.clear()
            if not await self._all():
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, RETRY_S_MAX)

    async def _all(self):
        """Ask each daemon until it fails once; returns whether nothing is left."""
        failed = set()
        for owner, socket in self._store.detach.items():
            if socket not in failed:
                try:
                    await self.now(owner)
                except (NoDaemonError, RpcError, RefusedError) as error:
                    failed.add(socket)
                    log.warning("%s: its port stays for now: %s", owner, error)
        return not failed

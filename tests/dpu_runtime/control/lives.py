"""Daemons one after another on one state directory, on devices in memory, that end in every way."""

import asyncio

from dpu_runtime.config.file import digest, parse_config
from dpu_runtime.control.config_file import ConfigFile
from dpu_runtime.control.daemon import Daemon
from tests.dpu_runtime.control.memory_device import MemoryDevice

ENDS = ("restart in order", "crash of the control process", "crash of both processes", "reboot", "upgrade")
ADOPTED = ("crash of the control process", "upgrade")  # what runs goes on


class Lives:
    """A state directory and the daemons on it.

    daemon   the one that was there last, with its `running` and the answers to what it was asked
    """

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        self.running = None
        self._monkeypatch = monkeypatch
        self._end = None
        self._boot = 1

    def live(self, *asked, file=None, end="restart in order", fresh=False):
        """Start a daemon with a `file` of such a text, ask it coroutine functions of a Control, end it.

        Returns the Control.
        """
        return asyncio.run(self._live(asked, file, end, fresh))

    async def _live(self, asked, file, end, fresh):
        text = _whole(self.folder, file)
        device = MemoryDevice()
        if self._end in ADOPTED:
            device.adopted = True
            device.preset(self.running)
        daemon = Daemon(
            lambda _: device, parse_config(text), file=None if file is None else digest(text), fresh=fresh
        )
        daemon._named_config = file is not None
        daemon._state.lock()
        try:
            await daemon._start()
            control = daemon._control
            for one in asked:
                await one(control)
        finally:
            self.running, self._end = daemon._control and daemon._control.running, end
            if end == "restart in order":
                await daemon._end()
            else:  # as a kill does, nothing is written
                await daemon._server.stop()
                daemon._state.close()
        if end == "reboot":
            self._boot += 1
            self._monkeypatch.setattr(
                "dpu_runtime.control.origin.process_identity",
                lambda netns: f"boot {self._boot}" if (netns or "").startswith("pid:") else None,
            )
        return control


def reloads(file):
    """Ask for a reload, with `file` as the text of the file now."""

    async def reload(control):
        path = control._state.path.parent / "dpu.toml"
        path.write_text(_whole(path.parent, file))
        await ConfigFile(path).apply(control)

    return reload


def _whole(folder, file):
    lines = (f'socket = "{folder}/dpu.sock"', f'state_dir = "{folder}/state"')
    return "\n".join(["[runtime]", *lines, file or ""])


def names(control):
    """Names of ports and rules that run."""
    return {item.name for item in (*control.running.port, *control.running.rule)}

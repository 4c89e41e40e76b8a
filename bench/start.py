"""Time from `dpu run` to the first packet that it forwards, with and without machine code in its cache.

Size:   warm starts; --cold starts with an empty cache, which compile.
State:  the configuration file has two ports and a rule, so `acl` is on.
Method: broadcast frames of an EtherType of our own go into one port all the time, so that no address needs to
        be resolved; the clock stops when one comes out of the other.
"""

import contextlib
import socket
import tempfile
import threading
import time

from bench import results
from bench.peers.containers import INTERFACE, Containers
from bench.peers.hosts import stop_on_signals
from dpu_runtime.drivers.linux.netns import run_in_netns

ETHERTYPE = 0x88B5  # IEEE 802, local experimental
FRAME = bytes.fromhex("ffffffffffff 020000000001") + ETHERTYPE.to_bytes(2, "big") + bytes(46)
POLL_SECONDS = 0.002
START_SECONDS_MAX = 180.0


def packet_socket(host):
    """Socket for frames of ETHERTYPE in the namespace of `host`, not bound yet."""
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
    return run_in_netns(
        f"pid:{host.pid}", lambda: socket.socket(socket.AF_PACKET, kind, socket.htons(ETHERTYPE))
    )


class FirstFrame(threading.Thread):
    """Sends frames from client to server until the first arrives; `at` is when, monotonic."""

    def __init__(self, pair):
        super().__init__()
        self.at = None
        self._give_up = threading.Event()
        self._sender, self._receiver = packet_socket(pair.client), packet_socket(pair.server)

    def run(self):
        """Send, look, wait; the interfaces may not be there yet."""
        end = time.monotonic() + START_SECONDS_MAX
        bound = False
        with self._sender, self._receiver:
            while self.at is None and time.monotonic() < end and not self._give_up.wait(POLL_SECONDS):
                with contextlib.suppress(OSError):  # no interface, or down, or nothing received
                    if not bound:
                        self._sender.bind((INTERFACE, ETHERTYPE))
                        self._receiver.bind((INTERFACE, ETHERTYPE))
                        bound = True
                    self._sender.send(FRAME)
                    self._receiver.recv(len(FRAME))
                    self.at = time.monotonic()

    def cancel(self):
        """End without a frame."""
        self._give_up.set()
        self.join()


def start_seconds(env=None):
    """(seconds to the first forwarded frame, seconds to READY=1) of one start."""
    with Containers(env=env, start=False, rules=1) as dpu:
        first = FirstFrame(dpu)
        first.start()
        try:
            began = time.monotonic()
            dpu.start_daemon()
            ready = time.monotonic()
            first.join(START_SECONDS_MAX)
        finally:
            first.cancel()
        assert first.at is not None, "no frame was forwarded"
        dpu.wait_for_standby()
        return first.at - began, ready - began


def run(size, cold=3):
    """Measure `cold` starts with an empty cache, then `size` starts after one that is dropped."""
    cold_starts = []
    for _ in range(cold):
        with tempfile.TemporaryDirectory(prefix="dpu-bench-") as cache:
            cold_starts.append(start_seconds({"DPU_CACHE_DIR": cache}))
    start_seconds()
    warm_starts = [start_seconds() for _ in range(size)]
    made = []
    for title, starts in (("cold", cold_starts), ("warm", warm_starts)):
        if starts:
            forwarded, ready = zip(*starts, strict=True)
            made.append(results.result(f"start, {title}: to the first forwarded packet", "s", forwarded))
            made.append(results.result(f"start, {title}: to READY=1", "s", ready))
    return made


if __name__ == "__main__":
    stop_on_signals()
    results.main(
        "start",
        run,
        results.REPEATS,
        __doc__,
        cold={"type": int, "default": 3, "help": "starts with an empty cache; default: 3"},
    )

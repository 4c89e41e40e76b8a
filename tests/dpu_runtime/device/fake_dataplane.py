"""A data plane without packets, for tests of the supervisor: fake_dataplane.py -m MODULE FD.

The file FAKE_PLAN has a word for each process that starts, taken from its front: `well` (also when there
is none), `die` before it is ready, `late`, which gets ready when there
is a file FAKE_PLAN.go, or `slow`, which never does.
"""

import os
import socket
import sys
import time
from pathlib import Path

from dpu_runtime.plane import channel

SLOW_S = 60


def next_word():
    """The word for this process."""
    path = Path(os.environ["FAKE_PLAN"])
    word, _, rest = path.read_text().partition(" ")
    path.write_text(rest)
    return word or "well"


def main():
    """Answer requests: `refuse`, `die`, `stop`; anything else comes back, with what came before it."""
    word = next_word()
    if word == "die":
        sys.exit(3)
    if word == "slow":
        time.sleep(SLOW_S)
    while word == "late" and not Path(os.environ["FAKE_PLAN"] + ".go").exists():
        time.sleep(0.01)
    sock = socket.socket(fileno=int(sys.argv[3]))
    wanted = channel.receive(sock)[0]["prepare"]
    ready = {"ready": os.getpid(), "prepare_s": 0.0}
    failed = {name: "line 7: no" for name in wanted if name.startswith("bad")}
    entries = [name for name in wanted if name not in failed]
    channel.send(sock, ready | {"entries": entries, "failed": failed})
    before = []
    while True:
        try:
            message, _ = channel.receive(sock)
        except channel.ChannelClosedError:
            return
        if message["do"] == "die":
            os._exit(4)
        if message["do"] == "refuse":
            channel.send(sock, {"ok": False, "error": "not today"})
            continue
        channel.send(sock, {"ok": True, "pid": os.getpid(), "asked": message, "before": before})
        before.append(message["do"])
        if message["do"] == "stop":
            return


if __name__ == "__main__":
    main()

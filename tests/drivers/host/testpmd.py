"""DPDK's testpmd with net_vhost as the DPU's side: a back-end that was not written here."""

import contextlib
import os
import subprocess
import time


@contextlib.contextmanager
def running_testpmd(path, mode, log, queues=1, devargs=""):
    """Run testpmd with a vhost port that listens on `path`, forwarding in `mode`, until the block ends.

    log  file that takes what it prints
    """
    command = ["dpdk-testpmd", "--no-huge", "-m", "256", "--no-pci", "--no-telemetry"]
    cpu = min(os.sched_getaffinity(0))
    command += ["--lcores", f"0@{cpu},1@{cpu}", f"--file-prefix=libdpu{os.getpid()}"]
    command += ["--vdev", f"net_vhost0,iface={path},queues={queues}{devargs}", "--"]
    command += ["--auto-start", "--stats-period=1", f"--forward-mode={mode}", "--nb-cores=1"]
    command += ["--total-num-mbufs=16384", f"--rxq={queues}", f"--txq={queues}"]
    environment = os.environ | {"RUNTIME_DIRECTORY": str(log.parent)}  # where DPDK keeps what it leaves
    with (
        log.open("w") as out,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment
        ) as process,
    ):
        try:
            end = time.monotonic() + 60
            while not path.exists():
                assert process.poll() is None and time.monotonic() < end, log.read_text()[-2000:]
                time.sleep(0.02)
            yield process
        finally:
            process.kill()
            process.wait()
            path.unlink(missing_ok=True)

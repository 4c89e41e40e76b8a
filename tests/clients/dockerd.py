"""Docker's daemon in a network namespace, with an image that was never downloaded.

    with Dockerd(folder, netns) as docker:
        docker.cli("network", "create", "-d", "dpu1234", "--subnet", "10.9.0.0/24", "one")
        docker.run("web", "one", "/bin/nc", "-l", "-p", "80")

Out:  containers of busybox, on Debian's dockerd, containerd and runc, none of which touch the host's own.
      `address` is what DOCKER_HOST says to reach it.
Not:  bridges and iptables: dockerd is told to leave both alone.
"""

import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path

DOCKERD = "/usr/sbin/dockerd"
DOCKER = "/usr/bin/docker"  # Debian's; another one may be first in PATH
IMAGE = "busybox:test"
APPLETS = ("sh", "nc", "ping", "sleep", "ip", "cat", "true", "wc", "head", "timeout")
START_TIMEOUT_S = 30.0
END_TIMEOUT_S = 20.0
CLI_TIMEOUT_S = 60.0
MARK = "DPU_TEST_DOCKERD"  # environment variable that dockerd, containerd and the shims inherit


class Dockerd:
    """dockerd with all it keeps below `folder`, in network namespace `netns`, until `close`."""

    def __init__(self, folder, netns):
        self.folder = Path(folder)
        self.netns = netns
        self.log_path = self.folder / "dockerd.log"
        self.address = f"unix://{self.folder}/docker.sock"
        self._process = None
        self.start()
        self._import_image()

    def start(self):
        """Start dockerd and wait until it answers."""
        command = [DOCKERD, "--data-root", self.folder / "data", "--exec-root", self.folder / "exec"]
        command += ["--pidfile", self.folder / "dockerd.pid", "--host", self.address, "--bridge=none"]
        command += ["--iptables=false", "--ip6tables=false", "--ip-forward=false", "--storage-driver=vfs"]
        command += ["--exec-opt", "native.cgroupdriver=cgroupfs", "--default-ulimit", "nofile=20000:20000"]
        # SIGTERM when the test run dies: dockerd then ends its containers. `ip netns exec` hides the cgroups.
        wrap = ["setpriv", "--pdeathsig", "TERM", "nsenter", f"--net=/run/netns/{self.netns}"]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*wrap, *map(str, command)],
                env=os.environ | {MARK: str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + START_TIMEOUT_S
        while self.cli("version", check=False).returncode != 0:
            assert self._process.poll() is None and time.monotonic() < end, self.log()
            time.sleep(0.05)

    def cli(self, *words, check=True, timeout=CLI_TIMEOUT_S):
        """Run `docker WORDS` to its end; its output is text."""
        done = subprocess.run(
            [DOCKER, "--host", self.address, *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            env=os.environ | {"DOCKER_CONFIG": str(self.folder)},
        )
        assert done.returncode == 0 or not check, f"{words}: {done.stderr}\n{self.log()[-3000:]}"
        return done

    def run(self, name, network, *argv, options=(), **how):
        """Start a container in the background."""
        return self.cli("run", "-d", "--name", name, "--network", network, *options, IMAGE, *argv, **how)

    def inspect(self, name):
        """What dockerd says about a container."""
        return json.loads(self.cli("inspect", name).stdout)[0]

    def endpoint(self, name, network):
        """Address, MAC and so on of a container in a network."""
        return self.inspect(name)["NetworkSettings"]["Networks"][network]

    def log(self):
        """What dockerd wrote so far."""
        return self.log_path.read_text()

    def kill(self):
        """`kill -9` of dockerd, and so of containerd; its containers stay."""
        self._process.kill()
        self._process.wait(END_TIMEOUT_S)
        # An init that reaps late leaves a zombie, which dockerd would take for the containerd it had.
        (self.folder / "exec/containerd/containerd.pid").unlink(missing_ok=True)

    def stop(self):
        """End dockerd in order, and its containers."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(END_TIMEOUT_S)

    def close(self):
        """End whatever is left of it, and undo its mounts; twice is allowed."""
        if self._process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
        for pid in self._left():
            os.kill(pid, signal.SIGKILL)
        for _, place, *_ in map(str.split, reversed(Path("/proc/mounts").read_text().splitlines())):
            if place.startswith(f"{self.folder}/"):
                subprocess.run(["umount", "--lazy", place], check=False)
        shutil.rmtree(self.folder / "data", ignore_errors=True)
        shutil.rmtree(self.folder / "exec", ignore_errors=True)

    def _left(self):
        """Process numbers of containerd, of shims and of containers."""
        mark = f"{MARK}={self.folder}".encode()
        containers = [path.name for path in self.folder.glob("data/containers/*")]
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    cgroups = (entry / "cgroup").read_text()
                    if mark in (entry / "environ").read_bytes() or any(c in cgroups for c in containers):
                        found.append(int(entry.name))
                except OSError:  # it ended meanwhile
                    continue
        return found

    def _import_image(self):
        archive = self.folder / "image.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(shutil.which("busybox"), "bin/busybox")
            for applet in APPLETS:
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
        self.cli("import", archive, IMAGE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

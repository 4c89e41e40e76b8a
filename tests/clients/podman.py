"""podman with CNI, which this project did not write: containers of a busybox, on a host that is a namespace.

    with Podman(folder, host) as podman:
        podman.network("dpu", [{"type": "dpu-cni", ...}])
        web = podman.run("web", "dpu", "nc", "-ll", "-p", "80", "-e", "cat")

In:   a folder for all of its state, whose path podman wants short, so it shares nothing with a podman of the
      user; a namespace.
Out:  containers, each in a namespace that podman makes. `close` removes them, and what runc left of them.
      `variables` of the environment, with which any `podman` is this one.
Spec: podman 4.3, "podman-run"; containers.conf(5).
Not:  crun, which refuses cgroups of both versions side by side; images of a registry; systemd.
"""

import contextlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

REFERENCE_PLUGINS = "/usr/lib/cni"
IMAGE = "localhost/busybox:latest"
TIMEOUT_S = 60
UMOUNT_TRIES_MAX = 20
APPLETS = ("sh", "sleep", "nc", "ping", "ip", "cat", "echo", "timeout")
# Root may not raise its limits everywhere: what podman asks for by default can be more.
_CONF = """[network]
network_backend = "cni"
cni_plugin_dirs = [{plugins}]
network_config_dir = {networks}
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
events_logger = "file"
static_dir = {static_dir}
tmp_dir = {tmp_dir}
volume_path = {volume_path}
"""
_STORAGE = """[storage]
driver = "overlay"
graphroot = {graphroot}
runroot = {runroot}
"""


class PodmanError(Exception):
    """A command of podman failed; the text is what it printed."""


class Podman:
    """One podman installation. `plugins` are folders with CNI plugins, before the reference ones."""

    def __init__(self, folder, host, plugins=()):
        self.folder = Path(folder)
        self._host = host
        self._names = []
        for name in ("root", "run", "tmp", "cni"):
            (self.folder / name).mkdir(parents=True)
        self.variables = {
            "CONTAINERS_CONF": self._file("containers.conf", self._conf(plugins)),
            "CONTAINERS_STORAGE_CONF": self._file(
                "storage.conf", _STORAGE.format(graphroot=self._quoted("root"), runroot=self._quoted("run"))
            ),
        }
        try:
            self.command("import", "-", IMAGE, input=_image())
        except BaseException:
            self.close()
            raise

    def _conf(self, plugins):
        return _CONF.format(
            plugins=", ".join(json.dumps(str(plugin)) for plugin in (*plugins, REFERENCE_PLUGINS)),
            networks=self._quoted("cni"),
            static_dir=self._quoted("root/libpod"),
            tmp_dir=self._quoted("tmp"),
            volume_path=self._quoted("root/volumes"),
        )

    def _quoted(self, name):
        return json.dumps(str(self.folder / name))

    def _file(self, name, text):
        (self.folder / name).write_text(text)
        return str(self.folder / name)

    def command(self, *words, check=True, timeout_s=TIMEOUT_S, **options):
        """Run `podman WORDS` to its end on the host; returns the finished process."""
        inside = ["nsenter", f"--net=/run/netns/{self._host}"]
        done = subprocess.run(
            [*inside, "podman", *map(str, words)],
            env=os.environ | self.variables,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            **options,
        )
        if check and done.returncode:
            raise PodmanError(
                f"podman {' '.join(map(str, words))}: exit {done.returncode}\n{done.stderr.decode()}"
            )
        return done

    def network(self, name, plugins, version="1.0.0"):
        """Write a CNI network."""
        text = json.dumps({"cniVersion": version, "name": name, "plugins": plugins})
        (self.folder / "cni" / f"{name}.conflist").write_text(text)

    def run(self, name, network, *argv, options=()):
        """Start a container in the background; returns its name."""
        self._names.append(name)
        self.command("run", "-d", "--name", name, "--network", network, *options, IMAGE, *argv)
        return name

    def execute(self, name, *argv, check=True, **options):
        """Run a command in a container; returns the finished process."""
        return self.command(
            "exec", *(["-i"] if "input" in options else []), name, *argv, check=check, **options
        )

    def inspect(self, name):
        """What podman knows of a container."""
        return json.loads(self.command("inspect", name).stdout)[0]

    def address(self, name, network):
        """A container's IPv4 address."""
        return self.inspect(name)["NetworkSettings"]["Networks"][network]["IPAddress"]

    def pid(self, name):
        """Process number of a container's program."""
        return self.inspect(name)["State"]["Pid"]

    def close(self):
        """Remove every container, and the mounts; twice is allowed."""
        with contextlib.suppress(PodmanError, subprocess.TimeoutExpired):
            self.command("rm", "-f", "-a", "-t", "0")
        for _ in range(UMOUNT_TRIES_MAX):
            mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
            below = [mount for mount in mounts if mount.startswith(f"{self.folder}/")]
            if not below:
                break
            for mount in reversed(below):
                subprocess.run(["umount", "-l", mount], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _image():
    """A root file system with busybox in it, as an archive."""
    archive = io.BytesIO()
    busybox = Path(shutil.which("busybox")).read_bytes()
    with tarfile.open(fileobj=archive, mode="w") as tar:

        def add(name, kind, data=b"", link=""):
            entry = tarfile.TarInfo(name)
            entry.type, entry.size, entry.linkname = kind, len(data), link
            entry.mode = 0o755
            tar.addfile(entry, io.BytesIO(data))

        for folder in ("bin", "etc", "proc", "sys", "dev", "tmp"):
            add(folder, tarfile.DIRTYPE)
        add("bin/busybox", tarfile.REGTYPE, busybox)
        for applet in APPLETS:
            add(f"bin/{applet}", tarfile.SYMTYPE, link="busybox")
        add("etc/passwd", tarfile.REGTYPE, b"root:x:0:0:root:/:/bin/sh\n")
    return archive.getvalue()

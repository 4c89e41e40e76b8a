"""Kernel and initrd of the guest: Debian's cloud kernel, busybox, iperf3 and ethtool; made once, then cached.

In:   the kernel's package from Debian's archive, unpacked but not installed; programs of this host.
Out:  two files, below the folder of the machine code's cache.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from dpu_runtime.kernels.compile.cache import cache_base

KERNEL_METAPACKAGE = "linux-image-cloud-amd64"
MODULES = ("virtio_pci", "virtio_net")
PROGRAMS = ("busybox", "ethtool", "iperf3")
DOWNLOAD_TIMEOUT_S = 120
INIT = Path(__file__).with_name("guest_init.sh")


def _run(*argv, cwd=None):
    """Run a command to its end, returns its output; RuntimeError with that output when it fails."""
    done = subprocess.run(
        list(map(str, argv)),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=DOWNLOAD_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, argv))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def _kernel_package():
    """Name of the package that the meta-package stands for now."""
    return re.search(r"Depends: (linux-image-\S+)", _run("apt-cache", "depends", KERNEL_METAPACKAGE))[1]


def _unpacked_kernel(folder):
    """Folder with the kernel's package in it; any that was downloaded before will do."""
    for known in sorted(folder.glob("linux-image-*")):
        return known
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as work:
        try:
            package = _kernel_package()
            _run("apt-get", "-qq", "download", package, cwd=work)
        except RuntimeError:  # this machine's lists of packages are old, or there are none
            _run("apt-get", "-qq", "update")
            package = _kernel_package()
            _run("apt-get", "-qq", "download", package, cwd=work)
        (archive,) = Path(work).glob("*.deb")
        root = Path(work, "root")
        _run("dpkg-deb", "-x", archive, root)
        (version,) = (path.name for path in (root / "lib/modules").iterdir())
        _run("depmod", "-b", root, version)
        return root.rename(folder / package)


def _module_files(kernel, version):
    """Files of MODULES and of what they need, in the order in which they are loaded."""
    files = []
    for module in MODULES:
        shown = _run("modprobe", "-d", kernel, "-S", version, "--show-depends", module)
        files += [Path(line.split()[1]) for line in shown.splitlines() if line.startswith("insmod ")]
    return list(dict.fromkeys(files))


def _libraries(program):
    """Shared libraries that a program needs, its loader among them."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)  # 1: static
    return [Path(path) for path in re.findall(r"(/\S+) \(0x", done.stdout)]


def _contents(kernel, version):
    """Path in the guest -> file of this host."""
    files = {"init": INIT}
    for name in PROGRAMS:
        path = shutil.which(name)
        if path is None:
            raise RuntimeError(f"the guest needs {name} of this host: make setup")
        files[f"bin/{name}"] = Path(path)
        files |= {str(library).lstrip("/"): library for library in _libraries(path)}
    modules = _module_files(kernel, version)
    return files | {f"modules/{number:02}-{path.name}": path for number, path in enumerate(modules)}


def _digest(contents):
    """Hash over what goes into an initrd: 16 hex digits."""
    digest = hashlib.sha256()
    for place, path in sorted(contents.items()):
        digest.update(place.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _write_initrd(contents, path):
    """Archive of `contents`, with busybox under each of its names."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".new-") as work:
        root = Path(work, "root")
        for folder in ("bin", "proc", "sys", "dev", "tmp"):
            (root / folder).mkdir(parents=True)
        for place, source in contents.items():
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, root / place)
        (root / "init").chmod(0o755)
        for name in _run("busybox", "--list").split():
            with contextlib.suppress(FileExistsError):  # those of PROGRAMS stay
                (root / "bin" / name).symlink_to("busybox")
        names = "\n".join(str(p.relative_to(root)) for p in [root, *sorted(root.rglob("*"))])
        archive = Path(work, "initrd")
        with archive.open("wb") as out:
            subprocess.run(
                ["cpio", "--create", "--format=newc", "--quiet"],
                cwd=root,
                input=names.encode(),
                stdout=out,
                check=True,
            )
        archive.rename(path)


def guest_image():
    """Paths of the kernel and of the initrd; RuntimeError when one cannot be made."""
    folder = cache_base() / "guest"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.utime(folder)  # in use, so kept when the cache is cleared
        kernel = _unpacked_kernel(folder)
        (image,) = kernel.glob("boot/vmlinuz-*")
        version = image.name.removeprefix("vmlinuz-")
        contents = _contents(kernel, version)
        initrd = folder / f"initrd-{_digest(contents)}"
        if not initrd.exists():
            for old in folder.glob("initrd-*"):
                old.unlink()
            _write_initrd(contents, initrd)
        return image, initrd

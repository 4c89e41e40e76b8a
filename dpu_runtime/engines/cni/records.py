"""What this host's containers were given, so that it can be taken back whatever died meanwhile.

In:   dataDir of the network. Out: one small file an attachment, `dataDir/NETWORK/CONTAINER:IFNAME`, written
      before anything is taken and removed when all of it was given back; a reboot leaves it.
Not:  ports: the daemon keeps those, with their owner. A lease of host-local whose runtime forgot the
      container is found by this file only.
"""

import contextlib
import fcntl
import json
import os

from dpu_runtime.engines.cni.errors import IO_FAILURE, CniError

# No container's files: its ID begins with a letter or digit.
_LOCK = ".lock"
_NEW = ".new-"


class Records:
    """The records of one network. Every call raises CniError 5 when the file system refuses."""

    def __init__(self, data_dir, network):
        self._folder = os.path.join(data_dir, network)

    def write(self, containerid, ifname, port_mappings):
        """Note an attachment, and the port mappings it asks for."""
        path = self._path(containerid, ifname)
        with _refusals():
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            new = os.path.join(self._folder, f"{_NEW}{containerid}:{ifname}")
            with open(new, "w", encoding="utf-8") as file:
                json.dump({"portMappings": port_mappings}, file)
            os.replace(new, path)

    def port_mappings(self, containerid, ifname):
        """Port mappings of an attachment; None if it has no record, [] if that cannot be read."""
        try:
            with open(self._path(containerid, ifname), encoding="utf-8") as file:
                return list(json.load(file)["portMappings"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def remove(self, containerid, ifname):
        """Forget an attachment; twice is allowed."""
        with _refusals(), contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(containerid, ifname))

    def attachments(self):
        """Set of (container ID, interface name)."""
        with _refusals():
            try:
                names = os.listdir(self._folder)
            except FileNotFoundError:
                return set()
        pairs = (name.partition(":") for name in names)
        return {(left, right) for left, colon, right in pairs if colon and not left.startswith(".")}

    @contextlib.contextmanager
    def lock(self):
        """Be the only one who counts this network's attachments."""
        with _refusals():
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            lock = os.open(os.path.join(self._folder, _LOCK), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _path(self, containerid, ifname):
        return os.path.join(self._folder, f"{containerid}:{ifname}")


@contextlib.contextmanager
def _refusals():
    try:
        yield
    except OSError as error:
        raise CniError(IO_FAILURE, f"{error.filename}: {error.strerror}") from None

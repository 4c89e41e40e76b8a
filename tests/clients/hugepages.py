"""2 MB huge pages for DPDK programs: as many as are asked for, and those of the host's own again afterwards.

In:   a number of pages. Out: that many free ones while the context lasts.
Not:  a hugetlbfs mount: programs started with `--in-memory` get their pages by memfd_create(2).
"""

import contextlib
import fcntl
from pathlib import Path

PAGE_BYTES = 2 << 20
_FOLDER = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
_LOCK = Path("/run/lock/dpu-test-hugepages")
_CHANGES = Path("/run/lock/dpu-test-hugepages.changes")  # held by whoever changes the number


def _read(name):
    return int((_FOLDER / name).read_text())


def _set_pages(number):
    (_FOLDER / "nr_hugepages").write_text(str(number))


def _write(file, text):
    file.truncate(0)
    file.write(str(text))
    file.flush()


@contextlib.contextmanager
def hugepages(pages):
    """Have at least `pages` huge pages free; RuntimeError when the kernel finds no room.

    Everybody who uses pages shares a lock. Whoever can have it alone in the end was the last, and puts the
    number back that the host had, which is in the file.
    """
    with _LOCK.open("a+") as users, _CHANGES.open("a") as changes:
        fcntl.flock(changes, fcntl.LOCK_EX)
        fcntl.flock(users, fcntl.LOCK_SH)
        users.seek(0)
        before = int(users.read() or _read("nr_hugepages"))
        _write(users, before)
        missing = pages - (_read("free_hugepages") - _read("resv_hugepages"))
        if missing > 0:
            _set_pages(_read("nr_hugepages") + missing)
        fcntl.flock(changes, fcntl.LOCK_UN)
        try:
            if (free := _read("free_hugepages")) < pages:
                raise RuntimeError(f"{pages} free huge pages of 2 MB are needed, the kernel found {free}")
            yield
        finally:
            fcntl.flock(changes, fcntl.LOCK_EX)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _set_pages(before)
                _write(users, "")

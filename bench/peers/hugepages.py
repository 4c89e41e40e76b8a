"""Huge pages for DPDK programs: as many 2 MB pages free as they need, for as long as they run.

Spec: Linux, Documentation/admin-guide/mm/hugetlbpage.rst.
In:   megabytes. Out: that many free while the context lasts, and the host's own number afterwards.
Not:  no mount of hugetlbfs: with `--in-memory` DPDK takes its pages by memfd_create(2).

Several programs may ask at once, benches and tests. All users share a lock, whose file has the host's number.
The last one puts that number back.
"""

import contextlib
import fcntl
from pathlib import Path

PAGE_MB = 2
POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
USERS = Path("/run/lock/dpu-hugepages")
_CHANGES = Path("/run/lock/dpu-hugepages.changes")  # held by whoever changes the number


def read(name):
    """A number of the pool."""
    return int((POOL / name).read_text())


def _set_pages(number):
    (POOL / "nr_hugepages").write_text(str(number))


def _alone(users):
    """Whether nobody else has pages; `users` then is locked for this one alone."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _take(users, pages):
    """Have `pages` more than others may count on; returns (the host's own number, how many were added)."""
    free = read("free_hugepages") - read("resv_hugepages") if _alone(users) else 0
    fcntl.flock(users, fcntl.LOCK_SH)
    users.seek(0)
    before, missing = int(users.read() or read("nr_hugepages")), max(0, pages - free)
    _write(users, before)
    if missing:
        _set_pages(read("nr_hugepages") + missing)
    return before, missing


def _give_back(users, before, added):
    if _alone(users):
        _set_pages(before)
        _write(users, "")
    elif added:
        _set_pages(max(before, read("nr_hugepages") - added))


def _write(file, text):
    file.truncate(0)
    file.write(str(text))
    file.flush()


@contextlib.contextmanager
def hugepages(megabytes):
    """Have `megabytes` in free huge pages. Raises RuntimeError when the kernel finds no room for them."""
    pages = -(-megabytes // PAGE_MB)
    with USERS.open("a+") as users, _CHANGES.open("a") as changes:
        fcntl.flock(changes, fcntl.LOCK_EX)
        before, added = _take(users, pages)
        free = read("free_hugepages")
        fcntl.flock(changes, fcntl.LOCK_UN)
        try:
            if free < pages:
                raise RuntimeError(f"{free} huge pages of {PAGE_MB} MB are free, {pages} are needed")
            yield
        finally:
            fcntl.flock(changes, fcntl.LOCK_EX)
            _give_back(users, before, added)

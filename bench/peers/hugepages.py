"""Huge pages for DPDK programs: as many 2 MB pages free as they need, for as long as they run.

Spec: Linux, Documentation/admin-guide/mm/hugetlbpage.rst.
Not:  no mount of hugetlbfs: with `--in-memory` DPDK takes its pages by memfd_create(2).
"""

import contextlib
from pathlib import Path

PAGE_MB = 2
_POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")


def _read(name):
    return int((_POOL / name).read_text())


@contextlib.contextmanager
def hugepages(megabytes):
    """Have `megabytes` in free huge pages; the pool's size is afterwards what it was.

    Raises RuntimeError when the machine has not that much contiguous memory.
    """
    before = _read("nr_hugepages")
    needed = -(-megabytes // PAGE_MB)
    missing = max(0, needed - _read("free_hugepages"))
    try:
        if missing:
            (_POOL / "nr_hugepages").write_text(str(before + missing))
        if (free := _read("free_hugepages")) < needed:
            raise RuntimeError(f"{free} huge pages of {PAGE_MB} MB are free, {needed} are needed")
        yield
    finally:
        if missing:
            (_POOL / "nr_hugepages").write_text(str(before))

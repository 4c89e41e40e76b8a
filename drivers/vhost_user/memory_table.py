"""Guest memory as the front-end shares it: regions, and what may be one.

Spec: vhost-user "Memory access", "Memory regions description".
Not:  mapping it; the data plane does.
"""

import fcntl
import os
import stat
from typing import NamedTuple

from dpu_runtime.drivers.vhost_user.errors import MessageError
from dpu_runtime.drivers.vhost_user.layout import REGIONS_MAX

ADDRESS_END = 1 << 64
FILE_END = 1 << 63  # off_t


class Region(NamedTuple):
    """One region; `token` names the descriptor of its file."""

    guest: int  # guest physical address
    size: int  # octets
    user: int  # address in the front-end
    offset: int  # in the file
    token: int | None

    def __str__(self):
        return f"region guest {self.guest:#x} user {self.user:#x} size {self.size:#x}"


def check_file(fd, offset, size, what):
    """Refuse an area of `fd` that could not be mapped, or read without SIGBUS. Raises MessageError."""
    if size == 0:
        raise MessageError(f"{what}: its size is 0")
    if offset + size > FILE_END:
        raise MessageError(f"{what}: offset {offset:#x} and its size pass the end of any file")
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise MessageError(f"{what}: its descriptor is no file of memory (memfd, shm, hugetlbfs)")
    if offset + size > found.st_size:
        end = offset + size
        raise MessageError(f"{what}: ends at {end:#x} of a file of {found.st_size:#x} octets")
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDWR:
        raise MessageError(f"{what}: its descriptor is not open for reading and writing")


def _overlap(a_begin, a_size, b_begin, b_size):
    return a_begin < b_begin + b_size and b_begin < a_begin + a_size


def add_region(regions, region, fd):
    """`regions` and one more, whose file is `fd`. Raises MessageError."""
    if len(regions) >= REGIONS_MAX:
        raise MessageError(f"{region}: there are {REGIONS_MAX} already")
    check_file(fd, region.offset, region.size, str(region))
    if region.guest + region.size > ADDRESS_END or region.user + region.size > ADDRESS_END:
        raise MessageError(f"{region}: passes the end of the address space")
    for other in regions:
        if _overlap(region.guest, region.size, other.guest, other.size):
            raise MessageError(f"{region}: overlaps {other} in guest addresses")
        if _overlap(region.user, region.size, other.user, other.size):
            raise MessageError(f"{region}: overlaps {other} in user addresses")
    return [*regions, region]


def remove_region(regions, region):
    """`regions` without the one of this guest address, user address and size. Raises MessageError."""
    left = [other for other in regions if other[:3] != region[:3]]
    if len(left) == len(regions):
        raise MessageError(f"{region}: there is no such region")
    return left


def check_user_area(regions, address, size, what):
    """Refuse an area that is not inside one region. Raises MessageError."""
    for region in regions:
        if region.user <= address and address + size <= region.user + region.size:
            return
    raise MessageError(f"{what} at user {address:#x}, {size} octets: not inside one memory region")

"""bpf(2), which Python has no name for.

Spec: linux/bpf.h.
Not:  programs; each driver has its own.
"""

import ctypes
import os
import struct

_SYS_BPF = {"x86_64": 321, "aarch64": 280}.get(os.uname().machine, -1)  # -1 is refused with ENOSYS
_ATTR_BYTES = 128  # of union bpf_attr; what is behind the fields used is zero

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


class BpfError(OSError):
    """bpf(2) refused; `log` is what the verifier says."""

    def __init__(self, errno_, log=""):
        super().__init__(errno_, os.strerror(errno_) + (f"; verifier: {log}" if log else ""))
        self.log = log


def attributes(*fields):
    """A `union bpf_attr`; the fields are arguments of `struct.pack`."""
    return ctypes.create_string_buffer(struct.pack(*fields), _ATTR_BYTES)


def bpf(command, attr, log=None):
    """Make the call; returns its result, or raises BpfError with what is in the buffer `log`."""
    result = _syscall(_SYS_BPF, command, attr, _ATTR_BYTES)
    if result < 0:
        raise BpfError(ctypes.get_errno(), log.value.decode(errors="replace").strip() if log else "")
    return result

"""The host program's side of a port, in Python: see dpu_runtime/host/port.py."""

from dpu_runtime.host import port as _port
from dpu_runtime.host.port import *  # noqa: F403

__all__ = _port.__all__

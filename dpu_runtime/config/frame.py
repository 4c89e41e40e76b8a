"""The frame's own keys of `[runtime]` and of every `[[port]]`; functions join theirs to them in models.py.

Not:  keys that only ports of one kind have.
"""

import os
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from dpu_runtime.config import types
from dpu_runtime.config.model import Keys
from dpu_runtime.config.places import DEFAULT_STATE_DIR
from dpu_runtime.config.types import Allowed, Cli
from dpu_runtime.drivers.af_xdp.layout import BURST_FRAMES, FRAME_BYTES, FRAMES_MAX, QUEUE_FRAMES
from dpu_runtime.kernels.layout import WORKERS_MAX

XDP_FRAMES_MIN = QUEUE_FRAMES + BURST_FRAMES
# what ports of one kind have besides, models.py: a function cannot have a key of such a name
KIND_KEYS = (
    *("netns", "ifname", "address", "route"),
    *("socket", "client", "socket_mode", "socket_group", "xconnect"),
    *("promiscuous", "accept_default_route", "qdisc", "blocks", "xdp_mode", "busy_poll"),
)


def machine_cpus():
    """Numbers of the CPUs that are online."""
    try:
        text = Path("/sys/devices/system/cpu/online").read_text().strip()
    except OSError:
        return list(range(os.cpu_count() or 1))
    ranges = [part.partition("-") for part in text.split(",")]
    return [cpu for low, _, high in ranges for cpu in range(int(low), int(high or low) + 1)]


def default_workers():
    """All CPUs but the first, which stays for the control process and the containers."""
    cpus = machine_cpus()
    return cpus[1 : WORKERS_MAX + 1] or cpus


class RuntimeKeys(Keys):
    """`[runtime]`: the daemon and its workers.

    All of it stays as it is while the daemon runs, but for keys of functions that say otherwise.
    """

    socket: types.SocketPath = Field("/run/dpu/dpu.sock", description="Unix socket of the API, mode 0660")
    state_dir: types.AbsolutePath = Field(
        DEFAULT_STATE_DIR,
        description="folder of the lock and of what outlives the daemon, one a daemon; see what-stays.md",
    )
    workers: Annotated[list[int], Allowed("numbers of CPUs of this machine, each once")] = Field(
        default_factory=default_workers,
        description="CPUs that run a worker each; default: all but the first",
    )
    standby: bool = Field(True, description="keep a second, warm data-plane process for a fast take-over")
    idle_spin_us: Annotated[int, Field(ge=0, le=1000), Allowed("0..1000 microseconds")] = Field(
        20, description="how long a worker without packets polls before it sleeps"
    )
    xdp_frames: Annotated[
        int, Field(ge=XDP_FRAMES_MIN, le=FRAMES_MAX), Allowed(f"{XDP_FRAMES_MIN}..{FRAMES_MAX} frames")
    ] = Field(
        32768,
        description=f"frames of {FRAME_BYTES} octets that all af_xdp ports share, {QUEUE_FRAMES} a queue;"
        " locked in memory while there is such a port",
    )
    perf_map: bool = Field(
        False,
        description="write /tmp/perf-PID.map for the data plane: perf then knows its machine code by name;"
        " see profiling.md",
    )

    @field_validator("workers")
    @classmethod
    def _workers_exist(cls, workers):
        cpus = machine_cpus()
        if not workers:
            raise ValueError("no worker")
        if len(set(workers)) != len(workers):
            raise ValueError("names a CPU twice")
        if len(workers) > WORKERS_MAX:
            raise ValueError(f"more than {WORKERS_MAX} workers")
        missing = [cpu for cpu in workers if cpu not in cpus]
        if missing:
            raise ValueError(f"no CPU {missing[0]}, this machine has {', '.join(map(str, cpus))}")
        return workers


class PortKeys(Keys):
    """`[[port]]`: what ports of every kind have."""

    BEFORE: ClassVar[str] = "owner"

    name: Annotated[types.PortName, Cli("NAME", positional=True)] = Field(
        description="name of the port, unique"
    )
    kind: str = Field(description="kind of the port")
    mac: types.MacAddress = Field(
        default_factory=lambda data: types.derived_mac(data.get("name", "")),
        description="MAC address of the attached side; default: made from the port's name",
    )
    mtu: Annotated[int, Field(ge=68, le=65535), Allowed("68..65535 octets")] = Field(
        1500, description="largest layer 3 packet"
    )
    queues: Annotated[int, Field(ge=1, le=WORKERS_MAX), Allowed("1 to the number of workers")] | None = Field(
        None, description="queue pairs; default: one a worker"
    )
    verify_checksum: bool = Field(False, description="verify the checksums of packets that come in here")
    offload: bool = Field(True, description="offload checksums and segmentation with the attached side")
    gro: bool = Field(True, description="merge TCP segments that come in one by one")
    owner: types.Owner | None = Field(
        None,
        description="who made the port at run time, such as `attach` or a container engine; such a port"
        " goes when its container does, `dpu apply` leaves it alone, and a file cannot have one",
    )

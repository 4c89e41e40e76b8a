"""A host program's side of a port: libdpu with numpy arrays.

    with dpu_runtime.host.open("/run/dpu/web.sock") as port:
        port.send(frame)
        answer = port.recv(timeout=1.0)

Three ways to move packets, from the most convenient to the fastest; all on the same rings:

send, recv             octets, one packet a call, copied
rx_burst, tx_burst     `Packet` objects: numpy views of the octets where they lie, no copy
*_batch                arrays of handles, for numba and for numpy at large; see `bufs` and `memory`

A handle is the address of a `struct dpu_buf` (drivers/host/dpu.h); `rows(handles)` are its rows in `bufs`.
Threads: a queue belongs to one thread at a time; calls let other threads run.
Lifetime: a packet's octets are its holder's from alloc or rx_burst until tx_burst or free. Views of `memory`
and `bufs` keep the memory mapped, also after close.
"""

import enum
import itertools
import operator
import time

import numpy as np

try:
    from dpu_runtime.drivers.host._libdpu import ffi, lib
except ImportError as error:
    raise ImportError(
        "libdpu is not built: `make setup`, or `python -m dpu_runtime.drivers.host.build_host`"
    ) from error

from dpu_runtime.host.packet import BUF_DTYPE, DATA_VALID, NEEDS_CSUM, Packet

__all__ = [
    "ALL_QUEUES",
    "BUF_DTYPE",
    "BURST_MAX",
    "DATA_VALID",
    "NEEDS_CSUM",
    "DpuError",
    "Error",
    "Offload",
    "Packet",
    "Port",
    "open",
]

assert ffi.sizeof("struct dpu_buf") == BUF_DTYPE.itemsize

BURST_MAX = 256  # packets a call of rx_burst takes at most
ALL_QUEUES = lib.DPU_ALL_QUEUES
_OPTIONS = {name for name, _ in ffi.typeof("struct dpu_options").fields} - {"size"}
_STATS = [name for name, _ in ffi.typeof("struct dpu_stats").fields]
_INFO = ("buf_count", "buf_size", "queues", "ring_size", "page_bytes", "protocol_features")


class Offload(enum.IntFlag):
    """`offloads` of open: what the port is asked for; `features` says what it got."""

    TX_CSUM = lib.DPU_OFFLOAD_TX_CSUM
    TX_TSO = lib.DPU_OFFLOAD_TX_TSO
    TX_USO = lib.DPU_OFFLOAD_TX_USO
    RX_CSUM = lib.DPU_OFFLOAD_RX_CSUM
    RX_TSO = lib.DPU_OFFLOAD_RX_TSO
    RX_USO = lib.DPU_OFFLOAD_RX_USO
    ALL = lib.DPU_OFFLOAD_ALL


class Error(enum.IntEnum):
    """Codes of `DpuError`; drivers/host/dpu.h says what each means."""

    EINVAL = lib.DPU_EINVAL
    ENOMEM = lib.DPU_ENOMEM
    ECONNECT = lib.DPU_ECONNECT
    ELINK = lib.DPU_ELINK
    EPROTO = lib.DPU_EPROTO
    ETIMEOUT = lib.DPU_ETIMEOUT
    EREFUSED = lib.DPU_EREFUSED
    EFEATURE = lib.DPU_EFEATURE
    ECLOSED = lib.DPU_ECLOSED
    ESYSTEM = lib.DPU_ESYSTEM


class DpuError(Exception):
    """A call failed: `code` says how, `text` why. After ELINK and EPROTO the next calls reconnect."""

    def __init__(self, code, text=""):
        self.code = Error(code)
        self.text = text
        general = ffi.string(lib.dpu_strerror(code)).decode()
        super().__init__(f"{general}: {text}" if text else general)


def open(path, **options):
    """Open the port behind the vhost-user socket `path`; options are those of `struct dpu_options`.

    Raises DpuError: nobody listens, or the other side breaks the protocol; TypeError: no such option.
    """
    chosen = ffi.new("struct dpu_options *")
    lib.dpu_options_init(chosen)
    for name, value in options.items():
        if name not in _OPTIONS:
            raise TypeError(f"{name!r} is no option of a port; these are: {', '.join(sorted(_OPTIONS))}")
        setattr(chosen, name, operator.index(value))
    made = ffi.new("struct dpu_port **")
    code = lib.dpu_open(str(path).encode(), chosen, made)
    if code:
        raise DpuError(code, ffi.string(lib.dpu_error_text(ffi.NULL)).decode())
    return Port(ffi.gc(made[0], lib.dpu_close))


def _array(owner, address, dtype, count):
    """Array over memory of the library; keeps `owner` alive."""
    # The destructor does nothing but hold the port: the memory is there as long as an array is.
    held = ffi.gc(ffi.cast("uint8_t *", address), lambda _, owner=owner: None)
    return np.frombuffer(ffi.buffer(held, count * dtype.itemsize), dtype, count)


class Port:
    """An open port. `open` makes it.

    memory  uint8[octets]          shared with the DPU: rings, and the octets of all packets
    bufs    BUF_DTYPE[buf_count]   `struct dpu_buf`, the library's and the holders' words on each buffer
    info    dict                   what was made of the options
    """

    def __init__(self, handle):
        self._port = handle
        info = ffi.new("struct dpu_info *")
        lib.dpu_get_info(handle, info)
        self.info = {name: getattr(info, name) for name in _INFO}
        self.memory = _array(handle, info.memory, np.dtype(np.uint8), info.memory_bytes)
        self.bufs = _array(handle, info.bufs, BUF_DTYPE, info.buf_count)
        self._memory_address = int(ffi.cast("uintptr_t", info.memory))
        self._bufs_address = int(ffi.cast("uintptr_t", info.bufs))

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def close(self):
        """End the connection; twice is allowed. The memory goes with the last array that shows it."""
        lib.dpu_shutdown(self._port)

    @property
    def address(self):
        """Address of the `struct dpu_port`, for compiled code that calls the library itself."""
        return int(ffi.cast("uintptr_t", self._port))

    @property
    def link(self):
        """Whether the DPU is there."""
        return bool(lib.dpu_link_state(self._port))

    @property
    def features(self):
        """Negotiated feature bits, virtio 1.2 5.1.3 and 6; may change with a reconnection."""
        return lib.dpu_features(self._port)

    def stats(self, queue=ALL_QUEUES):
        """Counters of a queue or of all, by the names of `struct dpu_stats`."""
        counters = ffi.new("struct dpu_stats *")
        self._checked(lib.dpu_get_stats(self._port, queue, counters))
        return {name: getattr(counters, name) for name in _STATS}

    def wait(self, timeout=None, queue=0):
        """Sleep until a packet can be received, at most `timeout` seconds (None: for ever); True if one can.

        Raises DpuError: ELINK when the link goes down, or is still down when the time is over.
        """
        return bool(self._checked(lib.dpu_wait(self._port, queue, _microseconds(timeout))))

    def wait_tx(self, timeout=None, queue=0):
        """The same, until half of the transmit ring is free."""
        return bool(self._checked(lib.dpu_wait_tx(self._port, queue, _microseconds(timeout))))

    # -- packets ---------------------------------------------------------------------------------

    def alloc(self, count=1, queue=0):
        """Take up to `count` empty packets; fewer, or none, when the pool is empty."""
        handles = np.empty(count, np.uint64)
        return self._packets(handles[: self.alloc_batch(handles, queue)])

    def rx_burst(self, count=32, queue=0):
        """Receive up to `count` packets (BURST_MAX at most), as a list of `Packet`."""
        handles = np.empty(min(count, BURST_MAX), np.uint64)
        return self._packets(handles[: self.rx_batch(handles, queue)])

    def tx_burst(self, packets, queue=0):
        """Send packets; returns how many were taken, from the first on. Those are not to be touched again."""
        handles = np.fromiter((p.handle for p in packets), np.uint64, len(packets))
        taken = self.tx_batch(handles, queue)
        for packet in packets[:taken]:
            packet.release()
        return taken

    def free(self, packets, queue=0):
        """Give packets back unsent."""
        self.free_batch(np.fromiter((p.handle for p in packets), np.uint64, len(packets)), queue)
        for packet in packets:
            packet.release()

    def send(self, octets, queue=0, timeout=None, **offload):
        """Send a copy of one frame; False if there was no room for `timeout` seconds (None: for ever).

        offload  csum_start and csum_offset (the checksum is owed), gso_type, gso_size, hdr_len: octets from
                 the frame's start, and virtio 1.2 5.1.6 for their meaning
        """
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            packet = self._filled(octets, queue, offload)
            if packet is not None and self._sent(packet, queue):
                return True
            left = None if end is None else max(0.0, end - time.monotonic())
            if left == 0.0 or not self.wait_tx(left, queue):
                return False

    def recv(self, timeout=None, queue=0):
        """One received frame as octets, or None after `timeout` seconds (None: wait for ever)."""
        while True:
            packets = self.rx_burst(1, queue)
            if packets:
                octets = packets[0].octets()
                self.free(packets, queue)
                return octets
            if not self.wait(timeout, queue):
                return None

    # -- batches ---------------------------------------------------------------------------------

    def alloc_batch(self, handles, queue=0):
        """Fill `handles: uint64[n]` with empty buffers; returns how many there were."""
        return self._checked(lib.dpu_buf_alloc(self._port, queue, _pointers(handles), len(handles)))

    def rx_batch(self, handles, queue=0):
        """Fill `handles: uint64[n]` with received packets; returns how many. Raises DpuError (ELINK)."""
        return self._checked(lib.dpu_rx_burst(self._port, queue, _pointers(handles), len(handles)))

    def tx_batch(self, handles, queue=0):
        """Send the packets of `handles: uint64[n]`; returns how many were taken. Raises DpuError (ELINK)."""
        return self._checked(lib.dpu_tx_burst(self._port, queue, _pointers(handles), len(handles)))

    def free_batch(self, handles, queue=0):
        """Give the packets of `handles: uint64[n]` back."""
        lib.dpu_buf_free(self._port, queue, _pointers(handles), len(handles))

    def rows(self, handles):
        """Rows of `bufs`, int64[n], of these handles."""
        return ((handles - np.uint64(self._bufs_address)) // np.uint64(BUF_DTYPE.itemsize)).astype(np.int64)

    def handles(self, rows):
        """Handles, uint64[n], of these rows of `bufs`."""
        return np.asarray(rows, np.uint64) * np.uint64(BUF_DTYPE.itemsize) + np.uint64(self._bufs_address)

    def offsets(self, rows):
        """Where the octets of these rows begin in `memory`, int64[n]."""
        return (self.bufs["data"][rows] - np.uint64(self._memory_address)).astype(np.int64)

    # -- within ----------------------------------------------------------------------------------

    def _checked(self, result):
        if result < 0:
            raise DpuError(result, ffi.string(lib.dpu_error_text(self._port)).decode())
        return result

    def _packets(self, handles):
        return [Packet(self, int(row)) for row in self.rows(handles)]

    def _sent(self, packet, queue):
        """Whether the ring took it; if not it is freed."""
        taken = 0
        try:
            taken = self.tx_burst([packet], queue)
        finally:
            if not taken:
                self.free([packet], queue)
        return taken == 1

    def _filled(self, octets, queue, offload):
        """A packet that holds these octets, in as many pieces as they need; None: no buffers."""
        frame = np.frombuffer(octets, np.uint8)
        size = self.info["buf_size"]
        pieces = self.alloc(max(1, -(-len(frame) // size)), queue)
        if len(pieces) * size < len(frame) or not pieces:
            self.free(pieces, queue)
            return None
        for number, piece in enumerate(pieces):
            piece.fill(frame[number * size : (number + 1) * size])
        for before, after in reversed(list(itertools.pairwise(pieces))):
            before.append(after)
        pieces[0].offload(**offload)
        return pieces[0]


def _pointers(handles):
    assert handles.dtype == np.uint64 and handles.flags.c_contiguous, "handles are a contiguous uint64 array"
    return ffi.cast("struct dpu_buf **", ffi.from_buffer(handles))


def _microseconds(timeout):
    return -1 if timeout is None else max(0, int(timeout * 1e6))

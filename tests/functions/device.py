"""A DPU in memory with the functions that a test declares; what leaves by its null ports is recorded."""

import time

import numpy as np

from bench.in_memory import ALL_OFFLOADS, InMemory
from dpu_runtime.drivers.entry import Op, entries_of
from dpu_runtime.drivers.null import queue as null_queue
from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.kernels.burst import Word
from dpu_runtime.kernels.checksum.payload import copy_octets
from dpu_runtime.kernels.compile.jit import kernel
from dpu_runtime.kernels.layout import BATCH_SIZE, PORT_UP
from dpu_runtime.kernels.octets.memory import load_u64, store_u64
from dpu_runtime.plane.worker import pipeline
from dpu_runtime.plane.worker import run_tasks as tasks_of
from tests.kernels.batches import Batch

RECORD_WORD = 15  # of `words`, which the frame does not use: address of the record
RECORD_BYTES = 1 << 17  # a frame: port, octets, the frame
RECORDS_MAX = 512
assert max(Word) < RECORD_WORD

_8 = np.uint64(8)
_16 = np.uint64(16)
_RECORD = np.uint64(RECORD_BYTES)


@kernel
def recording_tx(burst, io, port, first, end):
    """Stand in for a null port's TX: note port and octets of each packet."""
    record = burst.words[RECORD_WORD]
    for k in range(first, end):
        packet = np.int64(burst.packets[k])
        number = load_u64(record)
        place = record + _16 + number * _RECORD
        size = np.uint64(burst.meta[packet]["frame_len"])
        store_u64(place, np.uint64(port))
        store_u64(place + _8, size)
        copy_octets(
            burst.headers, burst.meta, packet, np.uint64(burst.meta[packet]["l2_offset"]), size, place + _16
        )
        store_u64(record, number + np.uint64(1))
    io.counters[port, PortCounter.TX_PACKETS] += np.uint64(end - first)


@kernel
def run_pipeline(w, burst, port, count):
    """Have the pipeline as a kernel."""
    pipeline(w, burst, port, count)


@kernel
def run_tasks(w, burst):
    """Have what the loop does between bursts as a kernel."""
    tasks_of(w, burst, w.frame)


class Device(InMemory):
    """Null ports `ports` that take every offload.

    functions  those there are beside the switch, the rules and the limits
    on         names of their stages, in the programs of all ports; tasks of them that run
    """

    def __init__(self, functions, on=(), tasks=(), ports=3, monkeypatch=None):
        monkeypatch.setitem(entries_of(null_queue), Op.TX, recording_tx)
        super().__init__(on=("switch_admit", "switch", *on), more=functions, tasks=tasks)
        self._record = np.zeros(16 + RECORDS_MAX * RECORD_BYTES, np.uint8)
        self.burst.words[RECORD_WORD] = self._record.ctypes.data
        self.now_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        for index in range(ports):
            self.add_port(index, PORT_UP | ALL_OFFLOADS)

    def send(self, port, frames, run=run_pipeline):
        """Receive `frames` at `port`, a burst at a time; returns what left meanwhile, [(port, octets)]."""
        for first in range(0, len(frames), BATCH_SIZE):
            batch = Batch(frames[first : first + BATCH_SIZE], port)
            count = len(batch.meta)
            self.burst.headers[:count], self.burst.meta[:count] = batch.headers, batch.meta
            self.burst.headers[:count, 116:128] = 0  # the virtio-net header
            self.shared.port_counters[0, port, PortCounter.RX_PACKETS] += np.uint64(count)
            self._tell_time()
            run(self.worker, self.burst, port, count)
        return self.taken()

    def pass_time(self, ms):
        """Let time pass, then do what a worker does between bursts; returns what left."""
        self.now_ns += ms * 1_000_000
        self._tell_time()
        run_tasks(self.worker, self.burst)
        return self.taken()

    def _tell_time(self):
        self.burst.words[Word.COARSE_NS] = self.now_ns

    def taken(self):
        """What was recorded since the last look."""
        count = int(self._record[:8].view(np.uint64)[0])
        self._record[:8] = 0
        found = []
        for number in range(count):
            place = self._record[16 + number * RECORD_BYTES :]
            port, size = place[:16].view(np.uint64).tolist()
            found.append((port, place[16 : 16 + size].tobytes()))
        return found

    def balance(self):
        """Packets that came less those that went, held and punted ones among these; and all counts."""
        counts = self.shared.balance()
        came = sum(counts[key] for key in ("received", "copies", "segments", "made"))
        return came - sum(
            n for key, n in counts.items() if key not in ("received", "copies", "segments", "made")
        ), counts

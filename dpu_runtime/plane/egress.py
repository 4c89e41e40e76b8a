"""Egress: from the copies that `forward` decided on to the ports they leave by.

Copies are gathered by port, so that a port's program and its transmit each run once a burst.
In:   out_packet, out_port of the burst.   Out: packets sent, drops and port counters.
"""

import numpy as np

from dpu_runtime.drivers.linux.libc import CLOCK_MONOTONIC, clock_gettime
from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.kernels.burst import EGRESS, MADE, WANTS_CLOCK, WANTS_RULE, Word
from dpu_runtime.kernels.compile.jit import glue, helper
from dpu_runtime.kernels.hold import free_places
from dpu_runtime.kernels.layout import BATCH_SIZE
from dpu_runtime.kernels.octets.memory import address_of, load_acquire
from dpu_runtime.kernels.stage import call_stage
from dpu_runtime.plane.account import charge_stage
from dpu_runtime.plane.frame import BACK, BACK_STATE, COUNTERS, ENTRY, EVERY_NS, STAGE_AT, STAGE_WORDS, STATE
from dpu_runtime.plane.watch import note_burst

NS_PER_SECOND = 1_000_000_000
NONE = -1  # no program: of a cross-connect

_0 = np.uint64(0)
_NS_PER_MS = np.uint64(1_000_000)
_WANTS_CLOCK = np.uint64(WANTS_CLOCK)
_WANTS_RULE = np.uint64(WANTS_RULE)


@helper
def run_program(burst, frame, number, port, count):
    """Run the stages of a port's program over the packets at hand; returns packets left.

    number  INGRESS, FORWARD, EGRESS, or MADE, which is a part of EGRESS
    """
    program = frame.programs[np.int64(burst.words[Word.HALF]), port, number]
    stages = np.int64(program[0])
    burst.words[Word.HOOK] = np.uint64(min(number, EGRESS))
    burst.words[Word.WANTED] = program[1]
    if program[1] & _WANTS_CLOCK != _0:
        clock_gettime(np.int32(CLOCK_MONOTONIC), address_of(frame.clock))
        burst.words[Word.NOW_NS] = frame.clock[0] * np.uint64(NS_PER_SECOND) + frame.clock[1]
    if program[1] & _WANTS_RULE != _0:
        burst.words[Word.GONE] = _0
        for k in range(count):
            burst.marks[np.int64(burst.packets[k])]["rule"] = 0
    at = np.int64(STAGE_AT)
    for _ in range(stages):
        seen = count
        count = call_stage(program[at + ENTRY], burst, program[at + STATE], port, count)
        charge_stage(burst, program[at + COUNTERS], seen)
        at += STAGE_WORDS
    return count


@helper
def _to_one_port(burst, frame, out):
    """Whether every copy goes to one port, each packet once: then `packets` is them as they are.

    That is nearly every burst of one flow or of few; to link its copies would be work for nothing.
    """
    port = burst.out_port[0]
    for k in range(1, out):
        if burst.out_port[k] != port or burst.out_packet[k] <= burst.out_packet[k - 1]:
            return False
    if out > BATCH_SIZE:
        return False
    for k in range(out):
        packet = burst.out_packet[k]
        burst.packets[k] = packet
        burst.copies[np.int64(packet)] = 1
    frame.egress_ports[0] = port
    return True


@helper
def gather(burst, frame, out):
    """Link the copies by egress port; returns the number of distinct ports."""
    distinct = 0
    for k in range(out):
        burst.copies[np.int64(burst.out_packet[k])] = 0
    for k in range(out):
        port = np.int64(burst.out_port[k])
        burst.copies[np.int64(burst.out_packet[k])] += np.uint16(1)
        frame.next_copy[k] = -1
        if frame.first_copy[port] < 0:
            frame.first_copy[port] = k
            frame.egress_ports[distinct] = port
            distinct += 1
        else:
            frame.next_copy[frame.last_copy[port]] = k
        frame.last_copy[port] = k
    return distinct


@helper
def _take_port(burst, frame, port):
    """Write the packets of one port into `packets`, in order, and unlink them; returns how many."""
    count = 0
    k = np.int64(frame.first_copy[port])
    while k >= 0:
        burst.packets[count] = burst.out_packet[k]
        count += 1
        k = np.int64(frame.next_copy[k])
    frame.first_copy[port] = -1
    return count


@glue
def _send_port(w, burst, frame, port, taken, program):
    """Run a port's program, EGRESS, MADE or NONE, over its copies, `packets[:taken]`; send what is left."""
    count = np.int64(taken)
    spare, made = burst.words[Word.SPARE], burst.words[Word.MADE]
    if program != NONE:
        burst.words[Word.TAKEN] = _0
        count = run_program(burst, frame, program, port, count)
        lost = np.uint64(taken - count) - burst.words[Word.TAKEN]
        frame.port_counters[port, PortCounter.TX_DROPPED] += lost
    sent = call_stage(frame.entries[BACK], burst, frame.entries[BACK_STATE], port, count)
    if burst.words[Word.MADE] == made:  # rows of their own were for this port only
        burst.words[Word.SPARE] = spare
    note_burst(w, burst.ports, port, sent)


@glue
def egress(w, burst, frame, out, program):
    """Send the `out` copies of out_packet and out_port, through that program of their ports."""
    direct = out > 0 and _to_one_port(burst, frame, out)
    distinct = np.int64(1) if direct else gather(burst, frame, out)
    for k in range(distinct):
        port = np.int64(frame.egress_ports[k])
        taken = np.int64(out) if direct else np.int64(_take_port(burst, frame, port))
        _send_port(w, burst, frame, port, taken, program)


@helper
def has_made(burst):
    """Whether send_made() has something to do."""
    return burst.words[Word.MADE] | burst.words[Word.FREED] != _0


@glue
def send_made(w, burst, frame):
    """Send the packets that functions made, by the programs of their ports; those made meanwhile too.

    The rows of all of them are spare again behind it.
    """
    done = np.int64(0)
    while done < np.int64(burst.words[Word.MADE]):
        end = np.int64(burst.words[Word.MADE])
        for k in range(done, end):
            burst.out_packet[k - done] = burst.made_packet[k]
            burst.out_port[k - done] = burst.made_port[k]
        egress(w, burst, frame, end - done, MADE)
        done = end
    burst.words[Word.MADE] = _0
    burst.words[Word.SPARE] = _0
    free_places(burst)


@glue
def run_tasks(w, burst, frame):
    """Run the tasks that are due, between two bursts; what they make or release is sent."""
    now = burst.words[Word.COARSE_NS]
    half = load_acquire(frame.programs_version, 0) & np.uint64(1)
    burst.words[Word.HALF] = half
    burst.words[Word.WEIGHT] = _0
    for k in range(np.int64(frame.tasks_due[0])):
        task = frame.tasks[np.int64(half), k]
        if task[ENTRY] == _0 or now < frame.tasks_due[1 + k]:
            continue
        frame.tasks_due[1 + k] = now + task[EVERY_NS]
        burst.words[Word.NOW_NS] = now
        call_stage(task[ENTRY], burst, task[STATE], np.int64(0), np.int64(0))
        if has_made(burst):
            send_made(w, burst, frame)


@helper
def task_wait_ms(burst, frame, most):
    """How long the worker may sleep: until the next task, `most` milliseconds at most."""
    now = burst.words[Word.COARSE_NS]
    wait = np.uint64(most) * _NS_PER_MS
    for k in range(np.int64(frame.tasks_due[0])):
        due = frame.tasks_due[1 + k]
        wait = min(wait, due - now if due > now else _0)
    return np.int64((wait + _NS_PER_MS - np.uint64(1)) // _NS_PER_MS)


assert BATCH_SIZE <= 0xFFFF, "packets holds 16-bit row numbers"

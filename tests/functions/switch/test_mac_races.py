"""MAC table under two workers: threads with the compiler on, random interleavings of atomics with it off."""

import random
import threading

import numpy as np
import pytest

from dpu_runtime.kernels.compile.jit import PYTHON_MODE, kernel
from dpu_runtime.kernels.layout import PORT_NONE
from dpu_runtime.kernels.octets.memory import load_acquire, store_release
from dpu_runtime.kernels.switch import mac_learning, mac_table
from dpu_runtime.kernels.switch.mac_learning import learn_mac, lookup_mac, mac_key
from dpu_runtime.kernels.switch.mac_table import (
    COUNTER_LEARNED,
    MAC_BUCKET_WORDS,
    MAC_PORT_SHIFT,
    MAC_SLOTS,
    SWITCH_COUNTERS,
)
from tests.functions.switch.tables import AGEING, BASE, MacTable, addresses, key_of

SPINS_MAX = 2000  # then the other thread has lost its CPU, and is not waited for
CHUNK = 16  # addresses


@kernel
def learn_in_step(mac, macs, port, ports, gate, worker, counters):
    """Learn `macs` in VLAN 1 on `port`, a chunk at a time, side by side with the other worker."""
    for n in range(len(macs)):
        if n % CHUNK == 0:
            store_release(gate, worker, n)
            spins = 0
            while load_acquire(gate, 1 - worker) < n and spins < SPINS_MAX:
                spins += 1
        learn_mac(mac, mac_key(macs[n], 1), port, ports, np.uint64(1000), np.uint64(AGEING), counters)


def _both(work):
    """Run `work(0)` and `work(1)` at once."""
    if PYTHON_MODE:
        work(0)
        work(1)
        return
    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _assert_sound(mac):
    """No address twice, no slot left owned."""
    keys = mac.reshape(-1, MAC_BUCKET_WORDS)[:, :MAC_SLOTS]
    keys = keys[keys != 0]
    assert len(np.unique(keys)) == len(keys), "an address twice"
    assert mac_table.repair(mac) == 0, "a slot stayed owned"


@pytest.mark.parametrize("seed", range(4))
def test_two_workers_learn_the_same_addresses(seed):
    """No entry is doubled or of another address; one that lost its races comes with its next packet."""
    count = 100 if PYTHON_MODE else 20_000
    table = MacTable(8)
    shared = addresses(count, seed)
    own = [np.setdiff1d(addresses(count, 100 * (1 + worker) + seed), shared) for worker in range(2)]
    counters = np.zeros((2, len(SWITCH_COUNTERS)), np.uint64)
    gate = np.full(2, 1 << 30 if PYTHON_MODE else 0, np.int64)

    def work(worker):
        macs = np.concatenate([shared, own[worker], shared])
        learn_in_step(table.mac, macs, worker + 1, table.ports, gate, worker, counters[worker])
        gate[worker] = 1 << 30

    _both(work)
    there = [e.mac for e in table.entries()]
    for worker in range(2):
        missing = np.setdiff1d(np.concatenate([shared, own[worker]]), there)
        assert len(missing) <= count // 1000
        gate[:] = 1 << 30
        learn_in_step(table.mac, missing, worker + 1, table.ports, gate, worker, counters[worker])
    entries = {e.mac: e.port for e in table.entries()}
    assert set(entries) == set(np.concatenate([shared, *own]).tolist())
    for worker in range(2):
        assert all(entries[a] == worker + 1 for a in own[worker].tolist())
    assert {entries[a] for a in shared.tolist()} <= {1, 2}
    assert int(counters[:, COUNTER_LEARNED].sum()) == len(entries)
    _assert_sound(table.mac)


class Interleaver:
    """Runs calls in threads of which one moves at a time; at `step` a random one is next."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.turns = {}
        self.numbers = {}
        self.errors = []

    def step(self):
        me = self.numbers.get(threading.get_ident())
        if me is None:
            return
        following = self.rng.choice(list(self.turns))
        if following != me:
            mine = self.turns[me]
            self.turns[following].release()
            mine.acquire()

    def run(self, *calls):
        threads = [threading.Thread(target=self._work, args=(n, call)) for n, call in enumerate(calls)]
        self.turns = {n: threading.Semaphore(0) for n in range(len(calls))}
        for thread in threads:
            thread.start()
        self.turns[0].release()
        for thread in threads:
            thread.join()
        assert not self.errors, self.errors

    def _work(self, number, call):
        self.numbers[threading.get_ident()] = number
        self.turns[number].acquire()
        try:
            with np.errstate(over="ignore"):  # numpy's state is a thread's own
                call()
        except AssertionError as error:
            self.errors.append(error)
        del self.turns[number], self.numbers[threading.get_ident()]
        if self.turns:
            self.turns[self.rng.choice(list(self.turns))].release()


HOSTS = 11  # addresses that fight for the eight slots of one bucket pair
NOW = 100_000  # ticks
PORT_OF_LAST_HOST = 2 * HOSTS  # host n sits on port 2n or, as the other worker says, on 2n + 1
SCHEDULES = 100  # random orders of the two workers' atomics, a test


def _one_bucket_pair(monkeypatch):
    monkeypatch.setattr(mac_learning, "home_bucket", lambda _: np.uint64(0))
    monkeypatch.setattr(mac_learning, "other_bucket", lambda _: np.uint64(MAC_BUCKET_WORDS))


def _interleave_atomics(monkeypatch, interleaver):
    """Let another thread run in front of every atomic access, and between a flush's look and its write."""

    def stepping(function):
        def run(*args):
            interleaver.step()
            return function(*args)

        return run

    for name in ("load_acquire", "store_release", "compare_exchange"):
        monkeypatch.setattr(mac_learning, name, stepping(getattr(mac_learning, name)))
    live_slots = mac_table._live_slots

    def look_and_wait(*args):
        found = live_slots(*args)
        for _ in range(8):
            interleaver.step()
        return found

    monkeypatch.setattr(mac_table, "_live_slots", look_and_wait)


def _crowd(rng):
    """A table whose bucket pair holds some of the hosts, dead or live, at most one free slot."""
    table = MacTable(PORT_OF_LAST_HOST)
    hosts = rng.sample(range(HOSTS), rng.randrange(6, 9))
    for n, host in enumerate(hosts):
        slot = n // MAC_SLOTS * MAC_BUCKET_WORDS + n % MAC_SLOTS
        table.mac[slot] = key_of(BASE + host, 1)
        stamp = rng.choice((NOW, NOW - AGEING, NOW - AGEING - rng.randrange(50)))
        table.mac[slot + MAC_SLOTS] = (2 * host + 1) << MAC_PORT_SHIFT | stamp
    return table


def _assert_truth(table):
    """Every value under a key is of that key's host."""
    for words in table.mac[: 2 * MAC_BUCKET_WORDS].reshape(2, MAC_BUCKET_WORDS).tolist():
        for key, value in zip(words[:MAC_SLOTS], words[MAC_SLOTS:], strict=True):
            if key and value >> MAC_PORT_SHIFT:
                assert ((value >> MAC_PORT_SHIFT) - 1) // 2 == (key >> 16) - BASE


if PYTHON_MODE:  # only there can a thread be stopped between two atomics

    @pytest.mark.parametrize("flushing", [False, True])
    @pytest.mark.parametrize("part", range(4))
    def test_interleaved_workers_tell_the_truth(part, flushing):
        for seed in range(part * SCHEDULES, (part + 1) * SCHEDULES):
            with pytest.MonkeyPatch.context() as monkeypatch:
                _run_interleaved(seed, flushing, monkeypatch)

    @pytest.mark.parametrize("first", ["lookup", "learn", "learn another"])
    def test_a_slot_reused_at_any_moment(monkeypatch, first):
        """One operation, and at each of its atomics in turn a whole other one that reuses the dead slot."""
        _one_bucket_pair(monkeypatch)
        for moment in range(40):
            with pytest.MonkeyPatch.context() as patch:
                _run_with_intrusion(patch, first, moment)

    def _run_with_intrusion(monkeypatch, first, moment):
        table = MacTable(PORT_OF_LAST_HOST)
        for host in range(8):
            slot = host // MAC_SLOTS * MAC_BUCKET_WORDS + host % MAC_SLOTS
            table.mac[slot] = key_of(BASE + host, 1)
            stamp = NOW - AGEING if host == 2 else NOW
            table.mac[slot + MAC_SLOTS] = (2 * host + 1) << MAC_PORT_SHIFT | stamp
        accesses = 0

        def intruded(function):
            def run(*args):
                nonlocal accesses
                accesses += 1
                if accesses == moment + 1:
                    table.learn(BASE + 9, 1, 2 * 9, now=NOW)
                return function(*args)

            return run

        for name in ("load_acquire", "store_release", "compare_exchange"):
            monkeypatch.setattr(mac_learning, name, intruded(getattr(mac_learning, name)))
        if first == "lookup":
            assert table.lookup(BASE + 2, 1, now=NOW) == PORT_NONE
        else:
            host = 2 if first == "learn" else 10
            table.learn(BASE + host, 1, 2 * host + 1, now=NOW)
        _assert_truth(table)
        _assert_sound(table.mac)

    def _run_interleaved(seed, flushing, monkeypatch):
        rng = random.Random(seed)
        interleaver = Interleaver(seed)
        table = _crowd(rng)
        _one_bucket_pair(monkeypatch)
        _interleave_atomics(monkeypatch, interleaver)
        plans = [[(rng.randrange(HOSTS), rng.randrange(HOSTS)) for _ in range(4)] for _ in range(2)]

        def work(worker):
            for learned, asked in plans[worker]:
                table.learn(BASE + learned, 1, 2 * learned + worker, now=NOW)
                for host in (learned, asked):
                    port = table.lookup(BASE + host, 1, now=NOW)
                    assert port == PORT_NONE or port // 2 == host, f"host {host} on port {port}, seed {seed}"

        def flush():
            mac_table.flush(table.mac, table.ports, NOW, AGEING)

        live = {e.mac for e in mac_table.entries(table.mac, table.ports, NOW, AGEING)}
        calls = [lambda: work(0), lambda: work(1)] + [flush] * flushing
        interleaver.run(*calls)
        _assert_truth(table)
        _assert_sound(table.mac)
        if not flushing:
            after = {e.mac for e in mac_table.entries(table.mac, table.ports, NOW, AGEING)}
            assert live <= after, "a live entry was evicted"


@kernel
def churn(mac, macs, port, ports, rounds, counters):
    """Learn `macs` over and over while time runs so fast that slots are reused; returns wrong answers.

    The other worker has other addresses: these are on `port` or nowhere.
    """
    wrong = 0
    for r in range(rounds):
        now = np.uint64(1000 + 5 * r)
        for n in range(len(macs)):
            key = mac_key(macs[n], 1)
            learn_mac(mac, key, port, ports, now, np.uint64(8), counters)
            found = lookup_mac(mac, key, ports, now, np.uint64(8))
            wrong += found not in (port, PORT_NONE)
    return wrong


def test_two_workers_fight_for_the_slots_of_few_buckets():
    """Under contention, reuse of dead entries never shows one address the port of another."""
    table = MacTable(8)
    macs = addresses(40 if PYTHON_MODE else 20_000, 7)
    homes = np.array([table.buckets(int(a), 1)[0] for a in macs.tolist()])
    numbers, counts = np.unique(homes, return_counts=True)
    crowd = macs[np.isin(homes, numbers[counts.argsort()[-8:]])]
    counters = np.zeros((2, len(SWITCH_COUNTERS)), np.uint64)
    wrong = [None, None]

    def work(worker):
        rounds = 3 if PYTHON_MODE else 100_000
        part = crowd[worker::2].copy()
        wrong[worker] = churn(table.mac, part, worker + 1, table.ports, rounds, counters[worker])

    _both(work)
    assert wrong == [0, 0]
    assert counters[:, COUNTER_LEARNED].all()
    _assert_sound(table.mac)

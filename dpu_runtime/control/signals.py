"""Signals of the daemon's process: SIGTERM and SIGINT stop it, SIGHUP has it read its file again.

Source: signal(7), tty(4). A terminal that closes sends SIGHUP too: that ends nothing, and is no wish to have
the file read again, which would take away what was made at run time.
"""

import asyncio
import os
import signal
import threading
import time

STOPPING = (signal.SIGTERM, signal.SIGINT)
RELOADING = signal.SIGHUP
REPEATS_S = 2.0  # a shell passes the SIGHUP of its terminal on, and its end brings another one


class Signals:
    """Calls `act(number)` in the event loop for each of them."""

    def __init__(self, act):
        self._act = act
        self._before = {}

    def take(self):
        """Handle them from now on; a daemon in a thread of another program has none."""
        if threading.current_thread() is not threading.main_thread():
            return
        loop = asyncio.get_running_loop()
        for number in (*STOPPING, RELOADING):
            self._before[number] = signal.signal(
                number, lambda number, _frame: loop.call_soon_threadsafe(self._act, number)
            )

    def give_back(self, after=None):
        """Handle them no more: `after` does at once, or what did before."""
        for number, before in self._before.items():
            signal.signal(number, before if after is None else after)
        self._before = {}


class Terminal:
    """The terminal that this process was started on, if it was on one."""

    def __init__(self):
        self._there = _has_terminal()
        self._went_at = None  # time.monotonic()

    def look(self):
        """Note when it goes."""
        if self._there and not _has_terminal():
            self._there, self._went_at = False, time.monotonic()

    def hung_up(self):
        """Whether a SIGHUP that came just now is about its end."""
        self.look()
        return self._went_at is not None and time.monotonic() - self._went_at < REPEATS_S


def _has_terminal():
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True

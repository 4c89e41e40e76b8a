"""A ping in the background that ends when the test has seen enough, and what became of it."""

import itertools
import re
import signal
import threading

from tests.live.daemon import wait_until

INTERVAL_S = 0.01
ANSWER_TIMEOUT_S = END_TIMEOUT_S = 10.0
_ANSWER = re.compile(r"^\[([\d.]+)\] \d+ bytes .*icmp_seq=(\d+) ")
_SENT = re.compile(r"(\d+) packets transmitted")


class Pings:
    """Pings from a container to an address, one each INTERVAL_S, until `end`."""

    def __init__(self, sender, address):
        words = ("ping", "-n", "-D", "-i", INTERVAL_S, address)
        self._process = sender.popen(*words, stdout=-1, text=True)
        self._answers = {}  # of each number, its times
        self._sent, self._ended = None, False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert wait_until(lambda: self._answers, ANSWER_TIMEOUT_S), "nobody answers"

    def _read(self):
        for line in self._process.stdout:
            if answer := _ANSWER.match(line):
                self._answers.setdefault(int(answer[2]), []).append(float(answer[1]))
            elif sent := _SENT.match(line):
                self._sent = int(sent[1])

    def go_on(self, count=20, timeout_s=ANSWER_TIMEOUT_S):
        """Whether `count` more are answered in time."""
        target = len(self._answers) + count
        return wait_until(lambda: len(self._answers) >= target, timeout_s)

    def end(self):
        """End it, when some more were answered; returns it."""
        if not self._ended:
            self.go_on()
            self._process.send_signal(signal.SIGINT)
            self._reader.join(END_TIMEOUT_S)
            self._process.wait(END_TIMEOUT_S)
            self._ended = True
        return self

    @property
    def sent(self):
        """How many were sent."""
        return self.end()._sent

    @property
    def lost(self):
        """Numbers that have no answer. The last one may have been under way."""
        return sorted(set(range(1, self.end()._sent)) - self._answers.keys())

    @property
    def gap_s(self):
        """Longest time between two answers."""
        times = sorted(itertools.chain(*self.end()._answers.values()))
        return max(later - earlier for earlier, later in itertools.pairwise(times))

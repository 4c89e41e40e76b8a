"""Traffic between two containers that shows what happened to it: a TCP connection, and a series of pings."""

import hashlib
import itertools
import os
import re
import socket
import threading

from tests.live.daemon import wait_until

PING_INTERVAL_S = 0.01


class Stream:
    """A TCP connection that is kept busy from one container to the other."""

    def __init__(self, sender, receiver):
        self.server = receiver.socket()
        self.server.bind((receiver.ipv4, 5001))
        self.server.listen()
        self.client = sender.socket()
        self.client.connect((receiver.ipv4, 5001))
        self.connection, _ = self.server.accept()
        self.connection.settimeout(20)
        self.sent, self.received = hashlib.sha256(), hashlib.sha256()
        self.octets = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def _send(self):
        while not self._stop.is_set():
            data = os.urandom(1 << 16)
            self.client.sendall(data)
            self.sent.update(data)
        self.client.shutdown(socket.SHUT_WR)

    def _receive(self):
        while data := self.connection.recv(1 << 18):
            self.received.update(data)
            self.octets += len(data)

    def goes_on(self, timeout_s=5.0):
        """Whether more octets arrive."""
        before = self.octets
        return wait_until(lambda: self.octets > before + (1 << 20), timeout_s)

    def finish(self):
        """End it; whether all octets arrived as they were."""
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        for sock in (self.client, self.connection, self.server):
            sock.close()
        return self.octets > 0 and self.sent.digest() == self.received.digest()


def ping_series(sender, receiver, seconds):
    """Start a ping every PING_INTERVAL_S that prints each answer with its time."""
    count = int(seconds / PING_INTERVAL_S)
    words = ("ping", "-n", "-D", "-i", PING_INTERVAL_S, "-c", count, "-W", 1, receiver.ipv4)
    return sender.popen(*words, stdout=-1, text=True)


def longest_gap(ping):
    """Seconds between two answers of a series, at most, and how many packets were lost."""
    out = ping.communicate(timeout=60)[0]
    times = [float(t) for t in re.findall(r"^\[([\d.]+)\] \d+ bytes", out, re.M)]
    counts = re.search(r"(\d+) packets transmitted, (\d+) received", out)
    gap = max(later - earlier for earlier, later in itertools.pairwise(times))
    return gap, int(counts[1]) - int(counts[2])

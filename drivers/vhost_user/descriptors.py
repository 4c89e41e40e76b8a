"""Descriptors by token: numbers that both processes know a descriptor by.

A token is given once, over all connections of a port and all control processes.
"""

import os


class Descriptors:
    """Descriptors that the control process holds of one port."""

    def __init__(self):
        self._fds = {}  # token -> descriptor
        self._next = 1

    def add(self, fd):
        """Own `fd` from now on; returns its token."""
        token = self._next
        self._next += 1
        self._fds[token] = fd
        return token

    def adopt(self, fds, next_token):
        """Own descriptors that had tokens already; `next_token` is what their giver would give next."""
        self._fds.update(fds)
        self._next = max(self._next, next_token, *(token + 1 for token in fds))

    @property
    def next_token(self):
        """The token that the next descriptor gets."""
        return self._next

    def fd(self, token):
        """Descriptor of a token."""
        return self._fds[token]

    def keep(self, tokens):
        """Close every descriptor whose token is not among these."""
        for token in self._fds.keys() - tokens:
            os.close(self._fds.pop(token))

"""A small synchronous JSON-RPC 2.0 client for the daemon's socket.

Not: anything heavy; `dpu` imports this at every start.
"""

import json
import socket

from dpu_runtime.config.errors import RpcError

DEFAULT_SOCKET = "/run/dpu/dpu.sock"
TIMEOUT_S = 180.0  # a daemon that starts for the first time compiles before it answers
PATIENCE_S = 3.0  # after this time the user is told what is waited for
_READ_BYTES = 1 << 16


class NoDaemonError(Exception):
    """Nobody answers on the socket; `data` is what was found instead, as JSON has it."""

    def __init__(self, text, data=None):
        super().__init__(text)
        self.data = data


class Client:
    """A connection to the daemon; also a context manager.

    waiting   called once, with a text, when an answer takes longer than PATIENCE_S
    """

    def __init__(self, path=DEFAULT_SOCKET, timeout_s=TIMEOUT_S, waiting=None):
        self.path = str(path)
        self._timeout_s = timeout_s
        self._waiting = waiting
        self._rest = b""
        self._id = 0
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.settimeout(timeout_s)
        try:
            self._sock.connect(self.path)
        except OSError as error:
            self._sock.close()
            raise NoDaemonError(f"no daemon on {self.path}: {error.strerror or error}") from None

    def call(self, method, **params):
        """Call a method and return its result. Raises RpcError and NoDaemonError."""
        self._id += 1
        request = {"jsonrpc": "2.0", "id": self._id, "method": method, "params": params}
        response = self._exchange(json.dumps(request).encode() + b"\n")
        if "error" in response:
            error = response["error"]
            raise RpcError(error["code"], error["message"], error.get("data"))
        return response["result"]

    @property
    def sock(self):
        """The connected socket."""
        return self._sock

    def fileno(self):
        """Readable outside of a call when the daemon has ended the connection."""
        return self._sock.fileno()

    def close(self):
        """End the connection; twice is allowed."""
        self._sock.close()

    def _exchange(self, line):
        try:
            self._sock.sendall(line)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused early: the answer says why
        except OSError as error:
            raise NoDaemonError(f"the daemon on {self.path} does not take the request: {error}") from None
        parts = [self._rest]
        try:
            while b"\n" not in parts[-1]:
                part = self._receive()
                if not part:
                    raise NoDaemonError(f"the daemon on {self.path} closed the connection")
                parts.append(part)
        except OSError as error:
            raise NoDaemonError(f"the daemon on {self.path} does not answer: {error}") from None
        answer, _, self._rest = b"".join(parts).partition(b"\n")
        return json.loads(answer)

    def _receive(self):
        if self._waiting:
            self._sock.settimeout(PATIENCE_S)
            try:
                return self._sock.recv(_READ_BYTES)
            except TimeoutError:
                why = "which may be starting, or be busy with a change"
                self._waiting(f"waiting for the daemon on {self.path}, {why}")
                self._waiting = None
            finally:
                self._sock.settimeout(self._timeout_s)
        return self._sock.recv(_READ_BYTES)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

"""JSON-RPC 2.0 over a Unix stream socket: one message a line.

Spec: JSON-RPC 2.0 (requests, notifications, batches, error codes); RFC 8259 (JSON).
In:   a coroutine `call(method, params)` that returns plain data or raises RpcError.
Not:  what the methods are (api.py); the client's side (client.py).

A client is not trusted to be well: messages, batches and connections are bounded, a message must
arrive within a time, and a client that does not read its answers is cut off. Each connection has
its own task and waits for its own calls only.
"""

import asyncio
import contextlib
import json
import logging
import math
import os
import socket
import stat
from pathlib import Path

from dpu_runtime.config.errors import DaemonError, RpcError

log = logging.getLogger("dpu.rpc")

MESSAGE_BYTES_MAX = 16 * 1024 * 1024  # octets: 100,000 rules as TOML
BATCH_REQUESTS_MAX = 1000
CONNECTIONS_MAX = 64
IDLE_TIMEOUT_S = 60.0  # between messages
MESSAGE_TIMEOUT_S = 10.0  # from a message's first octet to its last, and for an answer to be taken
SOCKET_MODE = 0o660
BACKLOG = 128

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
REFUSED = 1  # our own: a valid request that was refused, with the reason


class Server:
    """Serves `call` on the socket at `path`."""

    def __init__(self, path, call, connections_max=CONNECTIONS_MAX, idle_timeout_s=IDLE_TIMEOUT_S):
        self.path = Path(path)
        self._call = call
        self._connections_max = connections_max
        self._idle_timeout_s = idle_timeout_s
        self._server = None
        self._inode = None
        self._tasks = set()

    async def listen(self):
        """Take the path; clients wait for `serve`. Raises DaemonError when something else has it."""
        sock = listening_socket(self.path)
        self._inode = self.path.stat().st_ino
        self._server = await asyncio.start_unix_server(
            self._connected, sock=sock, limit=MESSAGE_BYTES_MAX, start_serving=False
        )

    async def serve(self):
        """Answer clients, those that wait first."""
        await self._server.start_serving()

    async def stop(self):
        """Stop listening, end all connections, remove the socket."""
        if self._server is None:
            return
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._server = None
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()

    async def _connected(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            if len(self._tasks) > self._connections_max:
                text = f"too many connections, {self._connections_max} are served"
                await _send(writer, _error(None, REFUSED, text))
            else:
                await self._serve(reader, writer)
        except (ConnectionError, TimeoutError):
            pass  # the client went away, or was too slow
        except asyncio.CancelledError:
            pass  # the server stops
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve(self, reader, writer):
        while True:
            try:
                line = await self._read_message(reader)
            except (asyncio.LimitOverrunError, ValueError):
                text = f"message longer than {MESSAGE_BYTES_MAX} octets"
                await _send(writer, _error(None, INVALID_REQUEST, text))
                return
            if line is None:
                return
            if line.strip():
                answer = await self._answer(line)
                if answer is not None:
                    await _send(writer, answer)

    async def _read_message(self, reader):
        """Read a line without its end, or None when the client is done."""
        first = await asyncio.wait_for(reader.read(1), self._idle_timeout_s)
        if not first:
            return None
        if first == b"\n":
            return b""
        try:
            rest = await asyncio.wait_for(reader.readuntil(b"\n"), MESSAGE_TIMEOUT_S)
        except asyncio.IncompleteReadError:
            return None
        return first + rest

    async def _answer(self, line):
        """Return the response to a message, or None when it has only notifications."""
        try:
            message = json.loads(line, parse_constant=_refuse_constant, parse_float=_finite)
        except (ValueError, RecursionError) as error:
            return _error(None, PARSE_ERROR, f"not JSON: {error}")
        if not isinstance(message, list):
            return await self._answer_request(message)
        if not 1 <= len(message) <= BATCH_REQUESTS_MAX:
            text = f"a batch has 1..{BATCH_REQUESTS_MAX} requests, this one {len(message)}"
            return _error(None, INVALID_REQUEST, text)
        answers = [await self._answer_request(request) for request in message]
        return [answer for answer in answers if answer is not None] or None

    async def _answer_request(self, request):
        identity, problem = _checked(request)
        if problem:
            return _error(identity, INVALID_REQUEST, problem)
        try:
            result = await self._call(request["method"], request.get("params", {}))
        except RpcError as error:
            answer = _error(identity, error.code, error.message, error.data)
        except Exception:
            log.exception("%s failed", request["method"])
            answer = _error(identity, INTERNAL_ERROR, "internal error, the daemon's log has it")
        else:
            answer = {"jsonrpc": "2.0", "id": identity, "result": result}
        return answer if "id" in request else None


def _checked(request):
    """(id, what is wrong with the request or None)."""
    if not isinstance(request, dict):
        return None, "a request is an object"
    identity = request.get("id")
    if isinstance(identity, bool) or not isinstance(identity, str | int | float | None):
        return None, "id is a string, a number or null"
    if request.get("jsonrpc") != "2.0":
        return identity, 'jsonrpc must be "2.0"'
    if not isinstance(request.get("method"), str):
        return identity, "method must be a string"
    if not isinstance(request.get("params", {}), dict | list):
        return identity, "params must be an object"
    return identity, None


def _refuse_constant(name):
    raise ValueError(f"{name} is not JSON")


def _finite(text):
    number = float(text)
    if math.isinf(number):  # 1e999 is JSON, but has no answer that is
        raise ValueError(f"{text} is out of range")
    return number


def _error(identity, code, message, data=None):
    error = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return {"jsonrpc": "2.0", "id": identity, "error": error}


async def _send(writer, answer):
    writer.write(json.dumps(answer).encode() + b"\n")
    await asyncio.wait_for(writer.drain(), MESSAGE_TIMEOUT_S)


def listening_socket(path):
    """Bind the socket, in place of one that nobody answers on."""
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _remove_stale(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        umask = os.umask(0o777 & ~SOCKET_MODE)  # the mode is right from the first moment
        try:
            sock.bind(str(path))
        finally:
            os.umask(umask)
        sock.listen(BACKLOG)
    except OSError as error:
        raise DaemonError(f"socket {path}: {error.strerror or error}") from None
    return sock


def _remove_stale(path):
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise DaemonError(f"socket {path}: the path is taken by something that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            log.warning("removed the stale socket %s", path)
            path.unlink()
        except TimeoutError:
            raise DaemonError(f"socket {path}: another process has it and does not answer") from None
        else:
            raise DaemonError(f"socket {path}: another daemon answers on it")

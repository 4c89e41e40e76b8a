"""One call to the daemon, within a few seconds: dockerd waits for the answer.

Spec: JSON-RPC 2.0, one message a line (rpc.py is the other end, client.py the synchronous client).
"""

import asyncio
import json

from dpu_runtime.api.client import NoDaemonError
from dpu_runtime.api.rpc import MESSAGE_BYTES_MAX
from dpu_runtime.config.errors import RpcError


async def call(path, method, timeout_s, **params):
    """Call a method of the daemon on `path`, return its result. Raises NoDaemonError and RpcError.

    After NoDaemonError it may have been done, or be done yet.
    """
    request = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    try:
        async with asyncio.timeout(timeout_s):
            line = await _exchange(path, request.encode() + b"\n")
    except TimeoutError:
        raise NoDaemonError(f"the daemon on {path} does not answer within {timeout_s:g} s") from None
    except OSError as error:
        raise NoDaemonError(f"no daemon on {path}: {error.strerror or error}") from None
    except ValueError:
        raise NoDaemonError(f"the daemon on {path} answers too much") from None
    if not line.endswith(b"\n"):
        raise NoDaemonError(f"the daemon on {path} closed the connection")
    answer = json.loads(line)
    if "error" in answer:
        error = answer["error"]
        raise RpcError(error["code"], error["message"], error.get("data"))
    return answer["result"]


async def _exchange(path, line):
    reader, writer = await asyncio.open_unix_connection(path, limit=MESSAGE_BYTES_MAX)
    try:
        writer.write(line)
        return await reader.readline()
    finally:
        writer.transport.abort()

"""The JSON-RPC server against good, bad and hostile clients."""

import asyncio
import json
import os
import random
import socket
import stat

import pytest

from dpu_runtime.api import rpc
from dpu_runtime.api.client import Client, NoDaemonError
from dpu_runtime.config.errors import DaemonError, RpcError

LOOP_TIMEOUT_S = 30


async def call(method, params):
    if method == "echo":
        return params
    if method == "refuse":
        raise RpcError(1, "no", {"why": "because"})
    if method == "sleep":
        await asyncio.sleep(params["s"])
        return "slept"
    if method == "large":
        return "x" * (8 << 20)
    if method == "bug":
        raise ZeroDivisionError
    raise RpcError(rpc.METHOD_NOT_FOUND, f"no method {method!r}")


def serving(tmp_path, scenario, **options):
    """Run `scenario(path)` beside a server."""

    async def main():
        server = rpc.Server(tmp_path / "s", call, **options)
        await server.listen()
        await server.serve()
        try:
            return await asyncio.wait_for(scenario(str(server.path)), LOOP_TIMEOUT_S)
        finally:
            await server.stop()
            assert not server.path.exists()

    return asyncio.run(main())


async def exchange(path, data, answers=1, end=False):
    reader, writer = await asyncio.open_unix_connection(path, limit=64 << 20)
    try:
        writer.write(data)
        if end:
            writer.write_eof()
        lines = [await reader.readline() for _ in range(answers)]
        return [json.loads(line) if line else None for line in lines]
    finally:
        writer.close()


def request(method="echo", **more):
    return {"jsonrpc": "2.0", "id": 1, "method": method, **more}


def line(message):
    return json.dumps(message).encode() + b"\n"


def error(code, identity=None):
    return {"code": code, "id": identity}


def seen(answer):
    return {"code": answer["error"]["code"], "id": answer["id"]}


MESSAGES = [  # JSON-RPC 2.0 section 7 and beyond
    (b"garbage\n", error(rpc.PARSE_ERROR)),
    (b"\xff\xfe\n", error(rpc.PARSE_ERROR)),
    (b'{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]\n', error(rpc.PARSE_ERROR)),
    (b"[" * 100_000 + b"\n", error(rpc.PARSE_ERROR)),
    (b"9" * 5000 + b"\n", error(rpc.PARSE_ERROR)),
    (b"NaN\n", error(rpc.PARSE_ERROR)),
    (b"1e999\n", error(rpc.PARSE_ERROR)),
    (b"1\n", error(rpc.INVALID_REQUEST)),
    (b"null\n", error(rpc.INVALID_REQUEST)),
    (b"[]\n", error(rpc.INVALID_REQUEST)),
    (line([1] * 1001), error(rpc.INVALID_REQUEST)),
    (b'{"jsonrpc": "2.0", "method": 1, "params": "bar"}\n', error(rpc.INVALID_REQUEST)),
    (line({"id": 3, "method": "echo"}), error(rpc.INVALID_REQUEST, 3)),
    (line(request(params="bar")), error(rpc.INVALID_REQUEST, 1)),
    (line({**request(), "id": [1]}), error(rpc.INVALID_REQUEST)),
    (line({**request(), "id": True}), error(rpc.INVALID_REQUEST)),
    (line(request("foobar")), error(rpc.METHOD_NOT_FOUND, 1)),
    (line({**request("foobar"), "id": "a"}), error(rpc.METHOD_NOT_FOUND, "a")),
    (line(request("bug")), error(rpc.INTERNAL_ERROR, 1)),
    (line(request("refuse")), error(rpc.REFUSED, 1)),
]


@pytest.mark.parametrize(("data", "expected"), MESSAGES, ids=range(len(MESSAGES)))
def test_wrong_message_gets_its_error_and_the_next_one_is_served(tmp_path, data, expected):
    answers = serving(tmp_path, lambda path: exchange(path, data + line(request(params={"a": 1})), 2))
    assert seen(answers[0]) == expected
    assert answers[1] == {"jsonrpc": "2.0", "id": 1, "result": {"a": 1}}


def test_notification_gets_no_answer(tmp_path):
    note = {"jsonrpc": "2.0", "method": "echo"}
    data = line(note) + line({**note, "method": "nope"}) + line([note, note]) + b"\n  \n" + line(request())
    assert serving(tmp_path, lambda path: exchange(path, data)) == [{"jsonrpc": "2.0", "id": 1, "result": {}}]


def test_batch(tmp_path):
    batch = [request(), {"jsonrpc": "2.0", "method": "echo"}, 7, {**request("nope"), "id": 5}]
    ((first, second, third),) = serving(tmp_path, lambda path: exchange(path, line(batch)))
    assert first == {"jsonrpc": "2.0", "id": 1, "result": {}}
    assert seen(second) == error(rpc.INVALID_REQUEST)
    assert seen(third) == error(rpc.METHOD_NOT_FOUND, 5)


def test_message_that_never_ends_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(rpc, "MESSAGE_BYTES_MAX", 1 << 16)

    async def scenario(path):
        fits = line(request(params={"a": "x" * 60_000}))
        assert (await exchange(path, fits))[0]["result"]["a"] == "x" * 60_000
        return await exchange(path, b"x" * (1 << 17), 2)

    first, second = serving(tmp_path, scenario)
    assert seen(first) == error(rpc.INVALID_REQUEST)
    assert first["error"]["message"] == "message longer than 65536 octets"
    assert second is None, "the connection is closed: where the next message begins is unknown"


def test_half_a_message_and_idle_connections_end(tmp_path, monkeypatch):
    monkeypatch.setattr(rpc, "MESSAGE_TIMEOUT_S", 0.05)

    async def scenario(path):
        assert await exchange(path, b'{"jsonrpc"', 1) == [None]
        assert await exchange(path, b"", 1) == [None]
        assert await exchange(path, b'{"jsonrpc"', 1, end=True) == [None]
        return await exchange(path, line(request()))

    assert serving(tmp_path, scenario, idle_timeout_s=0.1)[0]["result"] == {}


def test_connections_are_bounded_and_come_back(tmp_path):
    async def scenario(path):
        held = [await asyncio.open_unix_connection(path) for _ in range(4)]
        await asyncio.sleep(0.05)
        (refused,) = await exchange(path, b"")
        assert refused["error"] == {"code": 1, "message": "too many connections, 4 are served"}
        held.pop()[1].close()
        await asyncio.sleep(0.05)
        served = await exchange(path, line(request()))
        for _, writer in held:
            writer.close()
        return served

    assert serving(tmp_path, scenario, connections_max=4)[0]["result"] == {}


def test_slow_clients_block_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(rpc, "MESSAGE_TIMEOUT_S", 0.3)

    async def scenario(path):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(line(request("large")))  # and never read
        waiting = asyncio.create_task(exchange(path, line(request("sleep", params={"s": 0.5}))))
        await asyncio.sleep(0)
        began = asyncio.get_running_loop().time()
        (answer,) = await exchange(path, line(request()))
        assert asyncio.get_running_loop().time() - began < 0.4
        assert (await waiting)[0]["result"] == "slept"
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(8 << 20)  # cut off
        writer.close()
        return answer

    assert serving(tmp_path, scenario)["result"] == {}


def test_seeded_garbage_never_ends_the_server(tmp_path):
    choose = random.Random(20260701)
    pieces = [
        line(request()),
        b"\n",
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b"\x00",
        b"\xff" * 3,
        b",",
        b":",
        b"2.0",
        b"1e999",
    ]

    async def scenario(path):
        for _ in range(150):
            data = bytearray(b"".join(choose.choices(pieces, k=choose.randrange(1, 12))))
            for _ in range(choose.randrange(3)):
                data[choose.randrange(len(data))] = choose.randrange(256)
            _, writer = await asyncio.open_unix_connection(path)
            writer.write(bytes(data))
            if choose.random() < 0.5:
                await asyncio.sleep(0)
            writer.transport.abort()
        return await exchange(path, line(request()))

    assert serving(tmp_path, scenario)[0]["result"] == {}


def test_socket_mode_and_stale_socket(tmp_path):
    path = tmp_path / "s"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()

    async def scenario(served):
        return stat.S_IMODE(os.stat(served).st_mode)

    assert serving(tmp_path, scenario) == 0o660


def test_taken_socket_is_refused(tmp_path):
    async def scenario(path):
        second = rpc.Server(path, call)
        with pytest.raises(DaemonError, match="another daemon answers on it"):
            await second.listen()
        await second.stop()
        return await exchange(path, line(request()))

    assert serving(tmp_path, scenario)[0]["result"] == {}
    (tmp_path / "s").write_text("precious")
    with pytest.raises(DaemonError, match="something that is no socket"):
        serving(tmp_path, scenario)
    assert (tmp_path / "s").read_text() == "precious"


def test_client(tmp_path):
    def use(path):
        with Client(path) as client:
            assert client.call("echo", a=1) == {"a": 1}
            assert len(client.call("large")) == 8 << 20
            with pytest.raises(RpcError, match="no") as caught:
                client.call("refuse")
            assert (caught.value.code, caught.value.data) == (1, {"why": "because"})

    serving(tmp_path, lambda path: asyncio.to_thread(use, path))
    with pytest.raises(NoDaemonError, match=r"no daemon on .*: No such file"):
        Client(tmp_path / "s")


def test_client_says_what_it_waits_for(tmp_path, monkeypatch):
    monkeypatch.setattr("dpu_runtime.api.client.PATIENCE_S", 0.05)
    said = []

    def use(path):
        with Client(path, waiting=said.append) as client:
            assert client.call("sleep", s=0.3) == "slept"
            assert client.call("sleep", s=0.1) == "slept"
        assert said == [f"waiting for the daemon on {path}, which may be starting, or be busy with a change"]
        with Client(path, timeout_s=0.05) as client, pytest.raises(NoDaemonError, match="timed out"):
            client.call("sleep", s=1)

    serving(tmp_path, lambda path: asyncio.to_thread(use, path))

"""The plugin in a thread of the test, dockerd's side of its socket, and what dockerd 20.10 sends."""

import asyncio
import http.client
import json
import socket
import threading
from pathlib import Path

from dpu_runtime.engines.docker import command

END_TIMEOUT_S = 20.0
NETWORK = "06a998408884b7832289399ed5f4f5484f7cbf7412af1708c2e6a62edc3ab314"
ENDPOINT = "db28426ed2438c7b012390f6c33ced81a9c3f84b79fdb34f48862bf71efe3e5d"
PORT = f"docker-{ENDPOINT[:12]}"
REFERENCE = {"NetworkID": NETWORK, "EndpointID": ENDPOINT}
CONTAINER_OPTIONS = {"com.docker.network.endpoint.exposedports": [], "com.docker.network.portmap": []}


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path, timeout_s=30.0):
        super().__init__("plugin", timeout=timeout_s)
        self._path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Plugin:
    """`dpu-docker` with socket and state in `folder`, and the daemon on `folder`/dpu.sock."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.path = self.folder / "plugins" / "dpu.sock"
        self.state_dir = self.folder / "plugin-state"
        self.error = None

    def start(self):
        """Run it in a thread until it answers."""
        self._loop = asyncio.new_event_loop()
        self._loop.remove_signal_handler = lambda *_: None
        handlers = []  # a thread gets no signals: the test calls what SIGTERM would
        self._loop.add_signal_handler = lambda _, handler: handlers.append(handler)
        self._handlers = handlers
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        while not self._listens() and self._thread.is_alive():
            self._thread.join(0.01)
        if self.error:
            raise self.error
        return self

    def _listens(self):
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.path)) == 0

    def _run(self):
        try:
            daemon = f"{self.folder}/dpu.sock"
            self._loop.run_until_complete(command.run(self.path, daemon, self.state_dir))
        except Exception as error:
            self.error = error
        finally:
            self._loop.close()

    def stop(self):
        """End it in order; twice is allowed."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._handlers[0])
            self._thread.join(END_TIMEOUT_S)
            assert not self._thread.is_alive()

    def restart(self):
        """End it, and go on with what it wrote."""
        self.stop()
        return self.start()

    def state(self):
        """What it has written."""
        return json.loads((self.state_dir / "docker.json").read_text())

    def post(self, method, body=None, verb="POST"):
        """(status, answer) to a request; `body` is data, or octets as they are."""
        octets = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        connection = UnixConnection(self.path)
        try:
            connection.request(verb, f"/{method}", octets)
            response = connection.getresponse()
            assert response.getheader("Content-Type") == "application/vnd.docker.plugins.v1.1+json"
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def ask(self, method, **body):
        """Answer of a NetworkDriver method that is well formed."""
        status, answer = self.post(f"NetworkDriver.{method}", body)
        assert status == 200, answer
        return answer

    def create_network(self, network=NETWORK, generic=None, ipv6=(), **options):
        """CreateNetwork as recorded, with `-o` options as `generic`."""
        said = {"com.docker.network.enable_ipv6": bool(ipv6), "com.docker.network.generic": generic or {}}
        pool = {"AddressSpace": "LocalDefault", "Gateway": "10.99.66.1/24", "Pool": "10.99.66.0/24"}
        return self.ask(
            "CreateNetwork", NetworkID=network, Options=said | options, IPv4Data=[pool], IPv6Data=list(ipv6)
        )

    def create_endpoint(self, network=NETWORK, endpoint=ENDPOINT, options=None, **interface):
        """CreateEndpoint as recorded."""
        given = {"Address": "10.99.66.2/24", "AddressIPv6": "", "MacAddress": ""} | interface
        return self.ask(
            "CreateEndpoint",
            NetworkID=network,
            EndpointID=endpoint,
            Interface=given,
            Options=CONTAINER_OPTIONS | (options or {}),
        )

    def join(self, sandbox="/nowhere/netns/f3c1f88085bf", **reference):
        """Join as recorded."""
        return self.ask("Join", **(REFERENCE | reference), SandboxKey=sandbox, Options=CONTAINER_OPTIONS)

    def leave(self, **reference):
        """What dockerd asks when a container ends."""
        asked = REFERENCE | reference
        return [self.ask(m, **asked) for m in ("RevokeExternalConnectivity", "Leave", "DeleteEndpoint")]

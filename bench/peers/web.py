"""nginx on one host of a pair, wrk on the other: requests that succeeded, and what they brought.

Spec: nginx.org, ngx_core_module and ngx_http_core_module; wrk's SCRIPTING file.
Not:  a master process: with one worker it has nothing to do, and would leave the worker when it is killed.
"""

import contextlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

PORT = 8080
SMALL, LARGE = "small", "large"
OCTETS = {SMALL: 1 << 10, LARGE: 1 << 20}  # of a body
_CONFIG = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 100000000;
    client_body_temp_path {folder}/temporary;
    proxy_temp_path {folder}/temporary;
    fastcgi_temp_path {folder}/temporary;
    uwsgi_temp_path {folder}/temporary;
    scgi_temp_path {folder}/temporary;
    server {{ listen {address}:{port} reuseport backlog=1024; root {folder}; }}
}}
"""
# What wrk counted, as a line of JSON.
_DONE = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('{"requests": %d, "octets": %d, "us": %d, "errors": %d, "p50": %d, "p99": %d}\\n',
    summary.requests, summary.bytes, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True)
class Answers:
    """What wrk counted: octets with the answers' heads, times in us, errors of sockets and of HTTP."""

    requests: int
    octets: int
    us: int
    errors: int
    p50: int
    p99: int

    @property
    def rate(self):
        """Requests a second."""
        return self.requests / self.us * 1e6

    @property
    def gbit(self):
        """Gbit/s."""
        return 8 * self.octets / self.us / 1e3


@contextlib.contextmanager
def files():
    """Folder with what nginx serves, and wrk's script, as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="dpu-bench-") as name:
        folder = Path(name)
        for body, octets in OCTETS.items():
            (folder / body).write_bytes(bytes(i % 251 for i in range(octets)))
        (folder / "done.lua").write_text(_DONE)
        yield folder


def serve(pair, folder):
    """Start nginx on the server's host; the client reads each file once and compares it."""
    config = folder / f"{pair.name}.conf"
    config.write_text(_CONFIG.format(folder=folder, address=pair.address, port=PORT))
    pair.server.start("nginx", "-c", config, "-p", folder, "-e", folder / "error.log")
    pair.server.wait_listening(PORT)
    for body in OCTETS:
        got = pair.client.run("curl", "-sS", "-f", _url(pair, body), text=False)
        assert got == (folder / body).read_bytes(), f"{pair.name}: {body} is not what nginx serves"


def _url(pair, body):
    return f"http://{pair.address}:{PORT}/{body}"


def ask(pair, folder, body, connections, seconds, words=()):
    """Answers to wrk's requests for `body`; AssertionError when one of them failed or was cut short."""
    how = ["-t", "1", "-c", connections, "-d", f"{seconds}s", "-s", folder / "done.lua", *words]
    printed = pair.client.run("wrk", *how, _url(pair, body))
    return checked(Answers(**json.loads(printed.splitlines()[-1])), OCTETS[body], pair.name)


def checked(answers, octets, name):
    """Return `answers`; AssertionError when there were errors, or fewer octets than the bodies have."""
    assert answers.requests > 0, f"{name}: no answer came"
    assert answers.errors == 0, f"{name}: {answers.errors} of {answers.requests} requests failed"
    assert answers.octets >= answers.requests * octets, f"{name}: answers are too short: {answers}"
    return answers

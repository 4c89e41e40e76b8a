"""Two containers talk through the DPU: `make demo`, as root.

Each step checks what it shows; one that fails is named and ends the demo with exit status 1. It all happens
in namespaces of its own (examples/sandbox.py): the host's network is not touched and nothing stays behind.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from examples import sandbox
from examples.containers import CommandError, Container, call
from examples.dpu_daemon import DPU, DaemonError, DpuDaemon

ROOT = Path(__file__).resolve().parent.parent
CONFIG = Path("examples/demo.toml")  # below ROOT
FOLDER = Path("/run/demo")  # the sandbox's own, in memory
TOOLS = ("ip", "unshare", "nsenter", "ping", "curl", "iperf3")
WEB = "10.0.0.2"  # the address that demo.toml gives
HTTP_PORT = 8080
IPERF_PORT = 5201
DOWNLOAD_BYTES = 64 << 20
TRANSFER_SECONDS = 3
WAIT_LINE_SECONDS = 5  # a line as a sign of life while the data plane compiles
CACHE = os.environ.get("DPU_CACHE_DIR", "/var/cache/dpu-runtime")
SIGNALLED = 128  # plus the signal's number: exit status of a process that was interrupted
BALANCE_TRIES = 20


class StepError(Exception):
    """What a step wanted to show is not so."""


FAILURES = (StepError, CommandError, DaemonError, OSError, ValueError, subprocess.TimeoutExpired)


def need(holds, text):
    """Fail the step with `text` unless `holds`."""
    if not holds:
        raise StepError(text)


def say(text=""):
    """Print indented below the step's title, at once."""
    for line in text.splitlines():
        print(f"     {line}", flush=True)


def dpu(*words, show=True):
    """Run the command `dpu` and return what it prints; it is shown too."""
    if show:
        say("$ dpu " + " ".join(words))
    return call([DPU, *words])


class Demo:
    """The steps, in order, and what they share."""

    def __init__(self):
        self.web = self.client = self.daemon = None
        self.began = time.monotonic()

    def make_containers(self):
        """Make two containers, web and client."""
        self.web, self.client = Container("web"), Container("client")
        for container in (self.web, self.client):
            host_name = container.run("uname", "-n").strip()
            say(f"{host_name}: network, mounts, processes and host name of its own")

    def start_daemon(self):
        """Start the daemon, which attaches both."""
        say(f"$ dpu run -c {CONFIG}")
        shown = 0

        def waiting(seconds):
            nonlocal shown
            if seconds // WAIT_LINE_SECONDS > shown:
                shown = seconds // WAIT_LINE_SECONDS
                say(f"compiling the kernels, the first time only: {seconds:.0f} s")

        self.daemon = DpuDaemon(ROOT / CONFIG, FOLDER / "dpu.log", waiting)
        say(dpu("port", "show"))

    def ping(self):
        """Ping web from client."""
        lines = self.client.run("ping", "-c", "5", "-i", "0.2", "-W", "2", WEB).splitlines()
        say("\n".join(lines[-2:]))
        need(" 0% packet loss" in lines[-2], "a ping got no answer")

    def download(self):
        """Download a file over HTTP and compare its SHA-256."""
        data = os.urandom(DOWNLOAD_BYTES)
        (FOLDER / "www").mkdir()
        (FOLDER / "www" / "random").write_bytes(data)
        server = ["-m", "http.server", str(HTTP_PORT), "--bind", WEB, "--directory", FOLDER / "www"]
        self.web.start(sys.executable, *server)
        self.web.wait_listening(HTTP_PORT)
        got = FOLDER / "downloaded"
        took = float(self.client.run(*self._curl(20), "-w", "%{time_total}", "-o", got, self._url("random")))
        sent_hash = hashlib.sha256(data).hexdigest()
        got_hash = hashlib.sha256(got.read_bytes()).hexdigest()
        got.unlink()
        say(f"{DOWNLOAD_BYTES >> 20} MiB in {took:.2f} s, SHA-256 {got_hash[:16]}... on both sides")
        need(got_hash == sent_hash, f"SHA-256 was {sent_hash} and is {got_hash}")

    def transfer(self):
        """Send TCP in bulk from client to web."""
        self.web.start("iperf3", "-s", "-1", "-B", WEB, "-p", IPERF_PORT)
        self.web.wait_listening(IPERF_PORT)
        words = ["-c", WEB, "-p", IPERF_PORT, "-t", TRANSFER_SECONDS, "--connect-timeout", "3000", "-J"]
        total = json.loads(self.client.run("iperf3", *words))["end"]
        rate = total["sum_received"]["bits_per_second"] / 1e9
        say(f"{rate:.2f} Gbit/s for {TRANSFER_SECONDS} s, {total['sum_sent']['retransmits']} retransmits")
        need(rate > 0, "nothing arrived")

    def drop_port(self):
        """Drop a port by a rule, count the hits, and take the rule back."""
        rule = ["--name", "no-http", "--priority", "100", "--proto", "tcp", "--dport", str(HTTP_PORT)]
        dpu("rule", "add", *rule, "--action", "drop")
        answer = self.client.run(*self._curl(1), "-o", "/dev/null", self._url(""), check=False)
        say(answer.strip())
        need("timed out" in answer, f"port {HTTP_PORT} can still be reached")
        self.client.run("ping", "-c", "1", "-W", "2", WEB)
        say(dpu("rule", "show", "--stats"))
        (hits,) = [rule["packets"] for rule in json.loads(dpu("-j", "rule", "show", "--stats", show=False))]
        dropped = json.loads(dpu("-j", "stats", show=False))["drops"]
        say(f"dropped by reason: {', '.join(f'{packets} {reason}' for reason, packets in dropped.items())}")
        need(hits > 0, "the rule has no hits")
        need(hits in dropped.values(), f"the rule's {hits} hits are not among the drops")
        dpu("rule", "del", "no-http")
        code = self.client.run(*self._curl(5), "-o", "/dev/null", "-w", "%{http_code}", self._url(""))
        say(f"without it, HTTP answers {code} again")
        need(code == "200", f"HTTP answers {code}")

    def add_up(self):
        """Add the counters up."""
        for _ in range(BALANCE_TRIES):  # a packet may be under way while they are read
            stats = json.loads(dpu("-j", "stats", show=False))
            b = stats["balance"]
            into = b["received"] + b["copies"] + b["segments"]
            out = b["transmitted"] + b["dropped"] + b["merged"]
            if into == out:
                break
            time.sleep(0.1)
        say("$ dpu -j stats")
        say("received + copies + segments = transmitted + dropped + merged")
        say("{received} + {copies} + {segments} = {transmitted} + {dropped} + {merged}".format_map(b))
        say(f"{into} = {out}")
        need(into == out, f"{into - out} packets are not accounted for")
        need(b["dropped"] == sum(stats["drops"].values()), "drops by reason do not add up")

    def take_down(self):
        """Take everything down."""
        self.daemon.stop()
        self.daemon = None
        for container in (self.web, self.client):
            links = container.run("ip", "-o", "link")
            need("eth0" not in links, f"{container.name} still has an interface:\n{links}")
            container.remove()
        say("daemon stopped, its interfaces are gone, containers removed")

    STEPS = (make_containers, start_daemon, ping, download, transfer, drop_port, add_up, take_down)

    def run(self):
        """Walk the steps; returns the exit status."""
        FOLDER.mkdir()
        os.environ.pop("DPU_SOCKET", None)
        try:
            for number, step in enumerate(self.STEPS, 1):
                title = step.__doc__.rstrip(".")
                print(f"\n{number}/{len(self.STEPS)}  {title}", flush=True)
                began = time.monotonic()
                try:
                    step(self)
                except FAILURES as error:
                    print(f"\ndemo: step {number} failed: {title}: {error}", file=sys.stderr)
                    return 1
                say(f"[{time.monotonic() - began:.1f} s]")
        finally:
            if self.daemon:  # in order, so that it can say why it is unhappy
                with contextlib.suppress(DaemonError):
                    self.daemon.stop()
        print(f"\nAll steps done in {time.monotonic() - self.began:.1f} s.")
        print(f"What stays: the compiled kernels in {CACHE}.")
        return 0

    @staticmethod
    def _curl(seconds):
        return ["curl", "--noproxy", "*", "-sSf", "-m", seconds]

    @staticmethod
    def _url(path):
        return f"http://{WEB}:{HTTP_PORT}/{path}"


def missing():
    """Return what the demo lacks on this machine, or None."""
    if os.geteuid() != 0:
        return "needs root: it makes network namespaces and interfaces"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "needs /dev/net/tun"
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if lacks := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"needs {', '.join(lacks)}: `make setup`, as root, installs what Debian has"
    return None


def main():
    """Run the demo in a sandbox; returns the exit status."""
    if lack := missing():
        print(f"demo: {lack}", file=sys.stderr)
        return 1
    os.chdir(ROOT)
    keep = [ROOT, Path(sys.prefix), Path(sys.base_prefix)]
    try:
        code = sandbox.run(lambda: Demo().run(), keep)
    except OSError as error:
        print(f"demo: cannot make namespaces: {error.strerror}", file=sys.stderr)
        return 1
    if code > SIGNALLED:
        print("\ndemo: interrupted; everything is taken down", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())

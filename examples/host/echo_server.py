"""Echo server: sends every frame back to where it came from, in the buffer it came in.

    python -m examples.host.echo_server SOCKET [--seconds N]

MAC addresses, IPv4 or IPv6 addresses and TCP or UDP ports are swapped, which leaves every checksum as it was,
also one that is still owed. Bursts are rewritten as arrays: no Python runs for a single packet.
"""

import argparse
import time

import numpy as np

from dpu_runtime import host

BURST = 64
HEADERS = 58  # octets of Ethernet, IPv6 and two ports


def swapped(headers):
    """Answer headers, uint8[n, HEADERS], of received ones."""
    out = headers.copy()
    out[:, 0:6], out[:, 6:12] = headers[:, 6:12], headers[:, 0:6]
    ethertype = headers[:, 12].astype(np.uint16) << 8 | headers[:, 13]
    ipv4 = (ethertype == 0x0800) & (headers[:, 14] == 0x45)
    ipv6 = ethertype == 0x86DD
    for chosen, source, size, protocol in ((ipv4, 26, 4, 23), (ipv6, 22, 16, 20)):
        middle, end = source + size, source + 2 * size
        out[chosen, source:middle] = headers[chosen, middle:end]
        out[chosen, middle:end] = headers[chosen, source:middle]
        ported = chosen & np.isin(headers[:, protocol], (6, 17))
        if size == 4:  # a later fragment has no ports
            ported &= (headers[:, 20] & 0x1F == 0) & (headers[:, 21] == 0)
        out[ported, end : end + 2] = headers[ported, end + 2 : end + 4]
        out[ported, end + 2 : end + 4] = headers[ported, end : end + 2]
    return out


def echo(port, handles):
    """Send one burst back; returns packets received."""
    count = port.rx_batch(handles)
    if not count:
        return 0
    rows = port.rows(handles[:count])
    places = port.offsets(rows)[:, None] + np.arange(HEADERS)
    # A shorter frame's row goes on into its buffer's unused octets.
    port.memory[places] = swapped(port.memory[places])
    port.bufs["flags"][rows] &= host.NEEDS_CSUM
    taken = port.tx_batch(handles[:count])
    port.free_batch(handles[taken:count])
    return count


def main():
    """Serve for a time, and say how many packets went back."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("socket")
    parser.add_argument("--seconds", type=float, default=1e9)
    arguments = parser.parse_args()
    handles = np.empty(BURST, np.uint64)
    with host.open(arguments.socket, connect_ms=5000) as port:
        print("ready", flush=True)
        end = time.monotonic() + arguments.seconds
        while time.monotonic() < end:
            try:
                if not echo(port, handles):
                    port.wait(0.1)
            except host.DpuError as error:  # it is reconnected to
                print(error, flush=True)
        print(f"sent {port.stats()['tx_packets']}")


if __name__ == "__main__":
    main()

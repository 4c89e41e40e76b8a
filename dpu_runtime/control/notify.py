"""Tell systemd how the daemon is.

Spec: sd_notify(3): one datagram of KEY=VALUE lines to the Unix socket $NOTIFY_SOCKET.
"""

import os
import socket


def sd_notify(*lines):
    """Send `lines`, such as READY=1; without a service manager nothing happens. Returns whether sent."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto("\n".join(lines).encode(), address)
        except OSError:
            return False  # the manager is gone; that must not stop the daemon
    return True


def watchdog_interval_s():
    """Return half of the time systemd waits for a sign of life, or None when it does not."""
    pid = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    timeout_us = os.environ.get("WATCHDOG_USEC", "")
    if pid != str(os.getpid()) or not timeout_us.isdigit() or timeout_us == "0":
        return None
    return int(timeout_us) / 2e6

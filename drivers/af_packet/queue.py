"""AF_PACKET port, compiled half: what the worker loop calls.

Not: how packets get out of the rings (receive.py) and into them (transmit.py).
"""

from dpu_runtime.drivers.af_packet.receive import give_back, receive
from dpu_runtime.drivers.af_packet.transmit import transmit
from dpu_runtime.drivers.burst import book_down
from dpu_runtime.drivers.entry import Op, entry


@entry(Op.RX)
def packet_rx(burst, io, port):
    """Receive a burst: (packets, errno); `packet_done` must follow."""
    return receive(burst, io, port)


@entry(Op.DONE)
def packet_done(io, port):
    """Give back to the kernel what the last burst lay in: it is sent."""
    give_back(io, port)


@entry(Op.TX)
def packet_tx(burst, io, port, first, end):
    """Send `packets[first:end]`; of a port whose rings this process has not mapped, drop them."""
    if io.fds[port] >= 0:
        transmit(burst, io, port, first, end)
    else:  # its row in shared memory says where the rings of a dead process were
        book_down(end - first, io.counters[port], burst.drops)

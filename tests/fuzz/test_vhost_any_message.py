"""Messages as hypothesis thinks of them: any request, flags, size, octets and descriptors, in any order.

Beside the damaged conversations of `vhost_messages.py`: what fails here is shrunk to the few messages that
do it.
"""

import contextlib
import logging
import tempfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpu_runtime.drivers.vhost_user import features as f
from dpu_runtime.drivers.vhost_user import port as port_module
from dpu_runtime.drivers.vhost_user.messages import HEADER, NEED_REPLY, VERSION, Request
from dpu_runtime.drivers.vhost_user.port import VhostUserPort
from tests.drivers.vhost_user import raw_frontend as raw
from tests.drivers.vhost_user.raw_frontend import u64
from tests.fuzz.vhost_conversations import INTERESTING, Pool
from tests.fuzz.vhost_messages import CheckingPlane, Watch, hear_out, send

NO_CUTS = type("NoCuts", (), {"choice": lambda self, _: 0, "random": lambda self: 1.0})()  # whole messages

words = st.one_of(st.sampled_from(INTERESTING), st.integers(0, (1 << 64) - 1))
payloads = st.one_of(
    st.binary(max_size=300),
    st.lists(words, max_size=8).map(lambda values: b"".join(u64(value) for value in values)),
)
requests = st.one_of(st.sampled_from(list(Request)), st.integers(0, 0xFFFFFFFF))
messages = st.tuples(
    requests,
    payloads,
    st.sampled_from([VERSION, VERSION | NEED_REPLY, 0, 0xFFFFFFFF]),
    st.lists(st.integers(0, 11), max_size=9),  # which descriptors of the pool come with it
    st.one_of(st.none(), st.integers(0, 0xFFFFFFFF)),  # the size it claims; None: its own
)


@pytest.fixture(scope="module")
def served():
    """A port at work, a pool of descriptors, and what was logged."""
    logger = logging.getLogger("dpu.vhost_user")
    watch, pool, pause = Watch(), Pool(), port_module.ERROR_PAUSE_S
    port_module.ERROR_PAUSE_S = 0
    logger.addHandler(watch)
    with tempfile.TemporaryDirectory(prefix="dpu-") as folder:
        port = raw.Served(VhostUserPort("any", f"{folder}/any.sock", queues=2), CheckingPlane())
        with port:
            yield port, pool, watch
    logger.removeHandler(watch)
    port_module.ERROR_PAUSE_S = pause
    pool.close()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.lists(messages, min_size=1, max_size=12), hello=st.booleans())
def test_any_messages_cost_their_own_connection_at_most(served, said, hello):
    port, pool, watch = served
    times = port.plane.connections.count(False)
    fds = raw.open_fds()
    with port.connect() as frontend:
        frontend.sock.setblocking(True)
        if hello:
            frontend.negotiate(protocol=f.PROTOCOL_FEATURES)
            frontend.share()
        for request, payload, flags, numbers, size in said:
            header = HEADER.pack(int(request), flags, len(payload) if size is None else size)
            with_it = [pool.every[number % len(pool.every)] for number in numbers]
            if not send(NO_CUTS, frontend.sock, header + payload, with_it):
                break
        with contextlib.suppress(OSError):
            hear_out(frontend.sock)
    port.gone(times + 1)
    assert raw.open_fds() == fds
    assert watch.errors == []
    assert port.plane.bad == []
    assert port.plane.fds_wrong == 0

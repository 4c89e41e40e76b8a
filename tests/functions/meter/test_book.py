"""Limits of a port as rows of the meters, flags of the port, and the shaper of its interface."""

from types import SimpleNamespace

import pytest

from dpu_runtime.config.models import NullPort, TapPort
from dpu_runtime.functions.meter import FUNCTION
from dpu_runtime.functions.meter.book import MeterBook, active
from dpu_runtime.functions.meter.limits import burst_behind_shaper, meter_burst, shaper_burst, shaper_queue
from dpu_runtime.functions.meter.shaper import wire
from dpu_runtime.kernels.meter.table import METER_WORDS, RX, TX, WORD_PAID, write_meter
from tests.functions import regions

MBIT = 1_000_000


def null(**keys):
    return NullPort(name="p", kind="null", **keys)


def tap(**keys):
    return TapPort(name="p", kind="tap", ifname="p", **keys)


@pytest.fixture
def book():
    return regions.book(MeterBook, FUNCTION)


def words(rate, burst):
    made = [0] * METER_WORDS
    write_meter(made, rate, burst)
    return made


def put(book, port, index=3):
    book.port(index, port, regions.row())
    return book.tables.meters[index].tolist()


def test_limits_become_rows(book):
    rows = put(book, null(rx_rate=5 * MBIT, tx_rate="7mbit", tx_burst=100_000))
    assert rows[RX] == words(5 * MBIT, meter_burst(5 * MBIT, None))
    assert rows[TX] == words(7 * MBIT, 100_000)


def test_a_meter_behind_a_shaper_has_room_for_what_the_shaper_lets_through(book):
    rows = put(book, tap(rx_rate=5 * MBIT, tx_rate=5 * MBIT))
    assert rows[RX] == words(5 * MBIT, burst_behind_shaper(5 * MBIT, None))
    assert rows[TX] == words(5 * MBIT, meter_burst(5 * MBIT, None))


def test_what_was_used_stays_used_until_the_port_goes(book):
    put(book, null(rx_rate=MBIT))
    book.tables.meters[3, :, WORD_PAID] = 77
    put(book, null(rx_rate=2 * MBIT))
    assert book.tables.meters[3, RX, WORD_PAID] == 77
    book.port(3, None, regions.row())
    assert book.tables.meters[3, :, WORD_PAID].tolist() == [0, 0]


def test_a_way_is_metered_where_it_has_a_limit():
    is_on = active({}, None)
    port = null(rx_rate=MBIT)
    assert (is_on("meter_rx", port), is_on("meter_tx", port)) == (True, False)
    assert (is_on("meter_rx", null(tx_rate=MBIT)), is_on("meter_tx", null(tx_rate=MBIT))) == (False, True)


class Wire:
    """What a hook asks of an interface."""

    index = 9

    def __init__(self):
        self.asked = []
        self.ipr = SimpleNamespace(tc="tc")

    def ask(self, what, call, *args, **kwargs):
        self.asked.append((what, call, args, kwargs))


@pytest.mark.parametrize("before", [None, tap(), tap(rx_rate=MBIT)])
def test_the_interface_is_shaped(before):
    asked = Wire()
    wire(asked, tap(rx_rate=8 * MBIT), before)
    ((what, call, args, kwargs),) = asked.asked
    assert (what, call, args[0], kwargs["index"]) == ("shape to 8000000 bits a second", "tc", "replace", 9)
    depth = shaper_burst(8 * MBIT, None)
    assert (kwargs["rate"], kwargs["burst"], kwargs["limit"]) == (MBIT, depth, shaper_queue(8 * MBIT, depth))


def test_a_shaper_ends_with_its_limit():
    asked = Wire()
    wire(asked, tap(), None)
    wire(asked, tap(), tap())
    assert asked.asked == []
    wire(asked, tap(), tap(rx_rate=MBIT))
    assert [one[0] for one in asked.asked] == ["end the shaper"]

"""What a port is to the switch, as rows and flags."""

import numpy as np
import pytest

from dpu_runtime.config.errors import ConfigError
from dpu_runtime.config.file import parse_config
from dpu_runtime.config.models import AfPacketPort, NullPort
from dpu_runtime.functions.switch import FUNCTION
from dpu_runtime.functions.switch.book import SwitchBook, active
from dpu_runtime.functions.switch.config import SwitchSettings
from dpu_runtime.kernels.layout import PORT_SPOOF_CHECK, PORT_TRUNK
from dpu_runtime.kernels.switch.mac_table import AGEING_TICKS, MAC_SLOTS, TICKS_PER_SECOND
from tests.functions import regions


@pytest.fixture
def book():
    return regions.book(SwitchBook, FUNCTION)


def put(book, **keys):
    row = regions.row()
    book.port(3, NullPort(name="p", kind="null", **keys), row)
    bits = np.unpackbits(book.tables.vlan_allowed[3].view(np.uint8), bitorder="little")
    return int(row["vlan"]), int(row["flags"]), bits.nonzero()[0].tolist()


def test_vlans_and_the_spoof_check_of_a_port(book):
    assert put(book) == (0, 0, [])
    assert put(book, vlan=5) == (5, 0, [5])
    assert put(book, trunk=[4094, 64, 1], vlan=7) == (7, PORT_TRUNK, [1, 7, 64, 4094])
    assert put(book, trunk=[]) == (0, PORT_TRUNK, [])
    assert put(book, spoof_check=True) == (0, PORT_SPOOF_CHECK, [])
    put(book, trunk=[9])
    book.port(3, None, regions.row())
    assert not book.tables.vlan_allowed.any()


def test_the_ageing_time(book):
    book.publish({}, SwitchSettings(mac_ageing_s=7), {"port": {}})
    assert book.tables.settings[AGEING_TICKS] == 7 * TICKS_PER_SECOND


def test_what_a_dead_data_plane_owned_is_freed(book):
    book.tables.mac[0] = 77  # a key without a port: somebody was filling it
    book.tables.mac[1], book.tables.mac[1 + MAC_SLOTS] = 78, 1 << 48
    book.repair()
    assert book.tables.mac[:2].tolist() == [0, 78]


def test_every_stage_is_always_on():
    is_on = active({}, SwitchSettings())
    assert all(is_on(stage.name, NullPort(name="p", kind="null")) for stage in FUNCTION.stages)


def test_a_checked_address_has_to_be_known():
    port = '[[port]]\nname = "p"\nkind = "af_packet"\nifname = "e"\nspoof_check = true\n'
    with pytest.raises(ConfigError) as caught:
        parse_config(port, "f")
    assert str(caught.value) == "f:5: port[0].spoof_check = true: needs `mac`"
    (made,) = parse_config(port + 'mac = "02:00:00:00:00:01"\n').port
    assert isinstance(made, AfPacketPort)

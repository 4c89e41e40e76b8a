"""Rate limits in a configuration: what may be said, and what is answered to everything else."""

import pytest

from dpu_runtime.config.errors import ConfigError
from dpu_runtime.config.file import parse_config
from tests.dpu_runtime.config.test_config import PORT, RING

pytestmark = pytest.mark.one_mode("configuration: no kernel is called")
RATE_ALLOWED = 'allowed: 8000..34000000000 bits a second, or text such as "20mbit" (bit, kbit, mbit, gbit)'
BURST_ALLOWED = "allowed: 65536..1073741824 octets"

WRONG = [
    (PORT + "rx_rate = 7999", f"f:5: port[0].rx_rate = 7999: {RATE_ALLOWED}"),
    (PORT + "tx_rate = 34000000001", f"f:5: port[0].tx_rate = 34000000001: {RATE_ALLOWED}"),
    (PORT + "tx_rate = true", f"f:5: port[0].tx_rate = true: {RATE_ALLOWED}"),
    *(
        (PORT + f'rx_rate = "{text}"', f'f:5: port[0].rx_rate = "{text}": {why}{RATE_ALLOWED}')
        for text, why in (
            ("fast", "not a rate; "),
            ("20 mbit", "not a rate; "),
            ("20mbps", "not a rate; "),
            ("-20mbit", "not a rate; "),
            ("", "not a rate; "),
            ("35gbit", "out of range; "),
            ("7.9kbit", "out of range; "),
        )
    ),
    (PORT + 'rx_rate = "1mbit"\nrx_burst = 65535', f"f:6: port[0].rx_burst = 65535: {BURST_ALLOWED}"),
    (PORT + "rx_burst = 65536", "f:5: port[0].rx_burst = 65536: needs `rx_rate`"),
    (PORT + 'rx_rate = "1mbit"\ntx_burst = 70000', "f:6: port[0].tx_burst = 70000: needs `tx_rate`"),
    (
        RING + 'xconnect = "vm"\nrx_rate = "1mbit"',
        "f:6: port[0].rx_rate = 1000000: does not go with the cross-connect of vm, which passes packets as"
        " they are",
    ),
    (
        RING + 'xconnect = "db"\n' + RING.replace("vm", "db") + 'tx_rate = "1mbit"',
        "f:10: port[1].tx_rate = 1000000: does not go with the cross-connect of vm, which passes packets as"
        " they are",
    ),
]


@pytest.mark.parametrize(("text", "expected"), WRONG, ids=range(len(WRONG)))
def test_wrong_limits_have_one_clear_error(text, expected):
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "f")
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("20000000", 20_000_000),
        ('"20000000"', 20_000_000),
        ('"8000bit"', 8_000),
        ('"8kbit"', 8_000),
        ('"20mbit"', 20_000_000),
        ('"20Mbit"', 20_000_000),
        ('"2.5gbit"', 2_500_000_000),
    ],
)
def test_rates(text, rate):
    (port,) = parse_config(PORT + f"tx_rate = {text}\ntx_burst = 100_000\n").port
    assert (port.tx_rate, port.tx_burst, port.rx_rate, port.rx_burst) == (rate, 100_000, None, None)

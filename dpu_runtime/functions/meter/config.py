"""Keys of `[[port]]`: rate limits."""

import re
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from dpu_runtime.config.model import Keys, refuse
from dpu_runtime.config.types import Allowed, Cli, NotCrossed
from dpu_runtime.kernels.meter.table import BURST_MAX, BURST_MIN, RATE_MAX, RATE_MIN

_BIT_RATE = re.compile(r"([0-9]{1,12}(?:[.][0-9]{1,9})?)(?:([kmg]?)bit)?")
_SI = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def _bit_rate(value):
    """Bits a second of a number, or of text as tc(8) takes it: SI suffixes, bits."""
    if not isinstance(value, str):
        return value
    match = _BIT_RATE.fullmatch(value.lower())
    if not match:
        raise ValueError("not a rate")
    rate = round(Decimal(match[1]) * _SI[match[2] or ""])
    if not RATE_MIN <= rate <= RATE_MAX:
        raise ValueError("out of range")
    return rate


BitRate = Annotated[
    int,
    Field(ge=RATE_MIN, le=RATE_MAX),
    BeforeValidator(_bit_rate),
    WithJsonSchema({"type": ["integer", "string"]}),
    Allowed(f'{RATE_MIN}..{RATE_MAX} bits a second, or text such as "20mbit" (bit, kbit, mbit, gbit)'),
    Cli("RATE"),
]
Burst = Annotated[int, Field(ge=BURST_MIN, le=BURST_MAX), Allowed(f"{BURST_MIN}..{BURST_MAX} octets")]


class MeterKeys(Keys):
    """Rate limits of a port; all of them change under traffic."""

    rx_rate: Annotated[BitRate | None, NotCrossed("rx")] = Field(
        None,
        description="most that may come in here, in bits of frames a second; a tap port's interface is"
        " shaped, any other port loses what exceeds it; default: no limit",
    )
    rx_burst: Burst | None = Field(
        None, description="octets that may come in at once; default: 250 ms of `rx_rate`, 10 ms of a tap port"
    )
    tx_rate: Annotated[BitRate | None, NotCrossed("tx")] = Field(
        None,
        description="most that may go out here, in bits of frames a second; what exceeds it is dropped;"
        " default: no limit",
    )
    tx_burst: Burst | None = Field(
        None, description="octets that may go out at once; default: 250 ms of `tx_rate`"
    )

    @model_validator(mode="after")
    def _bursts_have_rates(self):
        refuse(
            self,
            [
                ((f"{way}_burst",), f"needs `{way}_rate`", getattr(self, f"{way}_burst"))
                for way in ("rx", "tx")
                if getattr(self, f"{way}_burst") is not None and getattr(self, f"{way}_rate") is None
            ],
        )
        return self

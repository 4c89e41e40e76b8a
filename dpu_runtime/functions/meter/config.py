"""Keys of `[[port]]`: rate limits."""

from pydantic import Field, model_validator

from dpu_runtime.config import types
from dpu_runtime.config.model import Model, refuse


class MeterKeys(Model):
    """Rate limits of a port; all of them change under traffic."""

    rx_rate: types.BitRate | None = Field(
        None,
        description="most that may come in here, in bits of frames a second; a tap port's interface is"
        " shaped, any other port loses what exceeds it; default: no limit",
    )
    rx_burst: types.Burst | None = Field(
        None, description="octets that may come in at once; default: 250 ms of `rx_rate`, 10 ms of a tap port"
    )
    tx_rate: types.BitRate | None = Field(
        None,
        description="most that may go out here, in bits of frames a second; what exceeds it is dropped;"
        " default: no limit",
    )
    tx_burst: types.Burst | None = Field(
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

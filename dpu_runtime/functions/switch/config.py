"""Keys of `[[port]]` and `[runtime]`: VLANs, learning, spoof check."""

from typing import Annotated, ClassVar

from pydantic import Field, field_validator, model_validator

from dpu_runtime.config import types
from dpu_runtime.config.model import Keys, refuse
from dpu_runtime.config.types import Allowed


class SwitchSettings(Keys):
    """Keys of `[runtime]`."""

    BEFORE: ClassVar[str] = "idle_spin_us"

    mac_ageing_s: Annotated[int, Field(ge=1, le=1_000_000), Allowed("1..1000000 seconds")] = Field(
        300, description="a learned MAC address is forgotten after this time without a packet from it"
    )


class SwitchKeys(Keys):
    """What a port is to the switch; all of it changes under traffic."""

    BEFORE: ClassVar[str] = "verify_checksum"

    vlan: types.VlanId | None = Field(None, description="VLAN of untagged packets; default: none")
    trunk: Annotated[list[types.VlanId], Allowed("VLAN IDs, 1..4094, each once")] | None = Field(
        None, description="VLANs whose tags the port takes, all others are dropped; default: any tag"
    )
    spoof_check: bool = Field(False, description="drop packets whose source MAC address is not `mac`")

    @field_validator("trunk")
    @classmethod
    def _vlans_once(cls, trunk):
        if trunk is None:
            return None
        if len(set(trunk)) != len(trunk):
            raise ValueError("names a VLAN twice")
        return sorted(trunk)

    @model_validator(mode="after")
    def _checked_address_is_known(self):
        refuse(self, [(("spoof_check",), "needs `mac`", True)] if self.spoof_check and not self.mac else [])
        return self

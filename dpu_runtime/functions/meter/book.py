"""Rate limits on their way into the meters: a row a port and direction.

What comes from an interface that the device makes is shaped there (shaper.py); its meter stays behind the
shaper, with room for what a late worker finds at once.
"""

from dpu_runtime.device.live_port import makes_interface
from dpu_runtime.functions.book import Book
from dpu_runtime.functions.meter.limits import burst_behind_shaper, meter_burst
from dpu_runtime.kernels.meter.table import RX, TX, clear_meters, write_meter


def active(_items, _settings):
    """A way of a port is metered when it has a limit."""
    return lambda stage, port: (port.rx_rate if stage == "meter_rx" else port.tx_rate) is not None


class MeterBook(Book):
    """`meters` of all ports."""

    def port(self, index, config, row):
        """Write the limits of a port; what was used of them stays used."""
        meters = self.tables.meters[index]
        if config is None:
            clear_meters(meters)
            return
        if config.rx_rate is not None:
            burst = burst_behind_shaper if makes_interface(config) else meter_burst
            write_meter(meters[RX], config.rx_rate, burst(config.rx_rate, config.rx_burst))
        if config.tx_rate is not None:
            write_meter(meters[TX], config.tx_rate, meter_burst(config.tx_rate, config.tx_burst))

"""TAP ports: a network interface whose wire is the DPU."""

MTU_MAX = 65535 - 14  # octets; the kernel takes the Ethernet header off 65535 for a TAP

"""TAP ports: a network interface whose wire is the DPU."""

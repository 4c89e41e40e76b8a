"""libdpu: a host program's side of a port, in C. `build_host.py` makes it importable as `drivers.host._libdpu`."""

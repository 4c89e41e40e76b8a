"""libdpu: a host program's side of a port, in C; `build_host.py` makes `drivers.host._libdpu` of it."""

"""libdpu: a host program's side of a port, in C; `build_host.py` makes the module `_libdpu` of it."""

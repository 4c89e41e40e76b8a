"""podman's networks on ports of the DPU: a netavark plugin, one process a request, standard library only.

`network.py` is what podman says of a network, `container.py` what it says of a container and what becomes of
that, `command.py` the process.
"""

"""AF_XDP ports: an interface that exists already, by XDP rings and a memory shared with the kernel."""

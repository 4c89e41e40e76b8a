"""AF_PACKET ports: an interface that exists already, by packet rings shared with the kernel."""

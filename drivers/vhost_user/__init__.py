"""vhost-user ports: a virtual machine or host program on the other side of shared memory."""

QUEUE_PAIRS_MAX = 16  # of a port

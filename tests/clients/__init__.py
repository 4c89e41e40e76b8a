"""Clients of a vhost-user port that this project did not write: DPDK's testpmd, QEMU with a Debian guest."""

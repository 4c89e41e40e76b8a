"""Docker's networks on ports of the DPU: a process of its own, between dockerd and the daemon.

    dockerd  --HTTP, remote driver API-->  dpu-docker  --JSON-RPC-->  daemon

`protocol.py` is what dockerd says, `records.py` what is remembered, `networks.py` and `endpoints.py` what is
done, `placement.py` and `detaching.py` what is done later, `daemon_call.py` the other end, `server.py` and
`command.py` the process.
"""

"""The CNI plugin `dpu-cni`: containers of podman, containerd and CRI-O on ports of the DPU; README.md.

Not: anything beyond the standard library, in any file of this folder: it runs once for every container.
"""

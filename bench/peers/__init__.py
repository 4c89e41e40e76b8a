"""What the bench scripts put side by side: pairs of hosts, joined by the DPU or by something else."""

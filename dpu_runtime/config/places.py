"""What is in a state directory, by name.

Not:  what the files say (control/state.py); anything heavy, `dpu` imports this.
"""

DEFAULT_STATE_DIR = "/var/lib/dpu"
LOCK = "dpu.lock"  # held while a daemon lives, flock(2); holds its process number
RUNNING = "running.json"
ADOPT_SOCKET = "dataplane.sock"  # the data plane waits there for the next control process

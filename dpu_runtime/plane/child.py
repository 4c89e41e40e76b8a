"""A data-plane process as its parent starts it.

It loads what every one needs, and waits for the names of what it is to have machine code of. Nothing heavy is
imported here: `dpu run` starts one before it reads its configuration.
"""

import socket
import subprocess
import sys


class Child:
    """A process that was just started. Raises OSError: no memory, no descriptors.

    process  subprocess.Popen
    sock     the parent's end of the channel
    taken    somebody else ends it
    """

    def __init__(self):
        self.taken = False
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dpu_runtime.plane.dataplane", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except BaseException:
            self.sock.close()
            raise
        finally:
            theirs.close()

    def end(self):
        """End it unless it was taken; twice is allowed."""
        if not self.taken:
            self.taken = True
            self.sock.close()
            self.process.kill()
            self.process.wait()

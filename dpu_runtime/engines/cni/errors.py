"""Errors of the plugin, as a container runtime reads them, and its log.

Spec: CNI 1.1.0 section 5, "Error".
"""

import sys

INCOMPATIBLE_VERSION = 1
UNSUPPORTED_FIELD = 2
UNKNOWN_CONTAINER = 3  # the runtime need not clean up
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
DECODING_FAILURE = 6
INVALID_CONFIG = 7
TRY_AGAIN_LATER = 11
NOT_AVAILABLE = 50  # STATUS
REFUSED = 100  # our own: the daemon refuses
ATTACHED_ALREADY = 101  # our own: ADD once more, without a DEL
DELEGATE_FAILED = 102  # our own: another plugin answers with something that is not CNI
CHECK_FAILED = 103  # our own: CHECK found a difference


class CniError(Exception):
    """An error with its code, and longer details if there are any."""

    def __init__(self, code, text, details=""):
        super().__init__(text)
        self.code = code
        self.details = details

    def as_dict(self, version):
        """The error as it is printed."""
        answer = {"cniVersion": version, "code": self.code, "msg": str(self)}
        return answer | ({"details": self.details} if self.details else {})


def log(text):
    """Tell the runtime's log; standard output is for the result."""
    print(f"dpu-cni: {text}", file=sys.stderr)

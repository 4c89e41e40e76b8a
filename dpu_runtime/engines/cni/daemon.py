"""The daemon as the plugin sees it: its API, with every refusal as a CniError."""

from dpu_runtime.api.client import Client, NoDaemonError
from dpu_runtime.config.errors import RpcError
from dpu_runtime.engines.cni.errors import INVALID_CONFIG, REFUSED, TRY_AGAIN_LATER, CniError

TIMEOUT_S = 30.0  # a daemon that hangs must not hang the runtime
INVALID_PARAMS = -32602  # JSON-RPC 2.0 5.1


class Daemon:
    """A connection. Raises CniError: 11 nobody answers, 7 a value is wrong, 100 refused."""

    def __init__(self, conf):
        try:
            self._client = Client(conf.socket, TIMEOUT_S)
        except NoDaemonError as error:
            raise _unreachable(error) from None

    def call(self, method, **params):
        """Call a method of the API; returns its result."""
        try:
            return self._client.call(method, **params)
        except NoDaemonError as error:
            raise _unreachable(error) from None
        except RpcError as error:
            code = INVALID_CONFIG if error.code == INVALID_PARAMS else REFUSED
            raise CniError(code, f"the daemon refuses {method}: {error.message}") from None

    def port(self, name):
        """Configuration of a port, None if there is none."""
        try:
            return self.call("port.show", name=name)[0]["config"]
        except CniError as error:
            if error.code != REFUSED:  # all it refuses is a name that no port has
                raise
            return None

    def close(self):
        """End the connection; twice is allowed."""
        self._client.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _unreachable(error):
    return CniError(TRY_AGAIN_LATER, str(error))

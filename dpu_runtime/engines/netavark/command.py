"""The command `dpu-netavark`: create, setup NETNS, teardown NETNS, info.

Spec: netavark plugin-API.md: JSON on standard input, JSON or nothing on standard output; on failure
      {"error": text} there and exit code 1.
"""

import json
import sys

import dpu_runtime
from dpu_runtime.engines.netavark.container import setup, teardown
from dpu_runtime.engines.netavark.network import RefusedError, create

API_VERSION = "1.0.0"
INPUT_BYTES_MAX = 1 << 20  # octets


def main(argv=None):
    """Run one subcommand; returns the exit code."""
    try:
        answer = _run(list(sys.argv[1:] if argv is None else argv))
    except RefusedError as error:
        print(json.dumps({"error": str(error)}))
        return 1
    if answer is not None:
        print(json.dumps(answer))
    return 0


def _run(words):
    name, *rest = words or ["info"]
    if name == "info":
        return {"version": dpu_runtime.__version__, "api_version": API_VERSION}
    if name == "create":
        return create(_input())
    if name not in ("setup", "teardown"):
        raise RefusedError(f"unknown subcommand {name!r}; allowed: create, setup, teardown, info")
    if len(rest) != 1 or not rest[0].startswith("/"):
        raise RefusedError(f"{name} {' '.join(rest)}: allowed: {name} PATH, of a network namespace")
    return (setup if name == "setup" else teardown)(_input(), rest[0])


def _input():
    octets = sys.stdin.buffer.read(INPUT_BYTES_MAX + 1)
    if len(octets) > INPUT_BYTES_MAX:
        raise RefusedError(f"standard input is longer than {INPUT_BYTES_MAX} octets")
    try:
        data = json.loads(octets)
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"standard input is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise RefusedError("standard input is not a JSON object")
    return data


if __name__ == "__main__":
    sys.exit(main())

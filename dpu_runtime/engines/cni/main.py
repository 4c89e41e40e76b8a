"""The program `dpu-cni`: one command of a container runtime, its answer on standard output.

Spec: CNI 1.1.0 sections 2 (parameters in the environment, configuration on standard input) and 5 (answers).
Out:  nothing but the result or the error goes to standard output; exit 0 or 1. The log is standard error.
"""

import json
import os
import sys

from dpu_runtime.config.errors import Problem
from dpu_runtime.engines.cni import config, result
from dpu_runtime.engines.cni.commands import CLEANING, COMMANDS
from dpu_runtime.engines.cni.environment import Environment
from dpu_runtime.engines.cni.errors import DECODING_FAILURE, INCOMPATIBLE_VERSION, REFUSED, CniError

INPUT_BYTES_MAX = 1 << 20  # octets; a configuration with a long chain's prevResult has a few thousand


def main():
    """Run the command that the environment names; returns the exit code."""
    asked = result.NEWEST
    try:
        env = Environment(dict(os.environ)).checked()
        raw = _decoded(sys.stdin.buffer.read(INPUT_BYTES_MAX + 1), may_be_empty=env.command == "VERSION")
        given = raw.get("cniVersion")
        asked = given if isinstance(given, str) and given else asked
        answer = _run(env, raw)
        code = 0
    except CniError as error:
        answer, code = error.as_dict(asked), 1
    except Exception as error:  # a bug: the runtime gets an answer all the same, and the log the trace
        sys.excepthook(*sys.exc_info())
        answer, code = CniError(REFUSED, f"internal error: {error!r}").as_dict(asked), 1
    if answer is not None:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    return code


def _run(env, raw):
    """Run a command on a decoded configuration; returns what is to be printed, None for nothing."""
    if env.command == "VERSION":
        given = raw.get("cniVersion")
        version = given if given in result.VERSIONS else result.NEWEST
        return {"cniVersion": version, "supportedVersions": list(result.VERSIONS)}
    version = _known_version(raw, env.command)
    conf = config.parse(raw, version, cleaning=env.command in CLEANING)
    return COMMANDS[env.command](env, conf)


def _decoded(data, may_be_empty):
    """The configuration as a table. Raises CniError 6."""
    if len(data) > INPUT_BYTES_MAX:
        raise CniError(DECODING_FAILURE, f"standard input: allowed are {INPUT_BYTES_MAX} octets")
    if may_be_empty and not data.strip():
        return {}
    try:
        raw = json.loads(data.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise CniError(DECODING_FAILURE, f"standard input is no JSON: {error}") from None
    if not isinstance(raw, dict):
        raise CniError(DECODING_FAILURE, "standard input: allowed is a JSON object")
    return raw


def _refuse_constant(name):
    raise ValueError(f"{name} is not JSON")


def _known_version(raw, command):
    version = raw.get("cniVersion", "0.1.0")  # what a configuration without one meant
    if version not in result.VERSIONS:
        allowed = ", ".join(result.VERSIONS)
        raise CniError(INCOMPATIBLE_VERSION, str(Problem("cniVersion", "", allowed, version)))
    since = result.SINCE.get(command)
    if since and not result.at_least(version, since):
        problem = Problem("cniVersion", f"{command} came with {since}", "", version)
        raise CniError(INCOMPATIBLE_VERSION, str(problem))
    return version


def program():
    """Be `dpu-cni`: answer, and end at once, as taking the interpreter apart takes as long as the command."""
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    program()

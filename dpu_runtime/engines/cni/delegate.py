"""Other plugins, run as the runtime runs this one: IPAM, and `portmap`.

Spec: CNI 1.1.0 section 4, "Plugin delegation".
In:   a name, CNI_PATH, a configuration. Out: its decoded answer; its error is ours, under its own code.

A plugin that does not know the version of the configuration is asked which it knows, and called in the
newest one that both do: Debian 12 has plugins of 1.0.0.
"""

import json
import os

from dpu_runtime.config.errors import Problem
from dpu_runtime.engines.cni import result
from dpu_runtime.engines.cni.errors import DELEGATE_FAILED, INCOMPATIBLE_VERSION, INVALID_CONFIG, CniError

_READ_BYTES = 1 << 16


class Delegate:
    """The plugin `name`, found in CNI_PATH. Raises CniError 7 when it is not there.

    key   of the configuration that names it
    """

    def __init__(self, name, env, key="type"):
        self.name = name
        self._env = env
        for folder in env.path:
            self._program = os.path.join(folder, name)
            if os.access(self._program, os.X_OK) and os.path.isfile(self._program):
                return
        allowed = f"a program in CNI_PATH ({':'.join(env.path) or 'which is empty'})"
        raise CniError(INVALID_CONFIG, str(Problem(key, "no such plugin", allowed, name)))

    def run(self, command, raw, version):
        """Run one command on a configuration; returns its answer, None if it printed nothing."""
        try:
            return self._run(command, _in_version(raw, version))
        except CniError as error:
            if error.code != INCOMPATIBLE_VERSION:
                raise
            common = [known for known in self.versions() if known != version]
            if not common:
                raise
            return self._run(command, _in_version(raw, common[-1]))

    def versions(self):
        """The versions that both it and this plugin know, newest last."""
        answer = self._run("VERSION", {"cniVersion": result.NEWEST})
        known = answer.get("supportedVersions") if isinstance(answer, dict) else None
        return [version for version in result.VERSIONS if version in (known or ())]

    def knows(self, command):
        """Whether it is new enough for a command that came with a later version."""
        return any(result.at_least(version, result.SINCE[command]) for version in self.versions())

    def _run(self, command, conf):
        variables = {**self._env.variables, "CNI_COMMAND": command}
        status, output = _execute(self._program, variables, json.dumps(conf).encode())
        what = f"{self.name} {command}"
        try:
            answer = json.loads(output) if output.strip() else None
        except (ValueError, RecursionError):
            text = output[:200].decode(errors="replace")
            raise CniError(DELEGATE_FAILED, f"{what}: exit {status}, and no JSON", text) from None
        if status == 0:
            return answer
        if not isinstance(answer, dict) or not isinstance(answer.get("code"), int):
            raise CniError(DELEGATE_FAILED, f"{what}: exit {status} without an error in JSON")
        raise CniError(answer["code"], f"{what}: {answer.get('msg', '')}", str(answer.get("details") or ""))


def _in_version(raw, version):
    conf = {**raw, "cniVersion": version}
    if isinstance(raw.get("prevResult"), dict):
        conf["prevResult"] = result.convert(raw["prevResult"], version)
    return conf


def _execute(program, variables, text):
    """Run a program on `text`; returns (exit status, what it printed). Its stderr is ours.

    Not by `subprocess`, whose import takes as long as everything else here.
    """
    stdin = os.memfd_create("cni", os.MFD_CLOEXEC)
    output, stdout = os.pipe()
    try:
        os.write(stdin, text)
        os.lseek(stdin, 0, os.SEEK_SET)
        actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1)]
        pid = os.posix_spawn(program, [program], variables, file_actions=actions)
    except OSError as error:
        os.close(output)
        raise CniError(DELEGATE_FAILED, f"{program}: {error.strerror}") from None
    finally:
        os.close(stdin)
        os.close(stdout)
    parts = []
    with open(output, "rb", buffering=0) as stream:
        while part := stream.read(_READ_BYTES):
            parts.append(part)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), b"".join(parts)

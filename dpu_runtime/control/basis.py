"""What a start goes by: the configuration file, or what was applied since.

The rule: what `dpu apply` made run is in force until the daemon is started with a configuration file that
says something else than the one it had when `dpu apply` was called. That file wins, the log says how it
differs, and what was applied is forgotten; applied.toml in the state directory has it.
Not:  how it is made to run, control.py; a data plane that runs already: what runs goes on.
"""

import logging

from dpu_runtime.config.errors import DaemonError
from dpu_runtime.config.file import config_toml
from dpu_runtime.config.models import RuntimeConfig
from dpu_runtime.control import plan
from dpu_runtime.control.words import by_section, enumeration

log = logging.getLogger("dpu.daemon")


class Basis:
    """What the state directory says was applied, beside the configuration that the daemon was started with.

    found    the `Applied` there, None without
    applied  the same if it is in force, else None
    config   all that is to run soon, but for what was made at run time
    """

    def __init__(self, state, config, file=None):
        """file: digest of the configuration file, None without."""
        self._state = state
        self._given = config
        self._named = file is not None
        self._problem = None
        self.found = None
        try:
            self.found = state.load_applied()
        except DaemonError as error:
            self._problem = str(error)
        self.applied = self.found if self.found is not None and self.found.in_force(file) else None
        self.config = config if self.applied is None else _with(config, self.applied)

    def settle(self):
        """Say what of the state directory does not count, and put it by, where nothing runs already."""
        refused = self.applied.kept.refused if self.applied is not None else []
        for problem in [self._problem] if self._problem else refused:
            log.error("applied, and lost: %s", problem)
        if self._problem or refused:
            try:
                log.error("%s has what was applied, for you to look at", self._state.set_aside_running())
            except OSError as error:
                log.error("no copy of it: %s: %s", error.filename2, error.strerror)
        if self.found is not None:
            before = _with(self._given, self.found)
            lines = plan.summary(before, self._given)
            if lines and self.applied is None:
                self._give_way(before, lines)
            elif lines and self._named:
                log.warning(
                    "the configuration file says what it said at `dpu apply`, so what was applied is in force"
                    ", not the file, which differs in %d lines; `dpu apply FILE` makes the file run",
                    len(lines),
                )

    def _give_way(self, before, lines):
        """The configuration file wins; `lines` is how it differs from `before`, which was applied."""
        for line in lines:
            log.warning("not as it was applied: %s", line)
        runtime = RuntimeConfig(**self.found.settings)
        try:
            path = self._state.put_by(config_toml(before.model_copy(update={"runtime": runtime})))
            copy = f"`dpu apply {path}` makes that run again"
        except OSError as error:
            copy = f"no copy of it: {error.filename}: {error.strerror}"
        log.warning(
            "the configuration file is another than it was at `dpu apply`: it wins, and what was applied"
            " is forgotten; %s",
            copy,
        )


async def forget(state, device):
    """Forget what was applied and what was made at run time, and say what that is.

    Raises DaemonError while a data plane runs that a daemon would adopt.
    """
    if pid := await device.runs_already():
        raise DaemonError(
            f"--fresh: data plane {pid} runs in state directory {state.path}, with all that would be"
            " forgotten; start the daemon without --fresh, which takes it over, and stop it first"
        )
    for what, load in (("applied", state.load_applied), ("made at run time", state.load_kept)):
        try:
            found = load()
        except DaemonError as error:
            log.warning("--fresh: %s, forgotten: %s", what, error)
            continue
        tables = {} if found is None else getattr(found, "kept", found).tables()
        names = by_section([(key, item.name) for key, own in tables.items() for item in own])
        if names or (what == "applied" and found is not None):
            log.warning(
                "--fresh: %s, forgotten: %s", what, enumeration(names) if names else "no port, no rule"
            )
    try:
        state.forget()
    except OSError as error:
        raise DaemonError(f"--fresh: {error.filename}: {error.strerror}") from None


def _with(config, applied):
    """`config` with all that was applied instead of its own; whether that fits is seen when it comes back."""
    lists = {key: applied.kept.of(key) for key in plan.names(config.parts())}
    return config.model_copy(update={"runtime": config.runtime.model_copy(update=applied.settings), **lists})

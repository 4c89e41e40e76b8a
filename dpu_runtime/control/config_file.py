"""The file of `dpu run -c FILE`: read at the start, and again when the daemon is told to.

Not:  what a file may say (config/file.py), how it comes to run (control.py).
"""

import os

from pydantic import ValidationError

from dpu_runtime.config.errors import ApplyError, ConfigError
from dpu_runtime.config.file import digest, parse_config, problems, read_text
from dpu_runtime.config.models import RuntimeConfig


class ConfigFile:
    """A configuration file, or none.

    path   None: the daemon was started without one
    given  keys of [runtime] that the command line said instead of it
    """

    def __init__(self, path=None, given=None):
        self.path = path and os.path.abspath(path)
        self._given = given or {}

    def as_given(self, config):
        """`config` with what the command line said, the rest as it was given."""
        if not self._given:
            return config
        keys = config.runtime.model_dump(exclude_unset=True) | self._given
        try:
            runtime = RuntimeConfig(**keys)
        except ValidationError as error:
            raise ConfigError(problems(error, RuntimeConfig)) from None
        return config.model_copy(update={"runtime": runtime})

    async def apply(self, control, dry_run=False):
        """Make the file run as it is now; returns the changes in lines. Raises ConfigError, ApplyError.

        It is the file that later daemons compare theirs with.
        """
        if self.path is None:
            raise ApplyError(
                "the daemon has no configuration file to read again (`dpu run -c FILE` gives it one);"
                " `dpu apply FILE` makes a file run"
            )
        text = read_text(self.path)
        config = parse_config(text, self.path)
        return await control.apply(self.as_given(config), dry_run, digest(text))

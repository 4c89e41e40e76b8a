"""A parser that gets its options when it is used: of many commands, one start is for one."""

import argparse


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` of a command.

    run   what to call with the parsed arguments, and with what `fill` returned if that is not None
    fill  called with the parser before it is used, once
    """

    def __init__(self, *args, run=None, fill=None, **kwargs):
        super().__init__(*args, **kwargs)
        self._fill = fill or (lambda _: None)
        self._run = run
        self._filled = False

    def filled(self):
        """The parser with all its options."""
        if not self._filled:
            self._filled = True
            made, run = self._fill(self), self._run
            if run:
                self.set_defaults(command=run if made is None else lambda args: run(args, made))
        return self

    def parse_known_args(self, args=None, namespace=None):
        """As `ArgumentParser` does it."""
        self.filled()
        return super().parse_known_args(args, namespace)

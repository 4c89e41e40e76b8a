"""The books of all functions: what is in force of each, and what others' items are numbered.

In:   items and settings of a function; ports that come, change and go.
Out:  rows of functions, and of what names an item whose number became another.
Not:  waiting until workers have left what was in force before; which stages are on, programs.py.
"""

import logging

import numpy as np

from dpu_runtime.config.references import references
from dpu_runtime.drivers.port import PortError
from dpu_runtime.functions.book import Book
from dpu_runtime.kernels.layout import PORT_DTYPE
from dpu_runtime.registry import load

log = logging.getLogger("dpu.device")


class Books:
    """A book a function, each made by its declaration.

    tables_of  function of a Function: its arrays in shared memory
    ports      PORT_DTYPE[PORTS_MAX], in shared memory
    workers    that run
    notes      what `notes` said to an earlier control process, {} if there was none
    """

    def __init__(self, functions, tables_of, ports, workers, notes):
        self._functions = {function.name: function for function in functions}
        self._books = {}
        for name, function in self._functions.items():
            try:
                made = load(function.book) or Book
                self._books[name] = made(function, tables_of(function), ports, workers, notes.get(name))
            except Exception as error:
                text = f"no book {function.book!r}: {type(error).__name__}: {error}"
                raise PortError("", f"function {name}", text=text) from error
        self._in_force = {}  # function -> (items, settings)
        self._configs = {}  # index of a port -> its configuration

    # items

    def publish(self, name, items, settings, ports):
        """Put items and settings of a function in force, or nothing and PortError.

        ports  {name: index}
        Others whose items name one of these are put in force again when its number became another; returns
        the names of all that were.
        """
        before = self._books[name].numbers()
        self._put(name, (items, settings), ports)
        after = self._books[name].numbers()
        others = [
            other
            for other, function in self._functions.items()
            if other != name and other in self._in_force and _names(function, _changed(before, after))
        ]
        done = []
        try:
            for other in others:
                self._put(other, self._in_force[other], ports)
                done.append(other)
        except PortError:
            if name in self._in_force:
                for other in (name, *done):
                    self._put(other, self._in_force[other], ports)
            raise
        self._in_force[name] = items, settings
        return [name, *others]

    def _put(self, name, configured, ports):
        numbers = {"port": ports}
        for book in self._books.values():
            numbers |= book.numbers()
        try:
            self._books[name].publish(*configured, numbers)
        except Exception as error:
            raise PortError("", _what(self._functions[name]), text=_reason(name, error)) from None

    def in_force(self, name):
        """(items, settings) of a function, None if this process has put nothing in force."""
        return self._in_force.get(name)

    # ports

    def port(self, index, config, row):
        """A port came or changed; `row`, PORT_DTYPE, gets what functions say. Or nothing, and PortError."""
        before = self._configs.get(index)
        for k, (name, book) in enumerate(self._books.items()):
            try:
                book.port(index, config, row)
            except Exception as error:
                scratch = np.zeros(1, PORT_DTYPE)[0]
                for done in list(self._books.values())[: k + 1]:
                    done.port(index, before, scratch)
                raise PortError(config.name, name, text=_reason(name, error)) from None
        self._configs[index] = config

    def port_gone(self, index, row):
        """A port went."""
        self._configs.pop(index, None)
        for book in self._books.values():
            book.port(index, None, row)

    # what there is

    def counters(self, name):
        """{section: {item: counters}} of a function."""
        return self._books[name].counters()

    def notes(self):
        """{function: JSON data} for a later control process."""
        notes = {name: book.notes() for name, book in self._books.items()}
        return {name: said for name, said in notes.items() if said is not None}

    def repair(self):
        """Mend what a dead data plane left half written; no worker runs."""
        for book in self._books.values():
            book.repair()


def _reason(name, error):
    """Why a book says no; what nobody foresaw gets its trace into the log."""
    if isinstance(error, ValueError):
        return str(error)
    log.error("the book of function %s failed", name, exc_info=error)
    return f"{type(error).__name__}: {error}"


def _what(function):
    """What a function has items of, in words, or its name."""
    return ", ".join(noun.many for noun in function.nouns.values()) or function.name


def _changed(before, after):
    """Sections in which a name that stays has another number."""
    return {
        section
        for section, numbers in after.items()
        if any(before.get(section, {}).get(name, number) != number for name, number in numbers.items())
    }


def _names(function, sections):
    """Whether keys of a function refer to one of `sections`."""
    models = [*function.sections.values(), *([function.port] if function.port else [])]
    return any(refers.section in sections for model in models for _, refers in references(model))

"""What a book is: the control half of a function's tables, which turns configuration into rows.

A function names its own, a subclass of `Book`. The device makes one of each and calls it from one place at
a time.
Not:  waiting until every worker has left what was in force before; the device does that behind `publish`.
"""


class Book:
    """A function's book; what a function has not, its book need not do.

    function  the Function
    tables    its arrays in shared memory, by name: those of Function.tables, those of Function.counters with
              a row a worker, `drops` and `stages`
    ports     PORT_DTYPE[PORTS_MAX], in shared memory
    workers   that run: rows of counters that are used
    notes     what `notes` said to an earlier control process, None: the region is new
    """

    def __init__(self, function, tables, ports, workers, notes=None):
        self.function = function
        self.tables = tables
        self.ports = ports
        self.workers = workers

    def publish(self, items, settings, numbers):
        """Put a configuration in force: all of it, or nothing and ValueError says why.

        items     {section: models}
        settings  Function.settings, None without
        numbers   {section: {name: number}} of what can be named, "port" included; each is what the book that
                  has the section says
        """

    def port(self, index, config, row):
        """A port came or changed, or went: then `config` is None.

        row  PORT_DTYPE, to be put in force when all books have seen it: words and PORT_* flags of the
             function go in there; all other words and flags are left alone

        ValueError: the port cannot be that; the book is called again with what the port was before, or None.
        """

    def numbers(self):
        """{section: {name: number}}: by what rows of others name an item; `publish` may change it."""
        return {}

    def counters(self):
        """{section: {name: counters as of Noun.stats}}."""
        return {}

    def notes(self):
        """What a later control process needs to go on, JSON data."""
        return

    def repair(self):
        """Mend what a dead data plane left half written; no worker runs."""

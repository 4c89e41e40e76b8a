"""dpu_runtime/device/books.py with one more function: all or nothing, whoever refuses."""

import numpy as np
import pytest

from dpu_runtime.device.books import Books
from dpu_runtime.drivers.port import PortError
from dpu_runtime.functions.acl.config import AclSettings, RuleConfig
from dpu_runtime.functions.book import Book
from dpu_runtime.kernels.layout import PORT_DTYPE, PORT_SPOOF_CHECK, PORTS_MAX
from dpu_runtime.registry import functions
from tests.functions import regions, toy

PORTS = {"a": 3, "b": 9}
WITH_TOY = toy.models_with(toy.FUNCTION)


class Made:
    """Books over regions in private memory."""

    def __init__(self, notes=None):
        self.functions = (*functions(), toy.FUNCTION)
        self.regions = {one.name: regions.region(one) for one in self.functions}
        self.books = Books(
            self.functions,
            lambda function: self.regions[function.name],
            np.zeros(PORTS_MAX, PORT_DTYPE),
            2,
            notes or {},
        )

    def rules(self, *names):
        items = [RuleConfig(name=name, priority=1, action="drop") for name in names]
        return self.books.publish("acl", {"rule": items}, AclSettings(), PORTS)

    def tags(self, *tags, level=0):
        items = [toy.TagConfig(**tag) for tag in tags]
        return self.books.publish("toy", {"tag": items}, toy.ToySettings(toy_level=level), PORTS)

    def toy(self):
        tables = self.regions["toy"]
        values = {int(index): int(tables.values[index]) for index in tables.values.nonzero()[0]}
        return values, int(tables.level[0])

    def meant(self, port):
        return int(self.regions["toy"].rules[PORTS[port]])


@pytest.fixture
def made():
    return Made()


def test_items_of_a_function_find_what_they_name(made):
    assert made.rules("r", "s") == ["acl"]
    assert made.tags({"name": "t", "port": "a", "others": ["b"], "rule": "s"}, level=4) == ["toy"]
    assert made.toy() == ({3: 1, 9: 1}, 4)
    assert made.meant("a") == made.meant("b") == made.books._books["acl"].numbers()["rule"]["s"]
    assert made.books.in_force("toy")[1].toy_level == 4
    assert made.books.in_force("meter") is None


def test_what_is_refused_changes_nothing(made):
    made.tags({"name": "t", "port": "a", "value": 5})
    with pytest.raises(PortError, match="marks: 255 is not possible"):
        made.tags({"name": "u", "port": "b", "value": 255})
    assert made.toy() == ({3: 6}, 0)
    assert made.books.counters("toy") == {"tag": {"t": (0, 0)}}
    assert [tag.name for tag in made.books.in_force("toy")[0]["tag"]] == ["t"]


class Renumbering(Book):
    """Rules that have the number of their place: it changes when one comes in front."""

    def publish(self, items, settings, numbers):
        self.rules = {rule.name: 100 + place for place, rule in enumerate(items["rule"])}

    def numbers(self):
        return {"rule": getattr(self, "rules", {})}


def renumbering(made):
    acl = made.books._books["acl"]
    made.books._books["acl"] = Renumbering(acl.function, acl.tables, acl.ports, acl.workers)


def test_what_names_an_item_follows_its_number(made):
    renumbering(made)
    made.rules("r")
    made.tags({"name": "t", "port": "a", "rule": "r"})
    assert made.meant("a") == 100
    assert made.rules("front", "r") == ["acl", "toy"]
    assert made.meant("a") == 101
    assert made.rules("front", "r", "behind") == ["acl"]


def test_when_those_that_name_it_refuse_all_is_as_before(made, monkeypatch):
    renumbering(made)
    made.rules("r")
    made.tags({"name": "t", "port": "a", "rule": "r"})
    publish = toy.ToyBook.publish

    def refuse(book, items, settings, numbers):
        if numbers["rule"]["r"] != 100:
            raise ValueError("not that number")
        publish(book, items, settings, numbers)

    monkeypatch.setattr(toy.ToyBook, "publish", refuse)
    with pytest.raises(PortError, match="marks: not that number"):
        made.rules("front", "r")
    assert made.meant("a") == 100
    assert made.books._books["acl"].numbers() == {"rule": {"r": 100}}


def port(**keys):
    return WITH_TOY.NullPort(name="a", kind="null", **keys)


def test_every_book_hears_of_a_port_and_fills_its_row(made):
    row = regions.row()
    made.books.port(3, port(vlan=7, spoof_check=True, tx_rate="1mbit"), row)
    assert (int(row["vlan"]), int(row["flags"])) == (7, PORT_SPOOF_CHECK)
    heard = []
    for name, book in made.books._books.items():
        book.port = lambda index, config, _row, name=name: heard.append((name, index, config))
    made.books.port_gone(3, row)
    assert heard == [(one.name, 3, None) for one in made.functions]


@pytest.mark.parametrize("before", [None, port(vlan=7)])
def test_a_port_that_one_book_refuses_is_as_before_for_all(made, before):
    if before:
        made.books.port(3, before, regions.row())

    def refuse(_index, config, _row):
        if config is not before:
            raise ValueError("not this one")

    made.books._books["toy"].port = refuse
    heard = []
    switch = made.books._books["switch"]
    put = switch.port
    switch.port = lambda index, config, row: (heard.append(config), put(index, config, row))
    new = port(vlan=8)
    with pytest.raises(PortError, match="port 'a': toy: not this one"):
        made.books.port(3, new, regions.row())
    assert heard == [new, before]
    vlans = made.regions["switch"].vlan_allowed[3]
    assert vlans[0] == (1 << 7 if before else 0)


def test_what_books_note_is_for_the_books_of_a_later_process(made):
    made.rules("r", "s")
    notes = made.books.notes()
    assert "acl" in notes
    assert "switch" not in notes, "books that have nothing to note say nothing"
    later = Made(notes)
    assert later.books._books["acl"].numbers() == made.books._books["acl"].numbers()


def test_a_function_without_a_book_has_one_that_does_nothing(made):
    books = Books((toy.Function("bare"),), lambda _: None, None, 1, {})
    assert books.publish("bare", {}, None, PORTS) == ["bare"]
    books.port(3, port(), regions.row())
    books.repair()
    assert (books.notes(), books.counters("bare")) == ({}, {})


def test_a_book_that_fails_is_named_and_nothing_is_in_force(made, monkeypatch, caplog):
    made.rules("r")

    def fail(self, items, settings, numbers):
        raise KeyError("oh")

    monkeypatch.setattr(toy.ToyBook, "publish", fail)
    with pytest.raises(PortError, match="marks: KeyError: 'oh'"):
        made.books.publish("toy", {"tag": []}, toy.ToySettings(), {})
    assert "the book of function toy failed" in caplog.text

"""Mirrors on their way into the tables: rows and counters by name, what fits, which stages are on."""

import pytest
from pydantic import ValidationError

from dpu_runtime import registry
from dpu_runtime.config.models import NullPort
from dpu_runtime.functions.mirror import FUNCTION
from dpu_runtime.functions.mirror.book import MirrorBook, active
from dpu_runtime.functions.mirror.config import MirrorConfig
from dpu_runtime.kernels.mirror.layout import MIRRORS_MAX
from dpu_runtime.registry import functions
from tests.functions import regions

pytestmark = pytest.mark.one_mode("the control half: no kernel is called")
RULE_STAGES = ["mirror_rule_in", "mirror_rule_out"]
NUMBERS = {"port": {"web": 3, "client": 9, "tap": 5}, "rule": {"r": 7}}


def mirrors(*keys):
    return {"mirror": [MirrorConfig(**{"port": "web", "to": "tap"} | given) for given in keys]}


@pytest.fixture
def book():
    return regions.book(MirrorBook, FUNCTION)


def test_where_its_stages_are_and_what_it_names():
    names = {hook: [stage.name for stage in stages] for hook, stages in registry.order(functions()).items()}
    ingress, egress = names["ingress"], names["egress"]
    assert ingress.index("switch_admit") < ingress.index("mirror_in") < ingress.index("meter_rx")
    assert ingress.index("acl_ingress") < ingress.index("mirror_rule_in")
    assert egress.index("acl_egress") < egress.index("mirror_rule_out") < egress.index("switch_tags")
    assert egress.index("meter_tx") < egress.index("mirror_out")
    order = [one.name for one in registry.by_references(functions())]
    assert order.index("acl") < order.index("mirror"), "rules that it names come first"


def half(book):
    return int(book.tables.version[0]) & 1


def test_the_half_in_force_has_the_mirrors(book):
    items = mirrors({"name": "a"}, {"name": "b", "port": "client", "direction": "in", "octets": 100})
    items["mirror"].append(MirrorConfig(name="c", rule="r", to="web"))
    book.publish(items, None, NUMBERS)
    rows = book.tables.mirrors[half(book)][:3].tolist()
    assert rows == [(5, 0, 0, 0), (5, 100, 0, 0), (3, 0, 8, 0)]
    assert book.tables.count[half(book)] == 3
    of_port = book.tables.of_port[half(book)]
    assert of_port[3].tolist() == [1, 1] and of_port[9].tolist() == [2, 0] and of_port.sum() == 4


def test_counters_follow_the_name_and_begin_at_zero(book):
    book.publish(mirrors({"name": "a"}, {"name": "b"}), None, NUMBERS)
    book.tables.copied[1, 1] = 4, 400
    book.publish(mirrors({"name": "b"}), None, NUMBERS)
    assert book.counters() == {"mirror": {"b": (4, 400)}}
    book.publish(mirrors({"name": "c"}), None, NUMBERS)
    book.publish(mirrors({"name": "c"}, {"name": "b"}), None, NUMBERS)
    assert book.counters() == {"mirror": {"c": (0, 0), "b": (0, 0)}}
    later = MirrorBook(FUNCTION, book.tables, book.ports, 2, book.notes())
    book.tables.copied[0, 1] += 1
    assert later.counters() == book.counters()


def test_too_many_change_nothing(book):
    book.publish(mirrors({"name": "a"}), None, NUMBERS)
    before = int(book.tables.version[0])
    with pytest.raises(ValueError, match=f"{MIRRORS_MAX + 1} mirrors, at most {MIRRORS_MAX}"):
        book.publish(mirrors(*({"name": f"m{n}"} for n in range(MIRRORS_MAX + 1))), None, NUMBERS)
    assert int(book.tables.version[0]) == before
    book.publish(mirrors(*({"name": f"m{n}"} for n in range(MIRRORS_MAX))), None, NUMBERS)


@pytest.mark.parametrize(
    ("keys", "on"),
    [
        ({}, {"web": ["mirror_in", "mirror_out"]}),
        ({"direction": "in"}, {"web": ["mirror_in"]}),
        ({"direction": "out"}, {"web": ["mirror_out"]}),
        (
            {"port": None, "rule": "r"},
            {name: RULE_STAGES for name in ("web", "client")},
        ),
    ],
)
def test_a_stage_is_on_where_something_is_mirrored(keys, on):
    is_on = active(mirrors({"name": "a", **keys}), None)
    found = {
        name: [stage.name for stage in FUNCTION.stages if is_on(stage.name, NullPort(name=name, kind="null"))]
        for name in ("web", "client")
    }
    assert {name: stages for name, stages in found.items() if stages} == on


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"port": None}, "either `port` or `rule`"),
        ({"rule": "r"}, "either `port` or `rule`"),
        ({"to": "web"}, "is the port that is mirrored"),
        ({"port": None, "rule": "r", "direction": "in"}, "needs `port`"),
        ({"octets": 13}, "octets"),
        ({"direction": "up"}, "direction"),
    ],
)
def test_what_makes_no_sense_is_refused(keys, text):
    with pytest.raises(ValidationError, match=text):
        mirrors(keys)

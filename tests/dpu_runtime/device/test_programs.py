"""dpu_runtime/device/programs.py: which stages are on, and in which order programs and tables change."""

import asyncio

import pytest

from dpu_runtime.config.errors import DataPlaneError
from dpu_runtime.device.programs import Programs
from dpu_runtime.drivers.port import PortError
from dpu_runtime.function import EGRESS, INGRESS, Function, Stage, Task
from dpu_runtime.functions.acl.config import AclSettings, RuleConfig
from dpu_runtime.registry import functions
from tests.functions import toy

WITH_TOY = toy.models_with(toy.FUNCTION)


class Made:
    """Programs over a data plane that notes what it is asked, and says no when it is told to."""

    def __init__(self, *more):
        self.log = []
        self.refuses = lambda _programs: False
        runtime = WITH_TOY.RuntimeConfig()
        self.programs = Programs((*functions(), *more), self.request, self.have, runtime)
        self.broken = set()

    async def have(self, names):
        if bad := names & self.broken:
            raise DataPlaneError(f"{', '.join(bad)} does not compile")

    async def request(self, message):
        assert message["do"] == "set_programs"
        if self.refuses(message["programs"]):
            raise DataPlaneError("does not compile")
        self.log.append(message["programs"])
        self.tasks = message["tasks"]

    async def tables(self):
        self.log.append("tables")

    async def undo(self):
        self.log.append("undo")

    async def fail(self):
        raise PortError("", "acl", text="full")

    def port(self, index, name="p", **keys):
        return index, WITH_TOY.NullPort(name=name, kind="null", **keys)

    def add(self, index, *names, **keys):
        self.run(self.programs.port(*self.port(index, *names, **keys), self.tables, self.undo))

    def set(self, *tags, tables=None):
        items = {"tag": [toy.TagConfig(name=f"t{i}", **tag) for i, tag in enumerate(tags)]}
        self.run(self.programs.function("toy", items, toy.ToySettings(), tables or self.tables, self.undo))

    def rules(self, *rules, **settings):
        items = {"rule": [RuleConfig(priority=1, action="drop", **rule) for rule in rules]}
        self.run(self.programs.function("acl", items, AclSettings(**settings), self.tables, self.undo))

    def settle(self):
        """Say of the other functions that they have no items."""
        for one in functions():
            if one.name != "acl" and (one.sections or one.settings):
                items = {section: [] for section in one.sections}
                own = one.settings and one.settings()
                self.run(self.programs.function(one.name, items, own, self.tables, self.undo))

    def run(self, coroutine):
        self.log.clear()
        asyncio.run(coroutine)


ALWAYS = {INGRESS: ["switch_admit"], "forward": ["switch"], EGRESS: ["switch_tags"]}


def programs(**stages):
    """What is sent for {hook: [(stages, ports)]}, each besides those that are always on."""
    return [
        {"hook": hook, "stages": names, "ports": ports}
        for hook in (INGRESS, "forward", EGRESS)
        for names, ports in stages.get(hook, [])
    ]


def everywhere(ports, **more):
    return programs(**{hook: more.get(hook, [(names, ports)]) for hook, names in ALWAYS.items()})


@pytest.fixture
def made():
    return Made(toy.FUNCTION)


def test_a_port_gets_what_is_on_behind_its_tables(made):
    made.add(3)
    assert made.log == ["tables", everywhere([3])]
    made.add(7, "q", toy=True, tx_rate="1mbit")
    ingress = [(["switch_admit"], [3]), (["switch_admit", "toy_in"], [7])]
    egress = [(["switch_tags"], [3]), (["switch_tags", "meter_tx"], [7])]
    assert made.log == ["tables", everywhere([3, 7], ingress=ingress, egress=egress)]


def test_the_order_is_that_of_the_declarations(made):
    made.add(3, rx_rate="1mbit", tx_rate="1mbit", toy=True)
    made.rules({}, {"stage": "egress"})
    (sent,) = made.log[1:]
    assert [one["stages"] for one in sent] == [
        ["switch_admit", "meter_rx", "acl_ingress", "toy_in"],
        ["switch"],
        ["acl_egress", "switch_tags", "meter_tx"],
    ]


def test_what_is_switched_off_goes_before_its_tables(made):
    made.add(3)
    made.add(7, "q")
    made.set({"port": "q"})
    on = everywhere([3, 7], ingress=[(["switch_admit"], [3]), (["switch_admit", "toy_in"], [7])])
    assert made.log == ["tables", on]
    made.set()
    assert made.log == [everywhere([3, 7]), "tables"]
    made.set({"port": "p"})
    made.set({"port": "q"})
    assert made.log == [everywhere([3, 7]), "tables", on]


def test_nothing_is_sent_when_nothing_changes(made):
    made.add(3)
    made.rules({})
    made.rules({}, {"in_port": "p"})
    assert made.log == ["tables"]
    made.add(3, vlan=7)
    assert made.log == ["tables"]


def test_a_port_that_goes_is_in_no_program(made):
    made.add(3)
    made.add(7, "q")
    made.run(made.programs.port(3, None))
    assert made.log == [everywhere([7])]
    made.add(3, "r")
    assert made.log == ["tables", everywhere([3, 7])]


def test_a_stage_that_does_not_compile_leaves_all_as_it_is(made):
    made.add(3)
    made.broken = {"toy_in"}
    with pytest.raises(DataPlaneError, match="toy_in does not compile"):
        made.set({"port": "p"})
    assert made.log == []
    with pytest.raises(DataPlaneError, match="toy_in does not compile"):
        made.add(7, "q", toy=True)
    assert made.log == []
    made.add(7, "q")
    assert made.log == ["tables", everywhere([3, 7])]


def test_what_a_configuration_switches_on(made):
    keys = {"port": [{"name": "p", "kind": "null", "tx_rate": "1mbit"}], "tag": [{"name": "t", "port": "p"}]}
    assert made.programs.expected(WITH_TOY.Config(**keys)) == {
        *("switch_admit", "switch", "switch_tags"),
        *("meter_tx", "toy_in"),
    }


def test_tables_that_are_refused_leave_what_ran(made):
    made.add(3)
    made.set({"port": "p"})
    on = everywhere([3], ingress=[(["switch_admit", "toy_in"], [3])])
    with pytest.raises(PortError, match="full"):
        made.set(tables=made.fail)
    assert made.log == [everywhere([3]), on]
    made.add(7, "q")
    assert made.log[-1][0]["stages"] == ["switch_admit"]
    assert made.log[-1][1] == {"hook": INGRESS, "stages": ["switch_admit", "toy_in"], "ports": [3]}


def test_a_program_that_is_refused_leaves_tables_and_programs_that_were(made):
    made.add(3)
    made.refuses = lambda programs: any("toy_in" in one["stages"] for one in programs)
    with pytest.raises(DataPlaneError, match="does not compile"):
        made.set({"port": "p"})
    assert made.log == ["tables", "undo"]
    made.refuses = lambda _programs: False
    made.add(7, "q")
    assert made.log == ["tables", everywhere([3, 7])]


def test_a_port_whose_program_is_refused_is_as_before(made):
    made.add(3)
    made.refuses = lambda programs: any("meter_tx" in one["stages"] for one in programs)
    for index in (3, 7):
        with pytest.raises(DataPlaneError):
            made.add(index, tx_rate="1mbit")
        assert made.log == ["tables", "undo"]
    made.rules({})
    assert made.log[-1] == everywhere([3], ingress=[(["switch_admit", "acl_ingress"], [3])])


def test_a_port_that_goes_is_gone_even_if_the_data_plane_says_no(made):
    made.add(3)
    made.refuses = lambda _programs: True
    with pytest.raises(DataPlaneError):
        made.run(made.programs.port(3, None))
    made.refuses = lambda _programs: False
    made.add(7)
    assert made.log == [[], "tables", everywhere([7])]


class Fresh:
    """A data-plane process that takes over."""

    def __init__(self):
        self.asked = []

    async def request(self, message):
        self.asked.append(message["programs"])


def test_a_process_that_takes_over_is_told_everything(made):
    made.add(3)
    process = Fresh()
    made.run(made.programs.renew(process))
    assert process.asked == [everywhere([3])]


def test_programs_of_an_adopted_data_plane_stay_until_all_items_are_known(made):
    ports = dict([made.port(3), made.port(7, "q")])
    made.programs.adopted(ports)
    process = Fresh()
    made.run(made.programs.renew(process))
    assert process.asked == [], "nobody knows them yet"
    made.settle()
    made.rules({"in_port": "p"})
    assert made.log == ["tables"]
    made.set({"port": "q"})
    ingress = [(["switch_admit", "acl_ingress"], [3]), (["switch_admit", "toy_in"], [7])]
    assert made.log == ["tables", everywhere([3, 7], ingress=ingress)]
    made.rules({"in_port": "p"})
    assert made.log == ["tables"]


def test_a_data_plane_that_is_to_come_is_told_when_it_is_there(made):
    made.programs.adopted(dict([made.port(3)]), to_come=True)
    made.settle()
    made.rules({})
    made.set({"port": "p"})
    assert made.log == ["tables"], "the one that goes knows no such programs"
    process = Fresh()
    made.run(made.programs.renew(process))
    on = everywhere([3], ingress=[(["switch_admit", "acl_ingress", "toy_in"], [3])])
    assert process.asked == [on]
    made.set()
    assert made.log == [everywhere([3], ingress=[(["switch_admit", "acl_ingress"], [3])]), "tables"]


def test_a_task_runs_from_when_its_function_is_first_on():
    clock = Function("clock", tasks=(Task("tick", "m:f", 10),))
    shaper = Function(
        "shaper",
        port=toy.ToyPort,
        stages=(Stage("shape", EGRESS, "m:f"),),
        tasks=(Task("let_go", "m:f", 10),),
        active="tests.dpu_runtime.device.test_programs:shaping",
    )
    made = Made(clock, shaper)
    made.add(3)
    assert made.tasks == ["tick"]
    made.add(3, toy=True)
    assert made.tasks == ["tick", "let_go"]
    made.add(3)
    assert made.tasks == ["tick", "let_go"], "what is held has to be let go"


def shaping(_items, _settings):
    return lambda _stage, port: port.toy


@pytest.mark.parametrize(("name", "text"), [("failing", "`active` fails: KeyError"), ("nothing", "None")])
def test_a_function_whose_active_is_wrong_is_named(name, text):
    with pytest.raises(DataPlaneError, match=f"function odd: .*{text}"):
        Made(Function("odd", active=f"tests.dpu_runtime.device.test_programs:{name}"))


def failing(_items, _settings):
    raise KeyError("oh")


def nothing(_items, _settings):
    return None

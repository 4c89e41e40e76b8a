"""From one configuration to another: the steps, in an order that works.

Rules that name a port go before the port does; ports that go make room for those that change and come;
rules are set last, whole, when every port they name is there. Rolling back is a plan too, from
where the failure left things to where they were.
"""

from dataclasses import dataclass

from dpu_runtime.config.errors import Problem
from dpu_runtime.config.file import said
from dpu_runtime.config.models import MADE_UP, Config, PortConfig, RuntimeConfig
from dpu_runtime.functions.acl.config import RuleConfig

STAGE_DEFAULTS = ("default_ingress", "default_egress")  # keys of [runtime] that change while the daemon runs


@dataclass(frozen=True)
class DelPort:
    """Take a port down."""

    port: PortConfig

    async def do(self, device):
        """True when done."""
        await device.del_port(self.port.name)
        return True

    def applied(self, config):
        """`config` after this step."""
        return config.model_copy(update={"port": [p for p in config.port if p.name != self.port.name]})

    def __str__(self):
        return f"del port {self.port.name}"


@dataclass(frozen=True)
class AddPort:
    """Bring a port up."""

    port: PortConfig

    async def do(self, device):
        """True when done."""
        await device.add_port(self.port)
        return True

    def applied(self, config):
        """`config` after this step."""
        return config.model_copy(update={"port": [*config.port, self.port]})

    def __str__(self):
        return f"add port {self.port.name}"


@dataclass(frozen=True)
class UpdatePort:
    """Change a port in place, if the device can."""

    old: PortConfig
    new: PortConfig

    async def do(self, device):
        """True when done, False when the port must go and come again."""
        return await device.update_port(self.old, self.new)

    def applied(self, config):
        """`config` after this step."""
        ports = [self.new if p.name == self.new.name else p for p in config.port]
        return config.model_copy(update={"port": ports})

    def instead(self, config):
        """Return the steps for a device that cannot do it in place; the plan is then made again."""
        return [*_rules_off(config, {self.old.name}), DelPort(self.old)]

    def __str__(self):
        return f"update port {self.new.name}"


@dataclass(frozen=True)
class SetRules:
    """Replace all rules and the stages' defaults."""

    rules: list[RuleConfig]
    runtime: RuntimeConfig

    async def do(self, device):
        """True when done."""
        await device.set_rules(self.rules, self.runtime.default_ingress, self.runtime.default_egress)
        return True

    def applied(self, config):
        """`config` after this step."""
        defaults = {key: getattr(self.runtime, key) for key in STAGE_DEFAULTS}
        runtime = config.runtime.model_copy(update=defaults)
        return config.model_copy(update={"rule": self.rules, "runtime": runtime})

    def __str__(self):
        return "set rules"


def diff(old: Config, new: Config):
    """Return the steps from `old` to `new`: empty when they are the same."""
    old_ports, new_ports = _without_common(old.port, new.port)
    before = {port.name: port for port in old_ports}
    after = {port.name: port for port in new_ports}
    gone = [port for port in old_ports if type(after.get(port.name)) is not type(port)]
    stay = [port for port in old_ports if type(after.get(port.name)) is type(port)]
    steps = [*_rules_off(old, {port.name for port in gone})]
    detached = bool(steps)
    steps += [DelPort(port) for port in gone]
    steps += [UpdatePort(port, after[port.name]) for port in stay if port != after[port.name]]
    steps += [AddPort(port) for port in new_ports if type(before.get(port.name)) is not type(port)]
    if detached or old.rule != new.rule or _defaults(old) != _defaults(new):
        steps.append(SetRules(new.rule, new.runtime))
    return steps


def summary(old: Config, new: Config):
    """Say the difference in lines: `+` comes, `-` goes, `~` changes."""
    lines = [
        f"~ runtime.{key}: {was} -> {now}"
        for key, was, now in zip(STAGE_DEFAULTS, _defaults(old), _defaults(new), strict=True)
        if was != now
    ]
    lines += _changes("port", old.port, new.port)
    rules = _changes("rule", old.rule, new.rule)
    if not rules and old.rule != new.rule:
        rules = ["~ rule order"]
    return lines + rules


def beside_owned(running: Config, wanted: Config):
    """Parts of `wanted` and of what `running` has of others: ports with an owner, the rules that name them.

    What `wanted` names is its own, also where it had an owner before.
    """
    named = {port.name for port in wanted.port}
    owned = [port for port in running.port if port.owner and port.name not in named]
    names = {port.name for port in owned}
    there = {None} | names | named
    owned = [_connected_to(port, there) for port in owned]
    rules = [
        rule
        for rule in running.rule
        if {rule.in_port, rule.out_port} & names and {rule.in_port, rule.out_port} <= there
    ]
    rules = beside(rules, wanted.rule)
    return {"runtime": wanted.runtime, "port": [*wanted.port, *owned], "rule": [*wanted.rule, *rules]}


def beside(rules, others):
    """Those of `rules` that can be there with `others`: a name that was only made up gives way to theirs."""
    taken = {rule.name for rule in others}
    return [
        rule.model_copy(update={"name": None}) if rule.name in taken else rule
        for rule in rules
        if rule.name not in taken or MADE_UP.fullmatch(rule.name)
    ]


def without_ports(config: Config, names):
    """Parts of `config` without the ports `names`, the rules and the cross-connects that name one."""
    left = [port for port in config.port if port.name not in names]
    there = {None, *(port.name for port in left)}
    ports = [_connected_to(port, there) for port in left]
    rules = [rule for rule in config.rule if not {rule.in_port, rule.out_port} & names]
    return {"runtime": config.runtime, "port": ports, "rule": rules}


def xconnect(port):
    """Name of the port that `port` is cross-connected to, None if it is not or cannot be."""
    return port.xconnect if port.kind == "vhost_user" else None


def _connected_to(port, names):
    """`port`, without its cross-connect if that is to none of `names`; None is among them."""
    if xconnect(port) in names:
        return port
    return port.model_copy(update={"xconnect": None})


def fixed_changes(running: RuntimeConfig, wanted: RuntimeConfig):
    """Return a `Problem` for every key of [runtime] that is asked to change and cannot."""
    return [
        Problem(f"runtime.{key}", f"only a restart changes it, the daemon runs with {now!r}", value=then)
        for key in type(wanted).model_fields
        if key in wanted.model_fields_set and key not in STAGE_DEFAULTS
        if (now := getattr(running, key)) != (then := getattr(wanted, key))
    ]


def _defaults(config):
    return [getattr(config.runtime, key) for key in STAGE_DEFAULTS]


def _rules_off(config, names):
    """Return the step that takes away the rules naming one of the ports `names`, if there are any."""
    left = [rule for rule in config.rule if rule.in_port not in names and rule.out_port not in names]
    return [SetRules(left, config.runtime)] if len(left) < len(config.rule) else []


def _without_common(some, others):
    """Both lists without the objects they share: most of them, in a change, and comparing models is slow."""
    common = set(map(id, some)).intersection(map(id, others))
    return tuple([item for item in items if id(item) not in common] for items in (some, others))


def _changes(noun, old, new):
    old, new = _without_common(old, new)
    before = {item.name: item for item in old}
    after = {item.name: item for item in new}
    lines = [f"- {noun} {name}" for name in before if name not in after]
    for name, item in after.items():
        if name not in before:
            words = (f"{key} {_text(value)}" for key, value in said(item).items() if key != "name")
            lines.append(f"+ {noun} {name}: " + ", ".join(words))
        elif before[name] != item:
            was, now = before[name].model_dump(mode="json"), item.model_dump(mode="json")
            keys = [key for key in {**was, **now} if was.get(key) != now.get(key)]
            words = (f"{key} {_text(was.get(key))} -> {_text(now.get(key))}" for key in keys)
            lines.append(f"~ {noun} {name}: " + ", ".join(words))
    return lines


def _text(value):
    if isinstance(value, list):
        items = [" via ".join(item.values()) if isinstance(item, dict) else str(item) for item in value]
        return "[" + " ".join(items) + "]"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

"""From one configuration to another: the steps, in an order that works.

What names a port or an item is taken away before that goes: ports that go make room for those that change and
come; then each function's items are set, whole, when all that they name is there. Rolling back is a plan too,
from where the failure left things to where they were.
"""

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from dpu_runtime.config.errors import ConfigError, Problem
from dpu_runtime.config.file import problems, said
from dpu_runtime.config.models import Config, PortConfig, RuntimeConfig
from dpu_runtime.config.references import cleared, named, names_one_of, renamed, standing


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
        steps, _ = _off(config, {self.old.name}, config)
        return [*steps, DelPort(self.old)]

    def __str__(self):
        return f"update port {self.new.name}"


@dataclass(frozen=True)
class SetSection:
    """Replace all items and the settings of a function.

    items     {section: models}
    settings  Function.settings, None without
    """

    function: str
    items: dict[str, list]
    settings: Any

    async def do(self, device):
        """True when done."""
        await device.set_section(self.function, self.items, self.settings)
        return True

    def applied(self, config):
        """`config` after this step."""
        keys = type(self.settings).model_fields if self.settings is not None else ()
        runtime = config.runtime.model_copy(update={key: getattr(self.settings, key) for key in keys})
        return config.model_copy(update={**self.items, "runtime": runtime})

    def __str__(self):
        return f"set {self.function}"


def fitting(parts):
    """Make a configuration of models. Raises ConfigError when they do not fit each other."""
    try:
        return Config.of_models(**parts)
    except ValidationError as error:
        raise ConfigError(problems(error, Config)) from None


def changed_ports(old: Config, new: Config):
    """Ports of `new` that `old` has not, or has otherwise."""
    before, after = _without_common(old.port, new.port)
    there = {port.name: port for port in before}
    return [port for port in after if there.get(port.name) != port]


def diff(old: Config, new: Config):
    """Return the steps from `old` to `new`: empty when they are the same."""
    old_ports, new_ports = _without_common(old.port, new.port)
    before = {port.name: port for port in old_ports}
    after = {port.name: port for port in new_ports}
    gone = [port for port in old_ports if type(after.get(port.name)) is not type(port)]
    stay = [port for port in old_ports if type(after.get(port.name)) is type(port)]
    steps, left = _off(old, {port.name for port in gone}, new)
    steps += [DelPort(port) for port in gone]
    steps += [UpdatePort(port, after[port.name]) for port in stay if port != after[port.name]]
    steps += [AddPort(port) for port in new_ports if type(before.get(port.name)) is not type(port)]
    for function in new.FUNCTIONS:
        items, settings = new.items(function), new.settings(function)
        if items != left[function.name] or settings != old.settings(function):
            steps.append(SetSection(function.name, items, settings))
    return steps


def _off(config, ports, later):
    """Take away what names one of `ports`, or an item that is not in `later`, however far.

    Returns the steps, and what they leave there: {function: {section: items}}.
    """
    left = {function.name: config.items(function) for function in config.FUNCTIONS}
    gone = {section.key: _gone(section.key, config, later) for section in config.SECTIONS}
    if not ports and not any(gone.values()):
        return [], left
    there = {"port": {port.name for port in config.port} - ports}
    steps = []
    for function in config.FUNCTIONS:
        items = left[function.name]
        left[function.name] = standing(items, there)
        if left[function.name] is not items:
            steps.insert(0, SetSection(function.name, left[function.name], config.settings(function)))
        for section in items:
            there[section] -= gone[section]
    return steps, left


def _gone(section, config, later):
    """Names of items that are not there later."""
    before, after = getattr(config, section), getattr(later, section)
    return set() if before == after else {item.name for item in before} - {item.name for item in after}


def summary(old: Config, new: Config):
    """Say the difference in lines: `+` comes, `-` goes, `~` changes."""
    lines = [
        f"~ runtime.{key}: {was} -> {now}"
        for key in new.runtime.CHANGING
        if (was := getattr(old.runtime, key)) != (now := getattr(new.runtime, key))
    ]
    lines += _changes("port", old.port, new.port)
    for section in new.SECTIONS:
        before, after = getattr(old, section.key), getattr(new, section.key)
        changes = _changes(section.key, before, after)
        lines += changes or ([f"~ {section.key} order"] if before != after else [])
    return lines


def beside_owned(running: Config, wanted: Config):
    """Parts of `wanted` and of what `running` has of others: ports with an owner, and what names them.

    What `wanted` names is its own, also where it had an owner before.
    """
    named = {port.name for port in wanted.port}
    owned = [port for port in running.port if port.owner and port.name not in named]
    others = {"port": {port.name for port in owned}}
    there = {"port": named | others["port"]}
    parts, renames = {}, {}
    for function in running.FUNCTIONS:
        items = beside(running, _of_others(running.items(function), others), wanted.items(function), renames)
        there |= {key: {item.name for item in own} for key, own in wanted.items(function).items()}
        items = standing(items, there)
        parts |= {key: [*own, *items[key]] for key, own in wanted.items(function).items()}
    parts["port"] = [*wanted.port, *(renamed(port, renames) for port in owned)]
    return {"runtime": wanted.runtime, **cleared_parts(parts, there)}


def _of_others(items, others):
    """Of `items`, {section: items}, those that name one of `others`, or one another that does.

    `others`, {section: names}, gets their names.
    """
    found = {section: [] for section in items}
    while True:
        more = {
            section: [item for item in own if names_one_of(item, others)] for section, own in items.items()
        }
        others |= {section: {item.name for item in own} for section, own in more.items()}
        if all(len(more[section]) == len(found[section]) for section in items):
            return more
        found = more


def beside(config, items, others, renames):
    """Those of `items` that can be there with `others`, {section: items} each.

    A name that was only made up gives way: then `renames`, {(section, old): new}, gets another, and what
    names the item follows.
    """
    made = {}
    for section in config.SECTIONS:
        if section.key not in items:
            continue
        taken = {item.name for item in others[section.key]}
        made[section.key] = stay = [
            item for item in items[section.key] if item.name not in taken or section.is_made_up(item.name)
        ]
        free = section.free_names({*taken, *(item.name for item in stay)})
        for i, item in enumerate(stay):
            if item.name in taken:
                stay[i] = item.model_copy(update={"name": next(free)})
                renames[section.key, item.name] = stay[i].name
    return {key: [renamed(item, renames) for item in own] for key, own in made.items()}


def without_ports(config: Config, names):
    """Parts of `config` without the ports `names`, and without all that names one, however far."""
    left = [port for port in config.port if port.name not in names]
    parts, there = {"port": left}, {"port": {port.name for port in left}}
    for function in config.FUNCTIONS:
        parts |= standing(config.items(function), there)
    return {"runtime": config.runtime, **cleared_parts(parts, there)}


def names(parts):
    """{section: names} of ports and items of `parts`."""
    return {key: {item.name for item in own} for key, own in parts.items() if key != "runtime"}


def cleared_parts(parts, there):
    """Ports and items of `parts`, {section: items}, without the names that they can do without."""
    return {key: [cleared(item, there) for item in own] for key, own in parts.items()}


def named_by(config: Config, section, name):
    """What names an item or a port, in words; "" when nothing does but itself."""
    those_who_need, those_who_can_do_without = [], []
    for key in ("port", *(other.key for other in config.SECTIONS)):
        needing, others = [], {}
        for item in getattr(config, key):
            if (key, item.name) == (section, name):
                continue
            for location, refers, other in named(item):
                if (refers.section, other) == (section, name):
                    names = others.setdefault(location[0], []) if refers.cleared else needing
                    if item.name not in names:
                        names.append(item.name)
        if needing:
            those_who_need.append(f"{key} {', '.join(needing)}")
        those_who_can_do_without += [f"{at} of {key} {', '.join(names)}" for at, names in others.items()]
    return " and ".join(those_who_need or those_who_can_do_without)


def fixed_changes(running: RuntimeConfig, wanted: RuntimeConfig):
    """Return a `Problem` for every key of [runtime] that is asked to change and cannot."""
    return [
        Problem(f"runtime.{key}", f"only a restart changes it, the daemon runs with {now!r}", value=then)
        for key in type(wanted).model_fields
        if key in wanted.model_fields_set and key not in wanted.CHANGING
        if (now := getattr(running, key)) != (then := getattr(wanted, key))
    ]


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

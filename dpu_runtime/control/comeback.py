"""What earlier daemons had, made again at a start: what was applied, and what was made at run time.

In:  a `Control` that runs the configuration file, or nothing yet; what the state directory has.
Not: who made what, origin.py; a data plane that runs already, `Control.adopt`.

One by one: what cannot come (a namespace is gone, a name is taken) is dropped, and a line says so.
"""

import logging

from dpu_runtime.config.errors import ConfigError
from dpu_runtime.config.references import cleared, missing, renamed, standing
from dpu_runtime.control import plan
from dpu_runtime.control.interface import REFUSALS
from dpu_runtime.control.words import by_section, enumeration, in_numbers

log = logging.getLogger("dpu.control")


async def bring_back(control, kept, applied=None):
    """Make `kept` again beside what runs; what was `applied` comes first, and is the file's part then."""
    if applied is not None:
        kept = kept.behind(applied.kept)
    before, came = plan.names(control.running.parts()), []
    for port in kept.ports:
        if why := await _port(control, port, kept.gone(port)):
            _dropped(kept, "port", port.name, why)
        else:
            came.append(port)
    parts = {**control.running.parts(), **_to_come(control.running, kept, came)}
    await control.move(plan.fitting(parts))
    there = plan.names(control.running.parts())
    if applied is not None:
        control.origin.of_names(kept.applied, applied)
        numbers = {key: len(own & kept.applied.get(key, set())) for key, own in there.items()}
        log.info("in force as `dpu apply` left it: %s", in_numbers(numbers, control.running.SECTIONS))
    back = {key: len(own - before[key] - kept.applied.get(key, set())) for key, own in there.items()}
    if any(back.values()):
        log.info("%s made at run time are back", in_numbers(back, control.running.SECTIONS))


async def _port(control, port, gone):
    """Make a port again, closed until what names it is set; returns why it cannot come.

    What the port names may come later: it is made without.
    """
    if gone:
        return gone
    if any(other.name == port.name for other in control.running.port):
        return "the configuration file has a port of this name now"
    try:
        parts = control.running.parts()
        parts["port"] = [*control.running.port, port]
        bare = cleared(port, plan.names(parts))
        target = plan.fitting({**parts, "port": [*control.running.port, bare]})
        control.origin.note(port)
        await control.device.add_port(bare)
    except (ConfigError, *REFUSALS) as error:
        return str(error)
    control.running = target
    return None


def _to_come(config, kept, ports):
    """{section: items} of `config`, which runs, and of what can be brought back; a line says what cannot.

    ports  that came back, with all that they name

    Where the file has taken a name that was only made up, another is made up.
    """
    parts, renames = {}, {}
    there = {"port": {port.name for port in config.port}}
    for function in config.FUNCTIONS:
        running = config.items(function)
        there |= {key: {item.name for item in own} for key, own in running.items()}
        free = plan.beside(config, {key: kept.of(key) for key in running}, running, renames)
        come = standing(free, there)
        for key, own in running.items():
            stay = {item.name for item in free[key]}
            for item in kept.of(key):
                if item.name not in stay and (key, item.name) not in renames:
                    why = f"the configuration file has a {key} of this name now"
                    _dropped(kept, key, item.name, why)
            for item in free[key]:
                if lost := missing(item, there):
                    _dropped(kept, key, item.name, "it names " + enumeration(by_section(lost)))
            parts[key] = [*own, *come[key]]
    again = {port.name: renamed(port, renames) for port in ports}
    parts["port"] = [again.get(port.name, port) for port in config.port]
    return plan.cleared_parts(parts, there)


def _dropped(kept, section, name, why):
    made = "applied" if name in kept.applied.get(section, ()) else "made at run time"
    log.warning("%s %s, %s, is dropped: %s", section, name, made, why)

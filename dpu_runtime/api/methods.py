"""The API's methods: what each takes and returns, as models and as published JSON Schema.

Spec: JSON-RPC 2.0 section 5.1 (errors), JSON Schema 2020-12.
In:   a method name and plain params. Out: plain results, or RpcError with the wrong keys in `data`.
Not:  the socket (rpc.py), the work (control.py), the methods of functions (nouns.py).
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema

import dpu_runtime
from dpu_runtime.api import nouns, shapes
from dpu_runtime.api.rpc import INVALID_PARAMS, METHOD_NOT_FOUND, REFUSED
from dpu_runtime.config.errors import ApplyError, ConfigError, RpcError
from dpu_runtime.config.file import config_toml, parse_config, problems
from dpu_runtime.config.models import AnyPort, PortConfig
from dpu_runtime.control.config_file import ConfigFile


@dataclass(frozen=True)
class Method:
    """One method: `run(api, params)` takes the validated model and returns plain data."""

    name: str
    params: Any
    result: Any
    run: Callable
    text: str


METHODS: dict[str, Method] = {}


def method(name, params, result, text=None):
    """Register the decorated coroutine function as the method `name`."""

    def register(run):
        METHODS[name] = Method(name, TypeAdapter(params), result, run, run.__doc__ if text is None else text)
        return run

    return register


class Api:
    """The methods over one `Control`; `file` is the daemon's ConfigFile."""

    def __init__(self, control, file=None):
        self.control = control
        self.file = file or ConfigFile()
        self.started = time.monotonic()

    async def call(self, name, params):
        """Check `params`, run the method, return its result. Raises RpcError."""
        entry = METHODS.get(name)
        if entry is None:
            raise RpcError(
                METHOD_NOT_FOUND, f"no method {name!r}", {"value": name, "allowed": sorted(METHODS)}
            )
        if not isinstance(params, dict):
            text = "params must be an object"
            raise RpcError(
                INVALID_PARAMS, text, {"problems": [{"key": "", "value": params, "allowed": text}]}
            )
        try:
            result = await entry.run(self, entry.params.validate_python(params))
        except ValidationError as error:
            raise _invalid(ConfigError(problems(error, _root(entry)))) from None
        except ConfigError as error:
            raise _invalid(error) from None
        except ApplyError as error:
            raise RpcError(REFUSED, str(error), {"rolled_back": error.rolled_back}) from None
        return self._kept(entry, result)

    def _kept(self, entry, result):
        """The result of a change, which says so if a later daemon would not know of it."""
        changes = isinstance(entry.result, type) and issubclass(entry.result, shapes.Change)
        if changes and self.control.not_kept and not result.get("dry_run"):
            return {**result, "not_kept": self.control.not_kept}
        return result


def _root(entry):
    """Model that locations in an error about `entry`'s params start at."""
    return PortConfig if entry.name == "port.add" else entry.params._type


def _invalid(error):
    return RpcError(
        INVALID_PARAMS, str(error), {"problems": [problem.as_dict() for problem in error.problems]}
    )


@method("status", shapes.NoParams, nouns.status_shape())
async def _status(api, _params):
    """How the daemon is."""
    running = api.control.running
    return {
        "version": dpu_runtime.__version__,
        "pid": os.getpid(),
        "uptime_s": round(time.monotonic() - api.started, 3),
        "socket": running.runtime.socket,
        "state_dir": running.runtime.state_dir,
        "applied": api.control.origin.applied is not None,
        **({"not_kept": api.control.not_kept} if api.control.not_kept else {}),
        **nouns.counted(running),
        "ports": len(_ports(api)),
        "data_plane": api.control.device.status(),
    }


@method("port.add", AnyPort, shapes.Done)
async def _port_add(api, port):
    """Add a port."""
    await api.control.add_port(port)
    return {"name": port.name}


@method("port.del", shapes.PortRef, shapes.Done)
async def _port_del(api, params):
    """Delete a port; refused while something names it."""
    await api.control.del_port(params.name)
    return {"name": params.name}


@method("port.detach", shapes.DetachParams, shapes.Names)
async def _port_detach(api, params):
    """Delete a port, or all of an owner, with what names them; none to delete is no error."""
    return {"names": await api.control.detach(params.name, params.owner)}


@method("port.relocate", shapes.RelocateParams, shapes.Done)
async def _port_relocate(api, params):
    """Note where a tap port's interface was moved to; the interface itself is left as it is."""
    place = params.model_dump(exclude={"name"})
    place = {key: value for key, value in place.items() if key in ("netns", "ifname") or value is not None}
    await api.control.relocate(params.name, place)
    return {"name": params.name}


def _ports(api):
    """Configurations of the ports there are, without one that is going just now."""
    there = {port.name for port in api.control.device.port_configs()}
    return [port for port in api.control.running.port if port.name in there]


@method("port.show", shapes.PortFilter, list[shapes.PortView])
async def _port_show(api, params):
    """Show one port or all."""
    ports = [port for port in _ports(api) if params.name in (None, port.name)]
    if params.name is not None and not ports:
        raise ApplyError(f"no port {params.name!r}")
    return [{"config": shapes.plain(port), "info": api.control.device.port_info(port.name)} for port in ports]


@method("stats", shapes.NoParams, shapes.Stats)
async def _stats(api, _params):
    """Counters of ports, drop reasons, kernels and workers."""
    return api.control.device.stats()


@method("profile", shapes.ProfileParams, shapes.ProfileView)
async def _profile(api, params):
    """Where the workers' time goes for some seconds, one profile at a time."""
    return await api.control.device.profile(params.seconds)


@method("config.apply", shapes.ApplyParams, shapes.Changes)
async def _config_apply(api, params):
    """Make a configuration run: all of it or nothing."""
    config = parse_config(params.toml, params.source)
    changes = await api.control.apply(config, dry_run=params.dry_run)
    return {"changes": changes, "dry_run": params.dry_run}


@method("config.reload", shapes.ReloadParams, shapes.Changes)
async def _config_reload(api, params):
    """Read the daemon's configuration file again and make it run: all of it or nothing."""
    changes = await api.file.apply(api.control, params.dry_run)
    return {"changes": changes, "dry_run": params.dry_run}


@method("config.get", shapes.NoParams, shapes.ConfigView)
async def _config_get(api, _params):
    """Return the running configuration."""
    running = api.control.running
    return {"toml": config_toml(running), "config": shapes.plain(running)}


@method("schema", shapes.NoParams, dict[str, Any])
async def _schema(_api, _params):
    """Return this description of all methods."""
    return schema()


for _name, _params, _result, _run, _text in nouns.methods():
    method(_name, _params, _result, _text)(_run)


def schema(names=None):
    """JSON Schema of methods, by default all: {"methods": {name: {description, params, result}}, "$defs"}."""
    entries = [METHODS[name] for name in (METHODS if names is None else names)]
    inputs = [
        (adapter_key, mode, adapter.core_schema)
        for entry in entries
        for adapter_key, mode, adapter in (
            ((entry.name, "params"), "validation", entry.params),
            ((entry.name, "result"), "serialization", TypeAdapter(entry.result)),
        )
    ]
    found, definitions = GenerateJsonSchema(ref_template="#/$defs/{model}").generate_definitions(inputs)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "dpu-runtime API",
        "description": "JSON-RPC 2.0 over a Unix socket, one message a line; params are objects.",
        "methods": {
            entry.name: {
                "description": entry.text,
                "params": found[(entry.name, "params"), "validation"],
                "result": found[(entry.name, "result"), "serialization"],
            }
            for entry in entries
        },
        "$defs": definitions,
    }

"""The top floor: daemon, configuration, API and CLI.

Not: anything heavy at import. The CLI goes through this file and must start in under 100 ms, so the
public names below are loaded when they are first used (PEP 562).
"""

import os

__version__ = "0.1.0"

if not os.path.isdir(os.path.join(__path__[0], "kernels")):  # a checkout has the other floors beside this one
    __path__.append(os.path.dirname(__path__[0]))

_PUBLIC = {
    "Client": "dpu_runtime.api.client",
    "Config": "dpu_runtime.config.models",
    "ConfigError": "dpu_runtime.config.errors",
    "Daemon": "dpu_runtime.control.daemon",
    "NullPort": "dpu_runtime.config.models",
    "PortConfig": "dpu_runtime.config.models",
    "RpcError": "dpu_runtime.config.errors",
    "RuleConfig": "dpu_runtime.functions.acl.config",
    "RuntimeConfig": "dpu_runtime.config.models",
    "TapPort": "dpu_runtime.config.models",
    "VhostUserPort": "dpu_runtime.config.models",
    "load_config": "dpu_runtime.config.file",
    "parse_config": "dpu_runtime.config.file",
}
__all__ = [*_PUBLIC, "__version__"]  # noqa: PLE0604  (a list of str, built)


def __getattr__(name):
    """Import the module that holds a public name."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # noqa: PLC0415  (brings `warnings`, which `dpu` and `dpu-cni` do not need)

    return getattr(importlib.import_module(_PUBLIC[name]), name)

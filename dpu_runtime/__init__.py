"""The top floor: daemon, configuration, API and CLI.

Not: anything heavy at import. The CLI goes through this file and must start in under 100 ms, so the
public names below are loaded when they are first used (PEP 562).
"""

__version__ = "0.1.0"

_PUBLIC = {
    "Client": "dpu_runtime.client",
    "Config": "dpu_runtime.config",
    "ConfigError": "dpu_runtime.errors",
    "Daemon": "dpu_runtime.daemon",
    "NullPort": "dpu_runtime.config",
    "PortConfig": "dpu_runtime.config",
    "RpcError": "dpu_runtime.errors",
    "RuleConfig": "dpu_runtime.config",
    "RuntimeConfig": "dpu_runtime.config",
    "TapPort": "dpu_runtime.config",
    "VhostUserPort": "dpu_runtime.config",
    "load_config": "dpu_runtime.config_file",
    "parse_config": "dpu_runtime.config_file",
}
__all__ = [*_PUBLIC, "__version__"]  # noqa: PLE0604  (a list of str, built)


def __getattr__(name):
    """Import the module that holds a public name."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # noqa: PLC0415  (brings `warnings`, which `dpu` and `dpu-cni` do not need)

    return getattr(importlib.import_module(_PUBLIC[name]), name)

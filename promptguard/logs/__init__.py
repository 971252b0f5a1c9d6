"""Logged prompts: what a scan wrote, and the report, the findings and the events made of it.

Importing this package loads nothing heavy; the functions do when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from promptguard.logs.page import report
    from promptguard.logs.schema import read_manifest, read_scan

__all__ = ["read_manifest", "read_scan", "report"]

_LATER = {
    "read_manifest": "promptguard.logs.schema",
    "read_scan": "promptguard.logs.schema",
    "report": "promptguard.logs.page",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        from importlib import import_module

        value = getattr(import_module(_LATER[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'promptguard.logs' has no attribute {name!r}")

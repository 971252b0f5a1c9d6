"""Batch scoring of logged prompts: ``scan`` writes a verdict for every row, ``read_scan`` opens what it wrote.

``report`` makes a page and numbers of it. Needs the extras ``logs`` and ``report``; ``docs/logs.md`` describes what is
read and what is written, ``docs/report.md`` the report, the findings of behaviour and the events.

Importing this package loads nothing heavy; what needs pyarrow is imported when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from promptguard.logs.output import read_manifest
    from promptguard.logs.page import report
    from promptguard.logs.read import read_scan
    from promptguard.logs.run import Progress, ScanResult, scan

__all__ = ["Progress", "ScanResult", "read_manifest", "read_scan", "report", "scan"]

_LATER = {
    "Progress": "promptguard.logs.run",
    "ScanResult": "promptguard.logs.run",
    "read_manifest": "promptguard.logs.output",
    "read_scan": "promptguard.logs.read",
    "report": "promptguard.logs.page",
    "scan": "promptguard.logs.run",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        from importlib import import_module

        value = getattr(import_module(_LATER[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'promptguard.logs' has no attribute {name!r}")

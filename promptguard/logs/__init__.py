"""Batch scoring of logged prompts: ``scan`` writes a verdict for every row, ``read_scan`` opens what it wrote.

Needs the extra ``logs``. ``docs/logs.md`` describes what is read and what is written.
"""

from __future__ import annotations

from promptguard.logs.read import read_scan
from promptguard.logs.run import Progress, ScanResult, scan

__all__ = ["Progress", "ScanResult", "read_scan", "scan"]

"""How the tests call the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from promptguard.cli import app

WORD = "xylophone"
"""What no error may show."""


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments: str | Path, status: int = 0, stdin: str | bytes | None = None) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin, prog_name="promptguard")
    assert result.exit_code == status, (result.output, result.exception)
    if status in (1, 2):
        assert not result.stdout
        assert "Traceback" not in result.stderr
    return result


def write(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path

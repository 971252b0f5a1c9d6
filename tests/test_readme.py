"""The README shows what happens: its first program gives the decisions in its comments, its tables are generated."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from promptguard import Analysis

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
FIRST = re.compile(r"```python\n(.*?)```", re.DOTALL)


def test_the_first_program_does_what_it_says() -> None:
    match = FIRST.search(README.read_text(encoding="utf-8"))
    assert match is not None
    program = match.group(1)
    said = re.findall(r"^# (\w+) \((\w+)\), risk ([\d.]+)$", program, re.MULTILINE)
    assert len(said) == 2
    done: list[Analysis] = []
    tree = ast.parse(program)
    for statement in tree.body:  # what the reader would see printed is kept
        if isinstance(statement, ast.Expr):
            keep = ast.Name("keep", ast.Load())
            statement.value = ast.Call(keep, [statement.value], [])
    exec(compile(ast.fix_missing_locations(tree), "README.md", "exec"), {"keep": done.append})  # noqa: S102
    assert [(a.decision.value, a.intent, f"{a.risk:.2f}") for a in done] == [tuple(s) for s in said]
    assert done[0].decision != done[1].decision


def test_named_files_exist() -> None:
    text = README.read_text(encoding="utf-8")
    names = set(re.findall(r"(?:scripts|examples|benchmarks|docs)/[\w./-]+\.(?:py|md|json|txt)", text))
    assert names
    assert not [name for name in names if not (ROOT / name).exists()]


def test_tables_are_those_of_the_result_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    module = importlib.import_module("write_tables")
    copies = []
    for page in module.PAGES:
        copy = tmp_path / page.name
        copy.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
        copies.append(copy)
    monkeypatch.setattr(module, "PAGES", tuple(copies))
    originals = [copy.read_text(encoding="utf-8") for copy in copies]
    module.main()
    assert [copy.read_text(encoding="utf-8") for copy in copies] == originals
    assert any("| --- |" in text for text in originals)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundle

from promptguard import Guard, bundle
from promptguard.errors import BackendError, ModelCorrupt, ModelError, ModelIncompatible, ModelNotFound
from promptguard.training.export import write_bundle
from promptguard.types import Decision


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    return tiny_bundle.copy(tiny, tmp_path / "copy")


def edit(folder: Path, **changes: Any) -> None:
    """Change the manifest as it stands, hashes untouched; None removes a key."""
    path = folder / bundle.MANIFEST
    manifest = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps({k: v for k, v in manifest.items() if v is not None}), encoding="utf-8")


def test_a_bundle_names_itself_by_its_manifest(tiny: Path, folder: Path) -> None:
    opened = bundle.load(tiny)
    assert opened.id.startswith("tiny-1+")
    assert opened.id == bundle.load(str(tiny)).id == bundle.load(folder).id
    tiny_bundle.rewrite(folder, prior=0.25)
    assert bundle.load(folder).id != opened.id
    assert bundle.load(folder).prior == 0.25
    assert opened.path(bundle.GRAPH) == tiny / "model.onnx"


def test_no_bundle(tmp_path: Path) -> None:
    for missing in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ModelNotFound, match=r"no manifest\.json in"):
            bundle.load(missing)


@pytest.mark.parametrize("name", [bundle.GRAPH, bundle.TOKENIZER, bundle.EXAMPLES, bundle.VECTORS])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelCorrupt, match=f"{name} is missing"):
        Guard(folder).analyze("hello")


@pytest.mark.parametrize("name", [bundle.GRAPH, bundle.TOKENIZER, bundle.EXAMPLES, bundle.VECTORS])
@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_one_flipped_bit_is_found(folder: Path, name: str, place: float) -> None:
    content = bytearray((folder / name).read_bytes())
    content[int(place * len(content))] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ModelCorrupt, match=f"{name} in .* does not have the hash"):
        Guard(folder).analyze("hello")


@pytest.mark.parametrize("schema", [0, 2, "1", None, [1]])
def test_another_schema_is_refused(folder: Path, schema: object) -> None:
    edit(folder, schema=schema)
    with pytest.raises(ModelCorrupt if schema is None else ModelIncompatible):
        bundle.load(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"schema": 1}', '{"schema": 1, "files": "all"}', "\x00"])
def test_a_manifest_that_cannot_be_read(folder: Path, content: str) -> None:
    (folder / bundle.MANIFEST).write_text(content, encoding="utf-8")
    with pytest.raises(ModelCorrupt, match="cannot be read"):
        bundle.load(folder)


def test_a_truncated_manifest(folder: Path) -> None:
    path = folder / bundle.MANIFEST
    path.write_text(path.read_text(encoding="utf-8")[:-40], encoding="utf-8")
    with pytest.raises(ModelCorrupt, match="cannot be read"):
        bundle.load(folder)


@pytest.mark.parametrize("name", [bundle.GRAPH, bundle.TOKENIZER, bundle.VECTORS])
def test_a_file_without_a_hash_is_not_trusted(folder: Path, name: str) -> None:
    files = json.loads((folder / bundle.MANIFEST).read_text(encoding="utf-8"))["files"]
    edit(folder, files={k: v for k, v in files.items() if k != name})
    with pytest.raises(ModelCorrupt, match=f"no hash for {name}"):
        bundle.load(folder)


def test_examples_without_a_hash_are_not_read(folder: Path) -> None:
    files = json.loads((folder / bundle.MANIFEST).read_text(encoding="utf-8"))["files"]
    edit(folder, files={k: v for k, v in files.items() if not k.startswith("examples")})
    assert "similarity" not in Guard(folder).analyze("hello").signals


@pytest.mark.parametrize("changes", [
    {"prior": None}, {"prior": 0}, {"prior": 1}, {"prior": "half"}, {"name": None}, {"version": None},
    {"fusion": None}, {"fusion": {}}, {"thresholds": None}, {"thresholds": {"risk": {}}},
    {"window_tokens": None}, {"window_tokens": 20}, {"overlap_tokens": 64}, {"overlap_tokens": 0},
    {"context_tokens": -1}, {"context_tokens": "many"},
])  # fmt: skip
def test_settings_are_checked_when_the_bundle_is_opened(folder: Path, changes: dict[str, Any]) -> None:
    edit(folder, **changes)
    with pytest.raises(ModelCorrupt, match=r"manifest\.json in .* lacks a setting or holds an unusable one"):
        bundle.load(folder)


def test_examples_that_do_not_fit_their_vectors(folder: Path) -> None:
    np.save(folder / bundle.VECTORS, np.zeros((1, 64), np.float16))
    tiny_bundle.rewrite(folder)
    with pytest.raises(ModelCorrupt, match="do not belong together"):
        Guard(folder).analyze("hello")
    (folder / bundle.EXAMPLES).write_text('{"id": "x"}\n', encoding="utf-8")
    tiny_bundle.rewrite(folder)
    with pytest.raises(ModelCorrupt, match="cannot be read"):
        Guard(folder).analyze("hello")


def test_nothing_is_unpickled(folder: Path) -> None:
    np.save(folder / bundle.VECTORS, np.array([{"a": 1}] * 3, dtype=object), allow_pickle=True)
    tiny_bundle.rewrite(folder)
    with pytest.raises(ModelCorrupt):
        Guard(folder).analyze("hello")


def test_messages_name_files_and_never_their_content(folder: Path) -> None:
    canary = "qwertzcanary"
    edit(folder, name=canary, prior=canary)
    with pytest.raises(ModelError) as caught:
        bundle.load(folder)
    assert canary not in str(caught.value)


def test_numbers_that_are_not_finite_end_in_an_error_not_a_verdict(tmp_path: Path) -> None:
    weights = tiny_bundle.weights()
    weights["cls.weight"] = np.full_like(weights["cls.weight"], np.nan)
    write_bundle(tmp_path / "nan", weights, tiny_bundle.TOKENIZER, "int8", tiny_bundle.SETTINGS)
    with pytest.raises(BackendError, match="not finite"):
        Guard(tmp_path / "nan").analyze("hello")


def test_an_unknown_provider_says_what_there_is(tiny: Path) -> None:
    with pytest.raises(BackendError, match=r"no NoSuchProvider.*CPUExecutionProvider"):
        Guard(tiny, providers=["NoSuchProvider"]).analyze("hello")


def test_a_failed_opening_is_tried_again(folder: Path) -> None:
    graph = (folder / bundle.GRAPH).read_bytes()
    (folder / bundle.GRAPH).unlink()
    guard = Guard(folder)
    with pytest.raises(ModelCorrupt):
        guard.analyze("hello")
    (folder / bundle.GRAPH).write_bytes(graph)
    assert guard.analyze("hello").decision in Decision


def test_an_index_needs_attacks_and_harmless_texts(folder: Path) -> None:
    rows = (folder / bundle.EXAMPLES).read_text(encoding="utf-8").replace('"labels": []', '"labels": ["fraud"]')
    (folder / bundle.EXAMPLES).write_text(rows, encoding="utf-8")
    tiny_bundle.rewrite(folder)
    with pytest.raises(ModelCorrupt, match="attacks and harmless"):
        Guard(folder).analyze("hello")

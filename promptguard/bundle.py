"""A model bundle: a folder with the graph, the tokenizer, the examples, and a manifest that binds them.

Nothing is unpickled and nothing is fetched. A file that does not have the hash its manifest states
is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptguard.errors import ModelCorrupt, ModelIncompatible, ModelNotFound
from promptguard.fusion import Fusion
from promptguard.policy import Thresholds

MANIFEST = "manifest.json"
GRAPH = "model.onnx"
TOKENIZER = "tokenizer.json"
EXAMPLES = "examples.jsonl"
VECTORS = "examples.npy"

BUNDLE_SCHEMA = 1
"""Version of the manifest this code reads."""

_LEAST_STRIDE = 36
"""Tokens a window must exceed its overlap by: special tokens, and how far cuts move to fall between words."""

EMBEDDED = Path(__file__).parent / "model"
"""The bundle that comes with the package."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files have been checked.

    Attributes:
        folder: where it is.
        manifest: the manifest as written.
        thresholds: where decisions start.
        fusion: how signals become probabilities.
        id: name, version and the first 12 digits of the manifest's hash; changes whenever a file,
            a threshold or a constant does.
    """

    folder: Path
    manifest: Mapping[str, Any]
    thresholds: Thresholds
    fusion: Fusion
    id: str

    def path(self, name: str) -> Path:
        """Path of one of the bundle's files."""
        return self.folder / name

    @property
    def prior(self) -> float:
        """Share of risky traffic that probabilities are calibrated at."""
        return float(self.manifest["prior"])


def load(folder: Path | str | None = None) -> Bundle:
    """Open a bundle and check every file's hash.

    Args:
        folder: the bundle's folder; None for the one that comes with the package.

    Returns:
        The bundle.

    Raises:
        ModelNotFound: there is no manifest.
        ModelCorrupt: a file is missing, damaged or not the one the manifest was made for.
        ModelIncompatible: the manifest is of another version.
    """
    folder = EMBEDDED if folder is None else Path(folder)
    try:
        raw = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise ModelNotFound(f"no {MANIFEST} in {folder}") from error
    try:
        manifest = json.loads(raw)
        schema, files = manifest["schema"], dict(manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelCorrupt(f"{MANIFEST} in {folder} cannot be read") from error
    if schema != BUNDLE_SCHEMA:
        raise ModelIncompatible(f"bundle schema {schema!r:.20}; this version of promptguard reads {BUNDLE_SCHEMA}")
    _check_files(folder, files)
    try:
        return _checked(folder, manifest, hashlib.sha256(raw).hexdigest()[:12])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelCorrupt(f"{MANIFEST} in {folder} lacks a setting or holds an unusable one") from error


def _check_files(folder: Path, files: Mapping[str, str]) -> None:
    for name in (GRAPH, TOKENIZER, *((EXAMPLES, VECTORS) if EXAMPLES in files else ())):
        if name not in files:
            raise ModelCorrupt(f"{MANIFEST} in {folder} states no hash for {name}")
    for name, expected in files.items():
        try:
            found = file_hash(folder / name)
        except OSError as error:
            raise ModelCorrupt(f"{name} is missing from {folder}") from error
        if found != expected:
            raise ModelCorrupt(f"{name} in {folder} does not have the hash that its manifest states")


def _checked(folder: Path, manifest: Mapping[str, Any], digest: str) -> Bundle:
    """A bundle with the settings that the path reads; ValueError, KeyError or TypeError without them."""
    if not 0 < float(manifest["prior"]) < 1:
        raise ValueError("prior")
    sizes = [int(manifest[name]) for name in ("window_tokens", "overlap_tokens", "context_tokens")]
    if min(sizes) < 1 or sizes[0] < sizes[1] + _LEAST_STRIDE:
        raise ValueError("sizes")
    return Bundle(
        folder=folder,
        manifest=manifest,
        thresholds=Thresholds.from_mapping(manifest["thresholds"]),
        fusion=Fusion.from_mapping(manifest["fusion"]),
        id=f"{manifest['name']}-{manifest['version']}+{digest}",
    )


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write a bundle's manifest with the hashes of the files beside it.

    Args:
        folder: the bundle's folder, its other files already in place.
        manifest: everything but ``schema`` and ``files``.
    """
    names = [n for n in (GRAPH, TOKENIZER, EXAMPLES, VECTORS) if (folder / n).exists()]
    content = {**manifest, "schema": BUNDLE_SCHEMA, "files": {n: file_hash(folder / n) for n in names}}
    (folder / MANIFEST).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

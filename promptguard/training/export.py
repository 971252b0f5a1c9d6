"""Weights to a bundle: graph, tokenizer, example index, provisional manifest; and a parity report.

``derive`` makes the other precisions from an 8-bit bundle without torch.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from promptguard import bundle
from promptguard.errors import InputError, MissingExtraError
from promptguard.intents import INTENTS

if TYPE_CHECKING:
    from promptguard.training.graph import Precision

try:
    import onnx
    from onnx import numpy_helper
except ImportError as error:
    raise MissingExtraError("export", "exporting a model") from error


def write_bundle(
    folder: Path,
    weights: Mapping[str, NDArray[np.float32]],
    tokenizer: Path,
    precision: Precision,
    manifest: Mapping[str, Any],
    smoothing: Mapping[str, NDArray[np.float32]] | None = None,
) -> None:
    """Write a bundle whose probabilities are not calibrated yet.

    Args:
        folder: receives the files.
        weights: arrays under the names of ``PairEncoder.state_dict()``.
        tokenizer: a file made by ``tokenizer.prepare``.
        precision: of the graph.
        manifest: name, version, window sizes, and what is known of the training.
        smoothing: as ``graph.build`` takes it.
    """
    from promptguard.training.graph import build

    folder.mkdir(parents=True, exist_ok=True)
    (folder / bundle.GRAPH).write_bytes(build(weights, precision, smoothing).SerializeToString(deterministic=True))
    if tokenizer.resolve() != (folder / bundle.TOKENIZER).resolve():
        shutil.copyfile(tokenizer, folder / bundle.TOKENIZER)
    bundle.write_manifest(folder, {**uncalibrated(), **manifest, "precision": precision})


def uncalibrated() -> dict[str, Any]:
    """Fusion that passes the classifier's logits on, and thresholds of one half."""
    weights = {name: {f"classifier.{name}": 1.0} for name in (*INTENTS, "risk")}
    # Named, so that it is computed for every text: calibration has to see what it is worth.
    weights["risk"]["similarity.margin"] = 0.0
    return {
        "prior": 0.5,
        "fusion": {name: {"weights": row, "bias": 0.0} for name, row in weights.items()},
        "thresholds": {
            "risk": {"low-alarm": 0.9, "balanced": 0.5, "strict": 0.5},
            "intents": dict.fromkeys(INTENTS, 0.5),
        },
    }


def read_weights(graph: Path) -> dict[str, NDArray[np.float32]]:
    """Weights of a graph made by ``graph.build``, 8-bit ones multiplied out.

    Args:
        graph: the ONNX file.

    Returns:
        Arrays under the names of ``PairEncoder.state_dict()``.

    Raises:
        InputError: the file is not such a graph.
    """
    constants = _constants(graph)
    if "words.weight" not in constants:
        raise InputError(f"{graph.name} is not a graph of this library")

    def matrix(name: str) -> NDArray[np.float32]:
        weight = constants[f"{name}.weight"].astype(np.float32)
        scale, smooth = constants.get(f"{name}.scale"), constants.get(f"{name}.smooth")
        weight = weight if scale is None else weight * scale
        return weight if smooth is None else weight * smooth[:, None]

    def vector(name: str) -> NDArray[np.float32]:
        array: NDArray[np.float32] = constants[name].astype(np.float32)
        return array

    weights = {
        "encoder.embeddings.word_embeddings.weight": matrix("words"),
        "encoder.embeddings.position_embeddings.weight": vector("positions.weight"),
        "encoder.embeddings.token_type_embeddings.weight": vector("segments.weight"),
        "encoder.embeddings.LayerNorm.weight": vector("embed.norm.weight"),
        "encoder.embeddings.LayerNorm.bias": vector("embed.norm.bias"),
        "cls.weight": vector("cls.weight"),
        "cls.bias": vector("cls.bias"),
        "span.bias": vector("span.bias"),
        **{f"{n}.weight": vector(f"{n}.weight").T for n in ("query", "value", "span", "project")},
    }
    layers = sum(name.endswith(".qkv.weight") for name in constants)
    for i in range(layers):
        prefix = f"encoder.encoder.layer.{i}."
        parts = np.split(matrix(f"{i}.qkv"), 3, axis=1), np.split(vector(f"{i}.qkv.bias"), 3)
        for part, weight, bias in zip(("query", "key", "value"), *parts, strict=True):
            weights[f"{prefix}attention.self.{part}.weight"] = weight.T
            weights[f"{prefix}attention.self.{part}.bias"] = bias
        for ours, theirs in (("out", "attention.output.dense"), ("up", "intermediate.dense"), ("down", "output.dense")):
            weights[f"{prefix}{theirs}.weight"] = matrix(f"{i}.{ours}").T
            weights[f"{prefix}{theirs}.bias"] = vector(f"{i}.{ours}.bias")
        for ours, theirs in (("norm1", "attention.output.LayerNorm"), ("norm2", "output.LayerNorm")):
            weights[f"{prefix}{theirs}.weight"] = vector(f"{i}.{ours}.weight")
            weights[f"{prefix}{theirs}.bias"] = vector(f"{i}.{ours}.bias")
    return weights


def read_smoothing(graph: Path) -> dict[str, NDArray[np.float32]]:
    """What ``graph.build`` was given as smoothing; empty for a graph without."""
    return {
        name.removesuffix(".smooth"): (1 / array).astype(np.float32)
        for name, array in _constants(graph).items()
        if name.endswith(".smooth")
    }


def _constants(graph: Path) -> dict[str, NDArray[Any]]:
    whole = onnx.load(graph).graph
    branches = [a.g for node in whole.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return {c.name: numpy_helper.to_array(c) for part in (whole, *branches) for c in part.initializer}


def derive(source: bundle.Bundle, folder: Path, precision: Precision) -> None:
    """Write the same model in another precision, calibration and examples included.

    Args:
        source: a bundle.
        folder: receives the new one.
        precision: ``fp32``, ``fp16`` (for accelerators) or ``int8``.

    Raises:
        InputError: the bundle's graph is not one of this library's.
    """
    from promptguard.training.graph import build

    folder.mkdir(parents=True, exist_ok=True)
    graph = source.path(bundle.GRAPH)
    made = build(read_weights(graph), precision, read_smoothing(graph))
    (folder / bundle.GRAPH).write_bytes(made.SerializeToString(deterministic=True))
    for name in (bundle.TOKENIZER, bundle.EXAMPLES, bundle.VECTORS):
        if source.path(name).exists():
            shutil.copyfile(source.path(name), folder / name)
    manifest = {k: v for k, v in source.manifest.items() if k not in ("schema", "files")}
    bundle.write_manifest(folder, {**manifest, "precision": precision, "derived_from": source.id})


def parity(one: Path, other: Path, pairs: Sequence[tuple[str, Any]]) -> dict[str, float]:
    """How far two bundles of one model differ on the same texts.

    Args:
        one: folder of a bundle.
        other: folder of another.
        pairs: texts and contexts.

    Returns:
        The largest and the mean difference in risk, and the share of equal decisions.
    """
    from promptguard.guard import Guard

    first, second = Guard(one).analyze_many(pairs), Guard(other).analyze_many(pairs)
    gaps = np.array([abs(a.risk - b.risk) for a, b in zip(first, second, strict=True)])
    same = np.mean([a.decision == b.decision for a, b in zip(first, second, strict=True)])
    return {
        "texts": float(len(gaps)),
        "largest_difference_in_risk": float(gaps.max()),
        "mean_difference_in_risk": float(gaps.mean()),
        "equal_decisions": float(same),
    }

"""Even out what the 8-bit products read.

All channels of a product's input share one scale. A few are far larger than the rest and leave the rest few
steps. So each channel is divided by a factor of its own, and the weights that meet it are multiplied by it: the product
is the same, its rounding finer (SmoothQuant, Xiao et al. 2023). Behind attention the division costs nothing, it
moves into the values' weights; before the other products the graph divides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

if TYPE_CHECKING:
    from promptguard.training.batches import Batch
    from promptguard.training.model import PairEncoder

Arrays = Mapping[str, NDArray[np.float32]]

STRENGTH = 0.75
"""How much of the channels' difference goes into the weights. Of 0.5, 0.75, 0.85 and 1 it moved the risk of 90 training
windows least."""

_QKV = ("attention.self.query", "attention.self.key", "attention.self.value")
_READERS = {"qkv": _QKV, "out": ("attention.output.dense",), "up": ("intermediate.dense",), "down": ("output.dense",)}
"""Products of a layer by what they are called in the graph; those of one entry read the same input."""


def largest_inputs(model: PairEncoder, batches: Iterable[Batch]) -> dict[str, NDArray[np.float32]]:
    """Largest magnitude of every channel that a product of the layers reads, over all tokens but padding.

    Args:
        model: the network, in evaluation mode.
        batches: some hundred windows of what it will read.

    Returns:
        For ``0.qkv``, ``0.out``, ``0.up``, ``0.down`` and so on an array of shape (channels,).
    """
    found: dict[str, Tensor] = {}
    real = torch.zeros(0)

    def watch(name: str) -> object:
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            seen = (given[0].abs() * real).amax(dim=(0, 1))
            found[name] = torch.maximum(found.get(name, seen), seen)

        return hook

    hooks = [
        layer.get_submodule(parts[0]).register_forward_pre_hook(watch(f"{i}.{name}"))
        for i, layer in enumerate(model.encoder.encoder.layer)
        for name, parts in _READERS.items()
    ]
    with torch.inference_mode():
        for batch in batches:
            real = (batch.segments != 2)[:, :, None].float()
            model(batch.ids, batch.segments, batch.positions)
    for hook in hooks:
        hook.remove()
    return {name: largest.float().cpu().numpy() for name, largest in found.items()}


def product(module: str) -> str:
    """Name in the graph of the product that a linear layer, ``layer.0.output.dense``, is part of."""
    _, number, part = module.split(".", 2)
    return f"{number}.{next(name for name, parts in _READERS.items() if part in parts)}"


def factors(weights: Arrays, largest: Arrays) -> dict[str, NDArray[np.float32]]:
    """What the channels before each product are to be divided by.

    Args:
        weights: arrays under the names of ``PairEncoder.state_dict()``.
        largest: from ``largest_inputs``.

    Returns:
        Under the names of ``largest`` arrays of shape (channels,), whose geometric mean is 1.
    """
    found = {}
    for name, inputs in largest.items():
        number, kind = name.split(".")
        readers = [weights[f"encoder.encoder.layer.{number}.{part}.weight"] for part in _READERS[kind]]
        meets = np.abs(np.concatenate(readers)).max(axis=0)
        logs = STRENGTH * np.log(np.maximum(inputs, 1e-3)) - (1 - STRENGTH) * np.log(np.maximum(meets, 1e-5))
        found[name] = np.exp(logs - logs.mean()).astype(np.float32)
    return found


def smooth(weights: Arrays, divisors: Arrays) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
    """Move the factors behind attention into the weights; the others are left to ``graph.build``.

    Args:
        weights: arrays under the names of ``PairEncoder.state_dict()``.
        divisors: from ``factors``.

    Returns:
        Weights of the same function, and the other factors.
    """
    weights = dict(weights)
    for name, factor in divisors.items():
        number, kind = name.split(".")
        if kind == "out":
            value, out = (
                f"encoder.encoder.layer.{number}.{part}." for part in ("attention.self.value", *_READERS["out"])
            )
            weights[value + "weight"] = weights[value + "weight"] / factor[:, None]
            weights[value + "bias"] = weights[value + "bias"] / factor
            weights[out + "weight"] = weights[out + "weight"] * factor
    return weights, {name: factor for name, factor in divisors.items() if not name.endswith(".out")}

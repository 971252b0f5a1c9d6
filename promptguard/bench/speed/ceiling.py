"""What the machine could do at best: its 8-bit matrix product at the model's own shapes, and a request's operations."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from promptguard.bench.speed.load import Floats
from promptguard.bench.speed.traffic import Sizes
from promptguard.errors import MissingExtraError
from promptguard.loaded import Loaded
from promptguard.runtime import needs_safe_int8, onnxruntime

try:
    from onnx import TensorProto, helper, numpy_helper
except ImportError as error:
    raise MissingExtraError("bench", "measuring speed") from error

_TOKENS = (64, 128, 256, 512)
_RUNS = 30


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model that its operations follow from.

    Attributes:
        layers: number of transformer layers.
        hidden: width; the layers' inner width is four times that.
    """

    layers: int
    hidden: int

    @classmethod
    def of(cls, loaded: Loaded) -> Shape:
        """The shape of an open bundle's graph."""
        nothing = loaded.runtime._nothing  # a key and a value for each layer: (1, heads, 0, width of a head)
        return cls(len(nothing) // 2, nothing[0].shape[1] * nothing[0].shape[3])

    @property
    def products(self) -> tuple[tuple[int, int], ...]:
        """Weights of one layer: query, key and value; what follows attention; the two inner products."""
        h = self.hidden
        return (h, 3 * h), (h, h), (h, 4 * h), (4 * h, h)

    def operations(self, sizes: Sizes, *, context_runs: bool) -> Floats:
        """Multiplications and additions of the linear layers and of attention.

        Args:
            sizes: tokens of the requests.
            context_runs: whether the contexts are run, too, rather than known from before.

        Returns:
            One number a request. A text's windows are taken to be of equal length.
        """
        linear = self.layers * sum(2 * rows * columns for rows, columns in self.products)
        attention = self.layers * 4 * self.hidden
        text, context = sizes.text.astype(np.float64), sizes.context.astype(np.float64)
        found = text * (linear + attention * (context + text / sizes.windows))
        return found + context * (linear + attention * context) if context_runs else found


def product_rates(shape: Shape, threads: int) -> dict[str, float]:
    """The rate of one layer's 8-bit products (unsigned by signed to 32 bits) through onnxruntime.

    Args:
        shape: whose products.
        threads: of one run.

    Returns:
        By number of tokens, operations a second: those of all four products over the sum of their shortest times.
    """
    rates = {}
    for tokens in _TOKENS:
        seconds = sum(_shortest(tokens, rows, columns, threads) for rows, columns in shape.products)
        operations = sum(2 * tokens * rows * columns for rows, columns in shape.products)
        rates[str(tokens)] = operations / seconds
    return rates


def highest(rates: Mapping[str, float]) -> float:
    """The ceiling: the best of the rates."""
    return max(rates.values())


def _shortest(tokens: int, rows: int, columns: int, threads: int) -> float:
    draw = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array(draw.integers(-127, 128, (rows, columns)).astype(np.int8), "weight"),
        numpy_helper.from_array(np.array(128, np.uint8), "zero"),
    ]
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "weight", "zero"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [tokens, rows])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [tokens, columns])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if needs_safe_int8():
        options.add_session_config_entry("session.x64quantprecision", "1")
    session: Any = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"x": draw.integers(0, 256, (tokens, rows)).astype(np.uint8)}
    times = []
    for _ in range(_RUNS):
        began = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - began)
    return min(times)

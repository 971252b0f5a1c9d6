"""Write the network as an ONNX graph, operator by operator.

A tracing exporter would leave it to pattern matching whether attention is fused, and could not give
one graph that serves both runs. Written by hand, the graph is what this file says:

- a *context run* takes context ids and no past, and yields ``present_key_i`` and ``present_value_i``;
- a *text run* takes text ids and a context's keys and values as past, and yields the heads.

Context tokens never see text, so the first can be kept and used for every text in that context. A context run
ends with the last layer's keys and values: what only the heads need stands in a branch that it does not take.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Precision: TypeAlias = Literal["int8", "fp32", "fp16"]
Weights: TypeAlias = Mapping[str, NDArray[np.float32]]

_MS = "com.microsoft"
_EPSILON = 1e-12
_HEAD_SIZE = 32  # of MiniLM: 12 heads on 384
_FAR = 1e4  # taken from the score of a token that is not to be seen; fp16 can hold it


class _Graph:
    """Nodes and initializers under construction."""

    def __init__(self, precision: Precision, smoothing: Weights) -> None:
        self.precision = precision
        self.smoothing = smoothing
        self.float_type = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.FLOAT
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self._outer: dict[str, Any] = {}
        self._made = 0

    def op(self, kind: str, inputs: list[str], outputs: int = 1, domain: str = "", **attributes: Any) -> list[str]:
        """Add a node; names of its outputs."""
        names = [f"{kind.lower()}_{self._made}_{i}" for i in range(outputs)]
        self._made += 1
        self.nodes.append(helper.make_node(kind, inputs, names, domain=domain, **attributes))
        return names

    def one(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output; its name."""
        return self.op(kind, list(inputs), domain=domain, **attributes)[0]

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """Add an initializer, or write the one of this name again; its name."""
        if values.dtype == np.float32 and self.precision == "fp16":
            values = values.astype(np.float16)
        if name not in self._outer:
            self.constants[name] = numpy_helper.from_array(np.array(values, order="C"), name)
        return name

    def branch(self, name: str, results: list[Any], make: Callable[[], tuple[str, ...]]) -> Any:
        """The nodes that ``make`` adds, as a graph of their own with its results under the names of ``results``.

        What they need stands in it, too: onnxruntime makes 8-bit weights safe for older processors only where they
        stand in the graph that uses them.
        """
        nodes, self.nodes = self.nodes, []
        self._outer, self.constants = self.constants, {}
        for source, result in zip(make(), results, strict=True):
            self.nodes.append(helper.make_node("Cast", [source], [result.name], to=TensorProto.FLOAT))
        made = helper.make_graph(self.nodes, name, [], results, list(self.constants.values()))
        self.nodes, self.constants, self._outer = nodes, self._outer, {}
        return made

    def linear(self, x: str, name: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
        """``x @ weight + bias``; weight is ``(in, out)``, in int8 with one scale a column and its input smoothed."""
        b = self.constant(f"{name}.bias", bias)
        if self.precision == "int8":
            factor = self.smoothing.get(name)
            if factor is not None:
                x = self.one("Mul", x, self.constant(f"{name}.smooth", 1 / factor))
                weight = weight * factor[:, None]
            quantized, scale = quantize(weight, axis=0)
            w = self.constant(f"{name}.weight", quantized)
            s = self.constant(f"{name}.scale", scale)
            z = self.constant(f"{name}.zero", np.zeros(len(scale), np.int8))
            return self.one("DynamicQuantizeMatMul", x, w, s, z, b, domain=_MS)
        return self.one("Add", self.one("MatMul", x, self.constant(f"{name}.weight", weight)), b)


def quantize(weight: NDArray[np.float32], *, axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric 8-bit weights, one scale for each slice that ``axis`` is summed over.

    Args:
        weight: a matrix.
        axis: the axis the scale is shared along.

    Returns:
        Signed weights in [-127, 127] and scales so that ``weight ≈ quantized * scale``.
    """
    scale = np.abs(weight).max(axis=axis) / 127
    scale = np.where(scale == 0, 1, scale).astype(np.float32)
    quantized = np.rint(weight / np.expand_dims(scale, axis)).clip(-127, 127).astype(np.int8)
    return quantized, scale


def build(weights: Weights, precision: Precision, smoothing: Weights | None = None) -> Any:
    """Make the graph.

    Args:
        weights: arrays under the names of ``PairEncoder.state_dict()``.
        precision: ``int8`` for one window a run on a processor; ``fp32`` and ``fp16`` also take
            batches: their ``mask`` input says which past and text tokens are real.
        smoothing: what the channels before 8-bit products are divided by (``smoothing.smooth``).

    Returns:
        An ``onnx.ModelProto``.
    """
    g = _Graph(precision, smoothing or {})
    layers = 1 + max(int(k.split(".")[3]) for k in weights if k.startswith("encoder.encoder.layer."))
    hidden = weights["encoder.embeddings.word_embeddings.weight"].shape[1]
    heads = hidden // _HEAD_SIZE
    batched = precision != "int8"
    state = _embed(g, weights)
    bias = _attention_bias(g) if batched else ""
    for i in range(layers - 1):
        state = _rest_of_layer(g, weights, i, state, _attention(g, weights, i, state, bias, heads))
    seen = _attention(g, weights, layers - 1, state, bias, heads)
    results = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(weights["cls.bias"])]),
        helper.make_tensor_value_info("span_logits", TensorProto.FLOAT, ["batch", "length"]),
        helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", hidden]),
    ]

    def text() -> tuple[str, ...]:
        return _heads(g, weights, _rest_of_layer(g, weights, layers - 1, state, seen), batched)

    def context() -> tuple[str, ...]:
        empty = (("logits", (0, len(weights["cls.bias"]))), ("span_logits", (0, 0)), ("embedding", (0, hidden)))
        return tuple(g.constant(f"no.{name}", np.zeros(shape, np.float32)) for name, shape in empty)

    g.nodes.append(
        helper.make_node(
            "If",
            [g.one("Cast", "segment", to=TensorProto.BOOL)],
            [result.name for result in results],
            then_branch=g.branch("text", results, text),
            else_branch=g.branch("context", results, context),
        )
    )
    for i in range(layers):
        for part in ("key", "value"):
            shape: list[str | int | None] = ["batch", heads, "total", _HEAD_SIZE]
            results.append(helper.make_tensor_value_info(f"present_{part}_{i}", g.float_type, shape))
    graph = helper.make_graph(
        g.nodes, "promptguard", _inputs(g, layers, heads, batched), results, list(g.constants.values())
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(_MS, 1)],
        producer_name="promptguard",
        ir_version=9,
    )
    onnx.checker.check_model(model)
    return model


def _inputs(g: _Graph, layers: int, heads: int, batched: bool) -> list[Any]:
    """Ids and segment of the tokens to run, the past's keys and values, and the mask over both if batched."""
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"]),
        helper.make_tensor_value_info("segment", TensorProto.INT64, [1]),
    ]
    if batched:
        inputs.append(helper.make_tensor_value_info("mask", TensorProto.INT64, ["batch", "total"]))
    for i in range(layers):
        for part in ("key", "value"):
            shape: list[str | int | None] = ["batch", heads, "past", _HEAD_SIZE]
            inputs.append(helper.make_tensor_value_info(f"past_{part}_{i}", g.float_type, shape))
    return inputs


def _embed(g: _Graph, weights: Weights) -> str:
    """Words, positions and segment, summed and normed; in int8 each word has a scale of its own."""
    prefix = "encoder.embeddings."
    table = weights[prefix + "word_embeddings.weight"]
    if g.precision == "int8":
        quantized, scale = quantize(table, axis=1)
        rows = g.one("Cast", g.one("Gather", g.constant("words.weight", quantized), "ids"), to=TensorProto.FLOAT)
        scales = g.one("Gather", g.constant("words.scale", scale[:, None]), "ids")
        words = g.one("Mul", rows, scales)
    else:
        words = g.one("Gather", g.constant("words.weight", table), "ids")
    length = _length(g)
    positions = g.one(
        "Slice",
        g.constant("positions.weight", weights[prefix + "position_embeddings.weight"]),
        g.constant("i0", np.array([0])),
        length,
    )
    segment = g.one(
        "Gather", g.constant("segments.weight", weights[prefix + "token_type_embeddings.weight"]), "segment"
    )
    total = g.one("Add", g.one("Add", words, positions), segment)
    return g.one(
        "LayerNormalization",
        total,
        g.constant("embed.norm.weight", weights[prefix + "LayerNorm.weight"]),
        g.constant("embed.norm.bias", weights[prefix + "LayerNorm.bias"]),
        axis=-1,
        epsilon=_EPSILON,
    )


def _length(g: _Graph) -> str:
    """Number of tokens in ``ids``, padding included; shape (1,)."""
    return g.one("Slice", g.one("Shape", "ids"), g.constant("i1", np.array([1])), g.constant("i2", np.array([2])))


def _away(g: _Graph, real: str) -> str:
    """0 where ``real`` is 1, a large negative number where it is 0."""
    short = g.one("Sub", real, g.constant("one", np.ones(1, np.float32)))
    return g.one("Mul", short, g.constant("far", np.full(1, _FAR, np.float32)))


def _attention_bias(g: _Graph) -> str:
    """``(batch, 1, length, total)``: a large negative number where a token is padding."""
    real = g.one("Cast", "mask", to=g.float_type)
    wide = g.one("Unsqueeze", _away(g, real), g.constant("i12", np.array([1, 2])))
    length = _length(g)
    shape = g.one("Concat", g.constant("i1b", np.array([1, 1])), length, g.constant("i1", np.array([1])), axis=0)
    return g.one("Expand", wide, shape)


def _attention(g: _Graph, weights: Weights, i: int, x: str, bias: str, heads: int) -> str:
    """What a layer's tokens see of each other and of the past; its keys and values leave the graph."""
    parts = [f"encoder.encoder.layer.{i}.attention.self.{p}." for p in ("query", "key", "value")]
    qkv = g.linear(
        x,
        f"{i}.qkv",
        np.concatenate([weights[p + "weight"].T for p in parts], axis=1),
        np.concatenate([weights[p + "bias"] for p in parts]),
    )
    q, k, v = g.op("Split", [qkv], 3, axis=-1)
    inputs = [q, k, v, "", "", bias, f"past_key_{i}", f"past_value_{i}"]
    seen = [f"seen_{i}", f"present_key_{i}", f"present_value_{i}"]
    g.nodes.append(helper.make_node("MultiHeadAttention", inputs, seen, domain=_MS, num_heads=heads))
    return seen[0]


def _rest_of_layer(g: _Graph, weights: Weights, i: int, x: str, seen: str) -> str:
    """A transformer layer after its attention: its output."""
    prefix = f"encoder.encoder.layer.{i}."

    def get(name: str) -> NDArray[np.float32]:
        return weights[prefix + name]

    out = g.linear(seen, f"{i}.out", get("attention.output.dense.weight").T, get("attention.output.dense.bias"))
    x = _normed(
        g, out, x, f"{i}.norm1", get("attention.output.LayerNorm.weight"), get("attention.output.LayerNorm.bias")
    )
    up = g.linear(x, f"{i}.up", get("intermediate.dense.weight").T, get("intermediate.dense.bias"))
    down = g.linear(g.one("Gelu", up, domain=_MS), f"{i}.down", get("output.dense.weight").T, get("output.dense.bias"))
    return _normed(g, down, x, f"{i}.norm2", get("output.LayerNorm.weight"), get("output.LayerNorm.bias"))


def _normed(g: _Graph, x: str, skip: str, name: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
    """Layer norm of ``x + skip``."""
    w, b = g.constant(f"{name}.weight", weight), g.constant(f"{name}.bias", bias)
    if g.precision == "fp16":
        return g.one("SkipLayerNormalization", x, skip, w, b, domain=_MS, epsilon=_EPSILON)
    # onnxruntime's fused operator is slow on a processor, five times as long as the two. An Add would be fused into
    # it again, a Sum is not.
    return g.one("LayerNormalization", g.one("Sum", x, skip), w, b, axis=-1, epsilon=_EPSILON)


def _heads(g: _Graph, weights: Weights, x: str, batched: bool) -> tuple[str, str, str]:
    """Heads stay in floating point: they cost nothing and every rounding would show."""
    zero = g.constant("zero", np.array(0))
    first = g.one("Gather", x, zero, axis=1)
    cls = g.one(
        "Gemm",
        first,
        g.constant("cls.weight", weights["cls.weight"]),
        g.constant("cls.bias", weights["cls.bias"]),
        transB=1,
    )
    scores = g.one("MatMul", x, g.constant("query.weight", weights["query.weight"].T))
    if batched:
        start = g.one("Neg", _length(g))
        real = g.one(
            "Slice",
            "mask",
            start,
            g.constant("last", np.array([np.iinfo(np.int64).max])),
            g.constant("i1", np.array([1])),
        )
        real = g.one("Unsqueeze", g.one("Cast", real, to=g.float_type), g.constant("i2", np.array([2])))
        scores = g.one("Add", scores, _away(g, real))
        count = g.one("ReduceSum", real, g.constant("i1", np.array([1])), keepdims=0)
        total = g.one("ReduceSum", g.one("Mul", x, real), g.constant("i1", np.array([1])), keepdims=0)
        mean = g.one("Div", total, count)
    else:
        mean = g.one("ReduceMean", x, axes=[1], keepdims=0)
    values = g.one("MatMul", x, g.constant("value.weight", weights["value.weight"].T))
    pooled = g.one(
        "ReduceSum", g.one("Mul", g.one("Softmax", scores, axis=1), values), g.constant("i1", np.array([1])), keepdims=0
    )
    span = g.one(
        "Add",
        g.one("MatMul", x, g.constant("span.weight", weights["span.weight"].T)),
        g.constant("span.bias", weights["span.bias"]),
    )
    span = g.one("Squeeze", span, g.constant("i2", np.array([2])))
    vector = g.one("MatMul", mean, g.constant("project.weight", weights["project.weight"].T))
    norm = g.one("ReduceL2", vector, axes=[1], keepdims=1)
    return g.one("Add", cls, pooled), span, g.one("Div", vector, norm)

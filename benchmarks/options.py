r"""Other ways to run the model, each with its time and what it does to the verdicts.

    python benchmarks/options.py --records runs/data/calibration.jsonl --train runs/data/train.jsonl \
        --out benchmarks/results/options.json

Graphs are made from the bundle's weights, or from those of its training run (``--weights``), and run in turn, one
thread each, so that what else the machine does falls on all alike. Quality is that of whole verdicts, with the bundle's
calibration, on records the model was not trained on and is not reported on. OpenVINO joins in where it is installed.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from sklearn.metrics import roc_auc_score

from promptguard import Guard, bundle
from promptguard.bench.provenance import provenance
from promptguard.runtime import needs_safe_int8, onnxruntime  # with its telemetry switched off
from promptguard.training.calibrate import is_risky
from promptguard.training.data import read_jsonl
from promptguard.training.export import read_smoothing, read_weights
from promptguard.training.graph import build

MS = "com.microsoft"
CONTEXT_TOKENS = 120
TEXT_TOKENS = (64, 128, 254)
HEADS = ["logits", "span_logits", "embedding"]
BLOCK = 128
HEAD_SIZE = 32


# --- graphs, rewritten ---------------------------------------------------------------------------------


@dataclass
class Part:
    """A graph or a branch of one, under change: its own nodes, and constants it may refer to."""

    graph: Any
    constants: dict[str, np.ndarray]
    nodes: list[Any] = field(default_factory=list)

    def op(self, kind: str, inputs: Sequence[str], output: str = "", domain: str = "", **attributes: Any) -> str:
        """Add a node; the name of its output."""
        output = output or f"{kind}_{len(self.nodes)}_{self.graph.name}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], domain=domain, **attributes))
        return output

    def constant(self, name: str, values: np.ndarray) -> str:
        """Add a constant; its name."""
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name


Rewrite = Callable[[Part, Any], bool]
"""Adds what stands for a node, and says whether it did."""


def rewritten(model: Any, *rewrites: Rewrite) -> Any:
    """A copy of a graph in which each node is left to the first rewrite that takes it; unused constants are dropped."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    constants = {c.name: numpy_helper.to_array(c) for graph in graphs(model) for c in graph.initializer}
    for graph in graphs(model):
        part = Part(graph, constants)
        for node in graph.node:
            if not any(rewrite(part, node) for rewrite in rewrites):
                part.nodes.append(node)
        del graph.node[:]
        graph.node.extend(part.nodes)
    used = {name for graph in graphs(model) for node in graph.node for name in node.input}
    for graph in graphs(model):
        kept = [c for c in graph.initializer if c.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
    return model


def graphs(model: Any) -> list[Any]:
    """The branches, then the graph that holds them."""
    branches = [a.g for node in model.graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return [*branches, model.graph]


def without_branch(model: Any) -> Any:
    """The graph with the text's branch in line: a context run goes to its end as well."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    at = next(i for i, node in enumerate(graph.node) if node.op_type == "If")
    branch = next(a.g for a in graph.node[at].attribute if a.name == "then_branch")
    condition = graph.node[at].input[0]
    nodes = [*(n for n in graph.node[:at] if condition not in n.output), *branch.node, *graph.node[at + 1 :]]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(branch.initializer)
    return model


def products(make: Callable[[Part, str, str, np.ndarray, np.ndarray, str, str], None]) -> Rewrite:
    """Rewrites each 8-bit product: ``make(part, x, name, weight, scale, bias, output)``."""

    def rewrite(part: Part, node: Any) -> bool:
        if node.op_type != "DynamicQuantizeMatMul":
            return False
        x, weight, scale, _, bias = node.input
        make(
            part, x, weight.removesuffix(".weight"), part.constants[weight], part.constants[scale], bias, node.output[0]
        )
        return True

    return rewrite


def blockwise(part: Part, x: str, name: str, weight: np.ndarray, scale: np.ndarray, bias: str, output: str) -> None:
    """8-bit weights with a scale for 128 of a column, activations with one for each row and block."""
    inner, outer = weight.shape
    columns = (weight * scale).T.reshape(outer, inner // BLOCK, BLOCK)
    scales = np.maximum(np.abs(columns).max(axis=-1) / 127, 1e-12).astype(np.float32)
    codes = (np.rint(columns / scales[..., None]).clip(-127, 127) + 128).astype(np.uint8)
    inputs = [x, part.constant(f"{name}.codes", codes), part.constant(f"{name}.scales", scales), "", "", bias]
    sizes = {"K": inner, "N": outer, "bits": 8, "block_size": BLOCK, "accuracy_level": 4}
    part.op("MatMulNBits", inputs, output, MS, **sizes)


def unsigned(part: Part, x: str, name: str, weight: np.ndarray, scale: np.ndarray, bias: str, output: str) -> None:
    """The same weights moved by 128."""
    codes = part.constant(f"{name}.codes", (weight.astype(np.int16) + 128).astype(np.uint8))
    zero = part.constant(f"{name}.zeros", np.full(len(scale), 128, np.uint8))
    scales = part.constant(f"{name}.scales", scale)
    part.op("DynamicQuantizeMatMul", [x, codes, scales, zero, bias], output, MS)


def weight_only(part: Part, x: str, name: str, weight: np.ndarray, scale: np.ndarray, bias: str, output: str) -> None:
    """8-bit weights, multiplied out as the engine likes."""
    inputs = [part.constant(f"{name}.codes", weight), part.constant(f"{name}.scales", scale)]
    dense = part.op(
        "DequantizeLinear", [*inputs, part.constant(f"{name}.zeros", np.zeros(len(scale), np.int8))], axis=1
    )
    part.op("Add", [part.op("MatMul", [x, dense]), bias], output)


def full(part: Part, x: str, name: str, weight: np.ndarray, scale: np.ndarray, bias: str, output: str) -> None:
    dense = part.constant(f"{name}.dense", weight * scale)
    part.op("Add", [part.op("MatMul", [x, dense]), bias], output)


def static(ranges: dict[str, tuple[float, float]], *, engine: str) -> Rewrite:
    """8-bit products whose activations are rounded with a scale fixed beforehand."""

    def make(part: Part, x: str, name: str, weight: np.ndarray, scale: np.ndarray, bias: str, output: str) -> None:
        low, high = ranges[x]
        step = max((high - low) / 255, 1e-8)
        s = part.constant(f"{name}.step", np.array(step, np.float32))
        z = part.constant(f"{name}.at_zero", np.array(np.clip(round(-low / step), 0, 255), np.uint8))
        codes = part.op("QuantizeLinear", [x, s, z])
        if engine == "openvino":
            weight_only(part, part.op("DequantizeLinear", [codes, s, z]), name, weight, scale, bias, output)
            return
        w, ws = part.constant(f"{name}.codes", weight), part.constant(f"{name}.scales", scale)
        zeros = part.constant(f"{name}.zeros", np.zeros(len(scale), np.int8))
        part.op("MatMulIntegerToFloat", [codes, w, s, ws, z, zeros, bias], output, MS)

    return products(make)


def fused_norms(part: Part, node: Any) -> bool:
    """Sum and layer norm in one operator."""
    if node.op_type != "LayerNormalization" or not part.nodes or part.nodes[-1].op_type != "Sum":
        return False
    inputs = [*part.nodes.pop().input, *node.input[1:]]
    part.op("SkipLayerNormalization", inputs, node.output[0], MS, epsilon=1e-12)
    return True


def tanh_gelu(part: Part, node: Any) -> bool:
    if node.op_type == "Gelu":
        part.op("FastGelu", node.input, node.output[0], MS)
    return node.op_type == "Gelu"


def erf_gelu(part: Part, node: Any) -> bool:
    """GELU in standard operators."""
    if node.op_type != "Gelu":
        return False
    x, name = node.input[0], node.output[0]

    def number(suffix: str, value: float) -> str:
        return part.constant(f"{name}.{suffix}", np.array(value, np.float32))

    erf = part.op("Erf", [part.op("Div", [x, number("root", 2**0.5)])])
    part.op("Mul", [part.op("Mul", [x, part.op("Add", [erf, number("one", 1)])]), number("half", 0.5)], name)
    return True


def plain_attention(part: Part, node: Any) -> bool:
    """Attention in standard operators."""
    if node.op_type != "MultiHeadAttention":
        return False
    heads = helper.get_node_attr_value(node, "num_heads")
    seen, key, value = node.output
    split = part.constant(f"{seen}.split", np.array([0, 0, heads, HEAD_SIZE]))
    q, k, v = (part.op("Transpose", [part.op("Reshape", [x, split])], perm=[0, 2, 1, 3]) for x in node.input[:3])
    part.op("Concat", [node.input[6], k], key, axis=2)
    part.op("Concat", [node.input[7], v], value, axis=2)
    scores = part.op("MatMul", [q, part.op("Transpose", [key], perm=[0, 1, 3, 2])])
    scores = part.op("Mul", [scores, part.constant(f"{seen}.scale", np.array(HEAD_SIZE**-0.5, np.float32))])
    seen_by_head = part.op("MatMul", [part.op("Softmax", [scores], axis=-1), value])
    joined = part.constant(f"{seen}.join", np.array([0, 0, heads * HEAD_SIZE]))
    part.op("Reshape", [part.op("Transpose", [seen_by_head], perm=[0, 2, 1, 3]), joined], seen)
    return True


def tiled_attention(part: Part, node: Any) -> bool:
    """Attention that onnxruntime works through in tiles, which it does where there is no past."""
    if node.op_type != "MultiHeadAttention":
        return False
    heads = helper.get_node_attr_value(node, "num_heads")
    seen, *presents = node.output
    split = part.constant(f"{seen}.split", np.array([0, 0, heads, HEAD_SIZE]))
    for x, past, present in zip(node.input[1:3], node.input[6:], presents, strict=True):
        new = part.op("Transpose", [part.op("Reshape", [x, split])], perm=[0, 2, 1, 3])
        part.op("Concat", [past, new], present, axis=2)
    part.op("MultiHeadAttention", [node.input[0], *presents], seen, MS, num_heads=heads)
    return True


def added_norms(part: Part, node: Any) -> bool:
    """Sums as engines other than onnxruntime look for them."""
    if node.op_type == "Sum":
        part.op("Add", node.input, node.output[0])
    return node.op_type == "Sum"


def eight_bit_heads(part: Part, node: Any) -> bool:
    """Heads in 8 bits as well."""
    weight = part.constants.get(node.input[1]) if node.op_type == "MatMul" else None
    if weight is None:
        return False
    scale = np.maximum(np.abs(weight).max(axis=0) / 127, 1e-12).astype(np.float32)
    codes = part.constant(f"{node.input[1]}.codes", np.rint(weight / scale).clip(-127, 127).astype(np.int8))
    zeros = part.constant(f"{node.input[1]}.zeros", np.zeros(len(scale), np.int8))
    scales = part.constant(f"{node.input[1]}.scales", scale)
    part.op("DynamicQuantizeMatMul", [node.input[0], codes, scales, zeros], node.output[0], MS)
    return True


def dense_words(table: np.ndarray) -> Rewrite:
    """Word embeddings in 32 bits."""

    def rewrite(part: Part, node: Any) -> bool:
        if node.op_type == "Mul" and part.nodes and "words.scale" in part.nodes[-1].input:
            part.op("Gather", [part.constant("words.dense", table), "ids"], node.output[0])
            return True
        return False

    return rewrite


def observed_ranges(model: Any, guard: Guard, pairs: Sequence[tuple[str, Any]]) -> dict[str, tuple[float, float]]:
    """Smallest and largest input of each product over some texts and their contexts."""
    model = without_branch(model)
    inputs = sorted({node.input[0] for node in model.graph.node if node.op_type == "DynamicQuantizeMatMul"})
    for name in inputs:
        for kind in ("ReduceMin", "ReduceMax"):
            model.graph.node.append(helper.make_node(kind, [name], [f"{kind}.{name}"], keepdims=0))
            model.graph.output.append(helper.make_tensor_value_info(f"{kind}.{name}", onnx.TensorProto.FLOAT, []))
    session = opened(model)
    wanted = [f"{kind}.{name}" for name in inputs for kind in ("ReduceMin", "ReduceMax")]
    found: list[list[float]] = []

    class Watching:
        """Runs the graph and remembers the extremes."""

        def run(self, outputs: list[str], feed: dict[str, Any]) -> list[Any]:
            results = session.run([*outputs, *wanted], feed)
            found.append([float(x) for x in results[len(outputs) :]])
            return results[: len(outputs)]

    with_session(guard, Watching()).analyze_many(pairs)
    table = np.array(found)
    low, high = table[:, ::2].min(axis=0), table[:, 1::2].max(axis=0)
    return {name: (min(float(a), 0.0), max(float(b), 0.0)) for name, a, b in zip(inputs, low, high, strict=True)}


# --- engines -------------------------------------------------------------------------------------------


def opened(model: Any, *, threads: int = 1, **entries: str) -> Any:
    """An onnxruntime session over a graph, with the products that ``Runtime`` would take here."""
    if needs_safe_int8():
        entries = {"session__x64quantprecision": "1", **entries}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    for name, value in entries.items():
        options.add_session_config_entry(name.replace("__", "."), value)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class OpenVino:
    """A graph in OpenVINO, with the one method of a session that the runtime calls."""

    def __init__(self, model: Any, **settings: str) -> None:
        import openvino

        for graph_input in model.graph.input:  # one window a run
            if graph_input.name != "segment":
                graph_input.type.tensor_type.shape.dim[0].dim_value = 1
        core = openvino.Core()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            onnx.save(model, path)
            fixed = {"INFERENCE_NUM_THREADS": "1", "NUM_STREAMS": "1", "INFERENCE_PRECISION_HINT": "f32"}
            self._request = core.compile_model(path, "CPU", {**fixed, **settings}).create_infer_request()

    def run(self, outputs: list[str], feed: dict[str, Any]) -> list[Any]:
        """Some outputs for the inputs given."""
        results = self._request.infer(feed)
        return [np.array(results[name]) for name in outputs]


def with_session(guard: Guard, session: Any) -> Guard:
    """A fresh guard over the same bundle that runs another session."""
    other = Guard(guard._loaded.bundle.folder)
    other._loaded.runtime._session = session
    return other


# --- measuring -----------------------------------------------------------------------------------------


def feeds(guard: Guard, session: Any, text: str, context: str) -> dict[str, tuple[list[str], dict[str, Any]]]:
    """Inputs of a context run and of text runs with that context as their past, by what they are."""
    runtime, tokenizer = guard._loaded.runtime, guard._loaded.tokenizer
    ids = (9, *tokenizer.ids(context)[: CONTEXT_TOKENS - 2], 102)
    made = {"context": (runtime._presents, runtime._feed(np.array([ids]), 0, runtime._nothing))}
    keys = tuple(session.run(*made["context"]))
    for length in TEXT_TOKENS:
        window = (101, *tokenizer.ids(text)[: length - 2], 102)
        made[str(length)] = (HEADS, runtime._feed(np.array([window]), 1, keys))
    return made


def timed(
    guard: Guard, sessions: dict[str, Any], rounds: int, text: str, context: str
) -> dict[str, dict[str, dict[str, float]]]:
    """Median milliseconds, on the clock and of the processor, by option and run.

    Every round runs each option once, in another order.
    """
    given = {name: feeds(guard, session, text, context) for name, session in sessions.items()}
    times: dict[str, dict[str, list[tuple[float, float]]]] = {n: {run: [] for run in given[n]} for n in sessions}
    order = list(sessions)
    for number in range(rounds + 2):
        random.Random(number).shuffle(order)
        for name in order:
            for run, (outputs, feed) in given[name].items():
                began, processor = time.perf_counter(), time.process_time()
                sessions[name].run(outputs, feed)
                if number >= 2:
                    times[name][run].append((time.perf_counter() - began, time.process_time() - processor))
    return {
        name: {
            clock: {run: round(1000 * statistics.median(t[i] for t in values), 3) for run, values in runs.items()}
            for i, clock in enumerate(("milliseconds", "processor_milliseconds"))
        }
        for name, runs in times.items()
    }


def verdicts(guard: Guard, session: Any, records: Sequence[Any]) -> tuple[np.ndarray, list[str]]:
    """Risk and decision of each record."""
    analyses = with_session(guard, session).analyze_many((r["text"], r["context"]) for r in records)
    return np.array([a.risk for a in analyses]), [a.decision.value for a in analyses]


def saturating(model: Any, guard: Guard, pairs: Sequence[tuple[str, Any]], cases: int = 24) -> dict[str, float]:
    """What older x86 processors would make of signed 8-bit products: pairs of products added in 16 bits, saturating.

    Returns:
        Over the inputs of the products in some runs: the share of pairs beyond 16 bits, the share of the results that
        such a pair moves, and the mean error of those results in units of the results' standard deviation.
    """
    whole = without_branch(model)
    nodes = [node for node in whole.graph.node if node.op_type == "DynamicQuantizeMatMul"]
    constants = {c.name: numpy_helper.to_array(c) for c in whole.graph.initializer}
    for node in nodes:
        whole.graph.output.append(helper.make_tensor_value_info(node.input[0], onnx.TensorProto.FLOAT, None))
    session = opened(whole)
    totals = np.zeros(4)
    deviations: list[float] = []

    class Watching:
        """Runs the graph and works out what saturation would do to its products."""

        def run(self, outputs: list[str], feed: dict[str, Any]) -> list[Any]:
            results = session.run([*outputs, *(node.input[0] for node in nodes)], feed)
            for node, x in zip(nodes, results[len(outputs) :], strict=True):
                low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
                step = max((high - low) / 255, 1e-12)
                rows = x[0][:: max(1, len(x[0]) // 8)]  # eight rows of each
                codes = (np.rint(rows / step) + round(-low / step)).clip(0, 255).astype(np.int32)
                weight = constants[node.input[1]].astype(np.int32)
                even, odd = codes[:, ::2, None] * weight[None, ::2], codes[:, 1::2, None] * weight[None, 1::2]
                lost = (even + odd) - (even + odd).clip(-32768, 32767)
                moved = lost.sum(axis=1)
                exact = codes @ weight - round(-low / step) * weight.sum(axis=0)
                totals[:] += [(lost != 0).sum(), lost.size, (moved != 0).sum(), moved.size]
                if (moved != 0).any():
                    deviations.append(float(np.abs(moved[moved != 0]).mean() / exact.std()))
            return results[: len(outputs)]

    with_session(guard, Watching()).analyze_many(pairs[:cases])
    return {
        "pairs_saturated": float(totals[0] / totals[1]),
        "results_moved": float(totals[2] / totals[3]),
        "mean_error_in_standard_deviations": statistics.mean(deviations) if deviations else 0.0,
    }


def first_stage(train: Sequence[Any], records: Sequence[Any]) -> dict[str, Any]:
    """A bag of words that would let pass what it is sure of, and what it would miss.

    The threshold is set on one half of the records so that at most one risky text in 200 passes; the other half
    is counted.
    """
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import LogisticRegression

    def features(rows: Sequence[Any]) -> Any:
        texts = [f"{r['text']} \n {r['context'].get('system_prompt') or ''}"[:4000] for r in rows]
        return HashingVectorizer(n_features=2**18, ngram_range=(1, 2)).transform(texts)

    model = LogisticRegression(C=30, max_iter=300).fit(features(train), is_risky(train))
    scores = model.decision_function(features(records))
    risky = is_risky(records)
    half = np.arange(len(records)) % 2 == 0
    threshold = np.quantile(scores[half & risky], 0.005)
    passed = scores < threshold
    missed = Counter(r["source"] for r, gone in zip(records, passed & risky & ~half, strict=True) if gone)
    began = time.perf_counter()
    for record in records[:100]:
        model.decision_function(features([record]))
    return {
        "milliseconds": round(10 * (time.perf_counter() - began), 3),
        "benign_passed": float(passed[~half & ~risky].mean()),
        "risky_missed": float(passed[~half & risky].mean()),
        "missed_by_source": dict(missed.most_common()),
    }


def scaling(model: Path | None, texts: Sequence[str], seconds: float) -> dict[str, float]:
    """Texts a second of one and two processes, and of one guard called by 1 and by 32 threads."""
    with get_context("spawn").Pool(2, initializer=_open_guard, initargs=(model, texts)) as pool:
        one = pool.apply(_texts_a_second, (seconds,))
        two = sum(pool.map(_texts_a_second, [seconds, seconds], chunksize=1))
    guard = Guard(model)
    guard.analyze(texts[0])
    result = {"one_process": one, "two_processes": two}
    for threads in (1, 2, 32):
        with ThreadPoolExecutor(threads) as pool:
            many = [*texts] * max(1, int(seconds * one / len(texts)))
            began = time.perf_counter()
            list(pool.map(guard.analyze, many))
            result[f"one_guard_{threads}_threads"] = len(many) / (time.perf_counter() - began)
    return {name: round(value, 1) for name, value in result.items()}


def _open_guard(model: Path | None, texts: Sequence[str]) -> None:
    global _guard, _texts
    _guard, _texts = Guard(model), texts
    _guard.analyze("warm up")


def _texts_a_second(seconds: float) -> float:
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        _guard.analyze(_texts[done % len(_texts)])
        done += 1
    return done / (time.perf_counter() - began)


# --- the options ---------------------------------------------------------------------------------------


def sessions(weights: Any, smoothing: Any, guard: Guard, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """All options, by the name they have in the table."""
    shipped = build(weights, "int8", smoothing)
    ranges = observed_ranges(shipped, guard, pairs)
    standard = (plain_attention, erf_gelu, added_norms)
    in_line = without_branch(shipped)
    made = {
        "32 bits": opened(rewritten(shipped, products(full))),
        "as shipped: 8 bits, scales as they come": opened(shipped),
        "channels not evened out": opened(build(weights, "int8")),
        "layer norms fused by onnxruntime": opened(rewritten(shipped, fused_norms)),
        "context run to the end": opened(in_line),
        "attention in standard operators": opened(rewritten(shipped, plain_attention)),
        "attention in tiles": opened(rewritten(shipped, tiled_attention)),
        "GELU by tanh": opened(rewritten(shipped, tanh_gelu)),
        "word embeddings in 32 bits": opened(
            rewritten(shipped, dense_words(weights["encoder.embeddings.word_embeddings.weight"]))
        ),
        "heads in 8 bits": opened(rewritten(shipped, eight_bit_heads)),
        "activations with fixed scales": opened(rewritten(shipped, static(ranges, engine="onnxruntime"))),
        "scales by row and block (MatMulNBits)": opened(rewritten(shipped, products(blockwise))),
        "unsigned weights": opened(rewritten(shipped, products(unsigned))),
        "safe without VNNI": opened(shipped, session__x64quantprecision="1"),
        **(
            {"products that may overflow here": opened(shipped, session__x64quantprecision="0")}
            if needs_safe_int8()
            else {}
        ),
        "denormals as zero": opened(shipped, session__set_denormal_as_zero="1"),
    }
    try:
        made |= {
            "OpenVINO, 32 bits": OpenVino(rewritten(in_line, products(full), *standard)),
            "OpenVINO, 8-bit weights, scales by row and block": OpenVino(
                rewritten(in_line, products(weight_only), *standard), DYNAMIC_QUANTIZATION_GROUP_SIZE=str(BLOCK)
            ),
            "OpenVINO, activations with fixed scales": OpenVino(
                rewritten(in_line, static(ranges, engine="openvino"), *standard)
            ),
        }
    except ImportError:
        print("OpenVINO is not installed: left out")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of an 8-bit bundle; the one of the package by default")
    parser.add_argument("--weights", type=Path, help="weights.pt of its training run, for what is lost in 8 bits")
    parser.add_argument("--records", type=Path, required=True, help="the calibration records")
    parser.add_argument("--train", type=Path, help="training records, for a first stage by words")
    parser.add_argument("--count", type=int, default=300, help="records for quality")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each figure of scaling; 0 leaves them out")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    guard = Guard(arguments.model)
    rows = list(read_jsonl(arguments.records))
    random.Random(7).shuffle(rows)
    records, others = rows[: arguments.count], rows[arguments.count :]
    pairs = [(r["text"], r["context"]) for r in others[:60]]
    graph = guard._loaded.bundle.path(bundle.GRAPH)
    smoothing = read_smoothing(graph)
    if arguments.weights:
        import torch

        state = torch.load(arguments.weights, weights_only=True)
        weights = {name: values.float().numpy() for name, values in state.items()}
    else:
        weights = read_weights(graph)
    made = sessions(weights, smoothing, guard, pairs)
    text = " ".join(r["text"] for r in others[:200] if not r["labels"])
    context = " ".join(r["context"].get("system_prompt") or "" for r in others[:200])
    times = timed(guard, made, arguments.rounds, text, context)
    shipped = build(weights, "int8", smoothing)
    for spins, name in (("1", "two threads"), ("0", "two threads that do not spin")):
        # Apart from the others: a thread that spins takes their time.
        made[name] = opened(shipped, threads=2, session__intra_op__allow_spinning=spins)
        times |= timed(guard, {name: made[name]}, arguments.rounds, text, context)
    risky = is_risky(records)
    reference, decided = verdicts(guard, made["32 bits"], records)
    table = []
    for name, session in made.items():
        risk, decisions = verdicts(guard, session, records)
        row = {
            "option": name,
            **times[name],
            "auroc": round(float(roc_auc_score(risky, risk)), 4),
            "decisions_changed": float(np.mean([a != b for a, b in zip(decisions, decided, strict=True)])),
            "mean_difference_in_risk": float(np.abs(risk - reference).mean()),
        }
        table.append(row)
        print(row, flush=True)
    result = {
        "provenance": provenance(sys.argv),
        "model": guard.model,
        "weights": "of the training run" if arguments.weights else "of the bundle, already rounded",
        "records": len(records),
        "context_tokens": CONTEXT_TOKENS,
        "options": table,
        "saturation": saturating(shipped, guard, pairs),
    }
    if arguments.train:
        train = list(read_jsonl(arguments.train))
        random.Random(8).shuffle(train)
        result["first_stage"] = first_stage(train[:20_000], rows)
    if arguments.seconds:
        result["texts_a_second"] = scaling(arguments.model, [r["text"][:400] for r in records[:50]], arguments.seconds)
    print(json.dumps({k: v for k, v in result.items() if k not in ("provenance", "options")}, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

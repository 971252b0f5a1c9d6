"""Milliseconds of promptguard beside the architectures of its peers: one run, one thread, equal numbers of tokens.

    pip install '.[train,bench]' onnxscript openvino matplotlib 'stackone-defender[onnx]' -c scripts/constraints.txt
    python benchmarks/architectures.py --out benchmarks/results/architectures.json --plot docs/architectures.svg

The weights of Prompt Guard 2 (22M and 86M) and of DeBERTa-v3-base (ProtectAI, PIGuard) are not needed to time them:
the networks are made as their configurations say, with random weights, and exported to ONNX; the results say so. For
8 bits the exported graph is prepared as onnxruntime advises and quantized dynamically, a scale a column where the
engine can, else a scale a matrix: the fastest of the recipes that were tried. They get token ids, as many as
promptguard's own texts have, and only the model's call is timed. Of promptguard and stackone-defender, which come with
their weights, the whole call is timed on the same texts, and of promptguard the model's share of it.

Everybody has a turn in every round, in an order drawn anew. A turn lasts at least ``TURN_MS``; its first call, which
finds the caches full of somebody else's weights, is left out unless it is the only one. Intervals of ratios come from
resampling whole rounds. The ceiling is the rate of a large 8-bit matrix product through onnxruntime in the same run.
"""

# ruff: noqa: D102 - Subject says what its methods mean

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from latency import VOCABULARY, ceiling
from peers import StackOneDefender
from threadpoolctl import threadpool_limits

from promptguard import Context, Guard, bundle
from promptguard.bench.provenance import provenance
from promptguard.runtime import onnxruntime  # with its telemetry switched off
from promptguard.training.export import derive, read_weights

ROUNDS = 20
TURN_MS = 100
MOST_CALLS = 8
CONTEXT_TOKENS = 120
OURS = "promptguard"

DEBERTA = {  # microsoft/DeBERTa, experiments/language_model/rtd_xsmall.json and rtd_base.json
    "relative_attention": True,
    "position_buckets": 256,
    "max_relative_positions": -1,
    "max_position_embeddings": 512,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-7,
    "num_hidden_layers": 12,
}
XSMALL = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
BASE = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
PEERS = {
    "Prompt Guard 2 22M": {**DEBERTA, **XSMALL, "vocab_size": 128_100},
    "Prompt Guard 2 86M": {**DEBERTA, **BASE, "vocab_size": 251_000},
    "DeBERTa-v3-base (ProtectAI, PIGuard)": {**DEBERTA, **BASE, "vocab_size": 128_100},
}
TARGETS = {
    ("Prompt Guard 2 22M", "int8"): 4.0,
    ("Prompt Guard 2 22M", "fp32"): 3.0,
    ("DeBERTa-v3-base (ProtectAI, PIGuard)", "int8"): 10.0,
    ("DeBERTa-v3-base (ProtectAI, PIGuard)", "fp32"): 10.0,
    ("stackone-defender", "int8"): 1.0,
}
"""How many times our milliseconds a peer should need, at least: what the project set out to reach."""
TARGET_TOKENS = (128, 512)


@dataclass(frozen=True)
class Case:
    """What is read: so many tokens in all, so many of them context, read before or not."""

    tokens: int
    context: int = 0
    seen: bool = False


CASES = (
    *(Case(tokens) for tokens in (64, 128, 248, 512)),
    *(Case(tokens, CONTEXT_TOKENS, seen) for tokens in (248, 512) for seen in (False, True)),
)


class Subject(Protocol):
    """Something that is timed; unless it says otherwise it takes no context and reads every token once."""

    name: str
    engine: str
    precision: str
    weights: str

    def takes(self, case: Case) -> bool:
        """Whether it can be asked this."""
        return not case.context

    def runs(self, case: Case) -> list[tuple[int, int]]:
        """Tokens of each run of its network, and tokens of context at hand then."""
        return [(case.tokens, 0)]

    def call(self, case: Case, seed: int) -> dict[str, float]:
        """Prepare an input of its own for the seed; milliseconds of the ``model``, of the ``whole`` call, or both."""


def text_of(tokens: int, seed: int) -> str:
    """Sentences of words and full stops of one token each."""
    generator = np.random.default_rng(seed)
    words = generator.choice(VOCABULARY, tokens)
    return " ".join("." if place % 12 == 11 or place == tokens - 1 else word for place, word in enumerate(words))


def inputs(case: Case, seed: int) -> tuple[str, Context | None]:
    """A text not seen before and its context; two tokens of each are the tokenizer's own."""
    text = text_of(case.tokens - case.context - 2, seed)
    if not case.context:
        return text, None
    return text, Context(system_prompt=text_of(case.context - 2, 0 if case.seen else 10**6 + seed))


def milliseconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - began)


def one_thread() -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return options


# --- promptguard --------------------------------------------------------------------------------


class Ours(Subject):
    """The whole call, and the model's share of it as the analysis states it."""

    name, engine, weights = OURS, "onnxruntime", "its own"

    def __init__(self, folder: Path | None, precision: str) -> None:
        self.precision = precision
        self.guard = Guard(folder)
        self.guard.analyze("loads the model")

    def takes(self, case: Case) -> bool:
        return True

    def ids(self, case: Case, seed: int) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
        """Of the context and of each window, as ``analyze`` has them."""
        text, context = inputs(case, seed)
        loaded = self.guard._loaded
        windows = [window.ids for window in loaded.cut(text, 64).windows]
        return loaded.contexts.ids(Context.of(context), text), windows

    def runs(self, case: Case) -> list[tuple[int, int]]:
        context, windows = self.ids(case, 0)
        if len(context) != case.context:
            raise RuntimeError(f"a context of {case.context} tokens was wanted, {len(context)} came out")
        first = [(len(context), 0)] if context and not case.seen else []
        return first + [(len(window), len(context)) for window in windows]

    def call(self, case: Case, seed: int) -> dict[str, float]:
        text, context = inputs(case, seed)
        began = time.perf_counter()
        analysis = self.guard.analyze(text, context)
        whole = 1000 * (time.perf_counter() - began)
        return {"model": analysis.coverage.milliseconds["model"], "whole": whole}


def without_branches(graph: Path) -> bytes:
    """The graph as a text run goes through it: OpenVINO takes no branch whose results differ in shape."""
    import onnx

    model = onnx.load(graph)
    nodes = []
    for node in model.graph.node:
        if node.op_type != "If":
            nodes.append(node)
            continue
        text = next(attribute.g for attribute in node.attribute if attribute.name == "then_branch")
        nodes += text.node
        model.graph.initializer.extend(text.initializer)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())


class OursInOpenVINO(Subject):
    """The same graphs and windows through OpenVINO; a context is read once as there."""

    name, engine, weights = OURS, "OpenVINO", "its own"

    def __init__(self, ours: Ours, graph: Path) -> None:
        import openvino

        self.precision = ours.precision
        self._ours = ours
        # 192 inputs share a scale: the fastest of 32, OpenVINO's own choice, 64, 128, 192 and 384.
        settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 192
        core = openvino.Core()
        model = core.read_model(without_branches(graph))
        results = {result.input_value(0).get_any_name(): result for result in model.get_results()}
        self._presents = sorted(name for name in results if name.startswith("present"))
        # A context run takes no heads: they are cut off, as the branch of the graph has it.
        keys = openvino.Model([results[name] for name in self._presents], model.get_parameters(), "keys")
        self._keys = core.compile_model(keys, "CPU", settings).create_infer_request()
        self._text = core.compile_model(model, "CPU", settings).create_infer_request()
        past = next(i for i in self._text.model_inputs if i.any_name == "past_key_0").partial_shape
        self._masked = any(i.any_name == "mask" for i in self._text.model_inputs)
        nothing = np.zeros((1, past[1].get_length(), 0, past[3].get_length()), np.float32)
        self._nothing = dict.fromkeys(self._presents, nothing)

    def takes(self, case: Case) -> bool:
        return True

    def runs(self, case: Case) -> list[tuple[int, int]]:
        return self._ours.runs(case)

    def _run(self, request: Any, ids: tuple[int, ...], segment: int, past: dict[str, Any]) -> Any:
        feed = {"ids": np.array([ids], np.int64), "segment": np.array([segment])}
        feed |= {name.replace("present", "past"): array for name, array in past.items()}
        if self._masked:
            feed["mask"] = np.ones((1, len(ids) + past[self._presents[0]].shape[2]), np.int64)
        return request.infer(feed)

    def keys(self, context: tuple[int, ...]) -> dict[str, Any]:
        if not context:
            return self._nothing
        result = self._run(self._keys, context, 0, self._nothing)
        return {name: result[name] for name in self._presents}

    def logits(self, past: dict[str, Any], windows: Iterable[tuple[int, ...]]) -> list[Any]:
        return [self._run(self._text, window, 1, past)["logits"][0] for window in windows]

    def call(self, case: Case, seed: int) -> dict[str, float]:
        context, windows = self._ours.ids(case, seed)
        past = self.keys(context) if case.seen else None
        return {"model": milliseconds(lambda: self.logits(past or self.keys(context), windows))}


class OursInTorch(Subject):
    """The network as it is trained, eager: context and text in one pass, nothing kept."""

    name, engine, weights = OURS, "torch", "its own"
    precision = "fp32"

    def __init__(self, ours: Ours, graph: Path) -> None:
        import torch
        from transformers import BertConfig, BertModel

        from promptguard.training.model import PairEncoder

        weights = read_weights(graph)
        embeddings, layer = "encoder.embeddings.", "encoder.encoder.layer.{}.intermediate.dense.bias"
        vocabulary, hidden = weights[embeddings + "word_embeddings.weight"].shape
        config = BertConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            num_hidden_layers=next(i for i in itertools.count() if layer.format(i) not in weights),
            num_attention_heads=hidden // 32,
            intermediate_size=len(weights[layer.format(0)]),
            max_position_embeddings=len(weights[embeddings + "position_embeddings.weight"]),
            layer_norm_eps=1e-12,
        )
        with tempfile.TemporaryDirectory() as folder:
            BertModel(config, add_pooling_layer=False).save_pretrained(folder)
            self._model = PairEncoder(folder).eval()
        self._model.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
        self._torch = torch
        self._ours = ours

    def takes(self, case: Case) -> bool:
        return not case.seen

    def runs(self, case: Case) -> list[tuple[int, int]]:
        return [(case.context + tokens, 0) for tokens, _ in self._ours.runs(case)[bool(case.context) :]]

    def logits(self, context: tuple[int, ...], windows: Iterable[tuple[int, ...]]) -> list[Any]:
        tensor, found = self._torch.tensor, []
        with self._torch.inference_mode():
            for window in windows:
                segments = [0] * len(context) + [1] * len(window)
                positions = [*range(len(context)), *range(len(window))]
                heads = self._model(tensor([[*context, *window]]), tensor([segments]), tensor([positions]))
                found.append(heads.logits[0].numpy())
        return found

    def call(self, case: Case, seed: int) -> dict[str, float]:
        ids = self._ours.ids(case, seed)
        return {"model": milliseconds(lambda: self.logits(*ids))}


def check_ours(ours: Ours, openvino: OursInOpenVINO | None, torch: OursInTorch | None) -> dict[str, float]:
    """The largest difference in a logit from onnxruntime's, with a context and without; in fp32 it must be none."""
    differences: dict[str, float] = {}
    for case, seed in itertools.product((Case(64), Case(248, CONTEXT_TOKENS)), range(3)):
        context, windows = ours.ids(case, seed)
        wanted = np.stack([ours.guard._loaded.runtime.run(context, window).logits for window in windows])
        found = {}
        if openvino is not None:
            found["OpenVINO"] = openvino.logits(openvino.keys(context), windows)
        if torch is not None:
            found["torch"] = torch.logits(context, windows)
        for engine, logits in found.items():
            gap = float(np.abs(np.stack(logits) - wanted).max())
            differences[engine] = max(gap, differences.get(engine, 0.0))
            if ours.precision == "fp32" and gap > 1e-3:
                raise RuntimeError(f"{engine} and onnxruntime do not run the same network: logits differ by {gap}")
    return differences


# --- peers --------------------------------------------------------------------------------------


def export(config: dict[str, Any], folder: Path) -> None:
    """Write ``fp32.onnx`` and ``int8.onnx`` of a sequence classifier with random weights, checked against torch.

    Raises:
        RuntimeError: the graph does not compute what the network does, padding included.
    """
    graphs = {precision: folder / f"{precision}.onnx" for precision in ("fp32", "int8")}
    folder.mkdir(parents=True, exist_ok=True)
    import torch
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    class Logits(torch.nn.Module):
        """Two inputs, one output."""

        def __init__(self) -> None:
            super().__init__()
            self.network = DebertaV2ForSequenceClassification(DebertaV2Config(**config)).eval()

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.network(input_ids=input_ids, attention_mask=attention_mask).logits

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = Logits()

    def example(tokens: int) -> tuple[Any, Any]:
        mask = torch.ones((1, tokens), dtype=torch.int64)
        mask[0, tokens - 5 :] = 0
        return torch.randint(5, config["vocab_size"], (1, tokens)), mask

    length = torch.export.Dim("length", min=2, max=config["max_position_embeddings"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            example(48),
            dynamo=True,
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_shapes={"input_ids": {1: length}, "attention_mask": {1: length}},
            verbose=False,
        )
    program.save(graphs["fp32"], external_data=False)
    session = onnxruntime.InferenceSession(graphs["fp32"], one_thread())
    for tokens in (64, 512):
        ids, mask = example(tokens)
        with torch.inference_mode():
            wanted = network(ids, mask).numpy()
        found = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
        if np.abs(found - wanted).max() > 1e-4:
            raise RuntimeError(f"the exported graph differs from the network at {tokens} tokens")
    quantize(graphs["fp32"], graphs["int8"])
    (folder / "config.json").write_text(json.dumps(config))  # last: what it stands for is complete


def quantize(source: Path, target: Path) -> None:
    """Dynamic 8-bit weights: a scale a column; products with one matrix a head, which can't have that, one scale."""
    import onnx
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, begun = target.with_suffix(".prepared.onnx"), target.with_suffix(".begun.onnx")
    quant_pre_process(source, prepared)
    graph = onnx.load(prepared).graph
    dimensions = {constant.name: len(constant.dims) for constant in graph.initializer}
    stacked = [n.name for n in graph.node if n.op_type == "MatMul" and dimensions.get(n.input[1]) == 3]
    quantize_dynamic(prepared, begun, nodes_to_quantize=stacked)
    quantize_dynamic(begun, target, per_channel=True, nodes_to_exclude=stacked)
    prepared.unlink()
    begun.unlink()


class Peer(Subject):
    """The model's call alone, on as many token ids as the case has; it takes no context."""

    engine, weights = "onnxruntime", "random"

    def __init__(self, name: str, precision: str, graph: Path, vocabulary: int) -> None:
        self.name, self.precision, self._vocabulary = name, precision, vocabulary
        self._session = onnxruntime.InferenceSession(graph, one_thread())

    def call(self, case: Case, seed: int) -> dict[str, float]:
        ids = np.random.default_rng(seed).integers(5, self._vocabulary, (1, case.tokens))
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        return {"model": milliseconds(lambda: self._session.run(None, feed))}


class StackOne(Subject):
    """The whole call of ``stackone-defender``, as its documentation says, on the text alone."""

    name, engine, precision, weights = StackOneDefender.distribution, "onnxruntime", "int8", "its own"

    def __init__(self) -> None:
        self._defender = StackOneDefender()

    def runs(self, case: Case) -> list[tuple[int, int]]:
        """As it feeds them to onnxruntime, padding included."""
        found = []
        original = onnxruntime.InferenceSession.run

        def recorded(session: Any, names: Any, feed: Any, *rest: Any) -> Any:
            rows, tokens = feed["input_ids"].shape
            found.extend([(tokens, 0)] * rows)
            return original(session, names, feed, *rest)

        onnxruntime.InferenceSession.run = recorded
        try:
            self.call(case, 0)
        finally:
            onnxruntime.InferenceSession.run = original
        if not found:
            raise RuntimeError(f"{self.name} did not run its model on a text of {case.tokens} tokens")
        return found

    def call(self, case: Case, seed: int) -> dict[str, float]:
        pair = (inputs(case, seed)[0], Context())
        return {"whole": milliseconds(lambda: list(self._defender.analyze_many([pair])))}


# --- the run ------------------------------------------------------------------------------------


def turn(subject: Subject, case: Case, seeds: Iterator[int]) -> dict[str, list[float]]:
    """Calls until ``TURN_MS`` have gone; the first left out if there are others."""
    if case.seen:  # since its last turn the context may have given way to others
        subject.call(case, next(seeds))
    began, found = time.perf_counter(), []
    while not found or (len(found) < MOST_CALLS and 1000 * (time.perf_counter() - began) < TURN_MS):
        found.append(subject.call(case, next(seeds)))
    kept = found[1:] or found
    return {part: [times[part] for times in kept] for part in kept[0]}


def measure(subjects: Sequence[Subject], cases: Sequence[Case], rounds: int) -> dict[tuple[int, Case], list[Any]]:
    """Turns by place of the subject and case. The first round warms up and is left out."""
    seeds, order = itertools.count(100), np.random.default_rng(0)
    turns: dict[tuple[int, Case], list[Any]] = {}
    for tokens in sorted({case.tokens for case in cases}):
        asked = [
            (place, case)
            for place, subject in enumerate(subjects)
            for case in cases
            if case.tokens == tokens and subject.takes(case)
        ]
        began = time.perf_counter()
        for done in range(rounds + 1):
            for i in order.permutation(len(asked)):
                place, case = asked[i]
                found = turn(subjects[place], case, seeds)
                if done:
                    turns.setdefault((place, case), []).append(found)
        print(f"{tokens} tokens: {time.perf_counter() - began:.0f} s", flush=True)
    return turns


def ratio(peer: Sequence[Sequence[float]], ours: Sequence[Sequence[float]], replicates: int = 2000) -> dict[str, float]:
    """Median of the peer's calls over the median of ours; 95 % interval from drawing rounds, the same for both."""
    generator = np.random.default_rng(0)
    a, b = [np.asarray(times) for times in peer], [np.asarray(times) for times in ours]
    drawn = generator.integers(0, len(a), (replicates, len(a)))
    found = [
        np.median(np.concatenate([a[i] for i in rounds])) / np.median(np.concatenate([b[i] for i in rounds]))
        for rounds in drawn
    ]
    low, high = np.quantile(found, (0.025, 0.975))
    value = np.median(np.concatenate(a)) / np.median(np.concatenate(b))
    return {"value": float(value), "low": float(low), "high": float(high)}


def operations(runs: Iterable[tuple[int, int]], layers: int, hidden: int, *, relative_positions: int = 0) -> float:
    """Multiplications and additions of linear layers and attention, with relative positions as DeBERTa has them.

    A run over a context counts whole, although nothing needs the end of its last layer.
    """
    total = 0.0
    for tokens, past in runs:
        attention = 4 * hidden * (tokens + past) + 4 * hidden * relative_positions
        total += tokens * layers * (24 * hidden**2 + attention)
    return total


def rows_of(
    subjects: Sequence[Subject], turns: dict[tuple[int, Case], list[Any]], work: Callable[[Subject, Case], float]
) -> list[dict[str, Any]]:
    """One row a subject, case and what was timed; ``times`` holds the calls of each round."""
    rows = []
    for (place, case), found in sorted(turns.items(), key=lambda item: (item[0][0], *astuple(item[0][1]))):
        subject = subjects[place]
        for part in found[0]:
            times = [[round(ms, 3) for ms in one[part]] for one in found]
            calls = np.concatenate(times)
            rows.append(
                {
                    "name": subject.name,
                    "engine": subject.engine,
                    "precision": subject.precision,
                    "weights": subject.weights,
                    "timed": part,
                    "tokens": case.tokens,
                    "context_tokens": case.context,
                    "context": "none" if not case.context else "seen" if case.seen else "new",
                    "tokens_run": sum(tokens for tokens, _ in subject.runs(case)),
                    "gop": work(subject, case) / 1e9,
                    "median_ms": float(np.median(calls)),
                    "p10_ms": float(np.quantile(calls, 0.1)),
                    "p90_ms": float(np.quantile(calls, 0.9)),
                    "calls": len(calls),
                    "times": times,
                }
            )
    return rows


def compared(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every peer over promptguard through onnxruntime at the same precision and number of tokens, same thing timed."""
    ours = [row for row in rows if row["name"] == OURS and row["engine"] == "onnxruntime"]
    found = []
    for peer in rows:
        if peer["name"] == OURS:
            continue
        for own in ours:
            if all(peer[key] == own[key] for key in ("precision", "timed", "tokens")):
                target = TARGETS.get((peer["name"], peer["precision"]))
                counts = own["context"] == "none" and own["tokens"] in TARGET_TOKENS and target is not None
                found.append(
                    {key: peer[key] for key in ("name", "precision", "timed", "tokens")}
                    | {"context": own["context"], **ratio(peer["times"], own["times"])}
                    | {"target": target if counts else None}
                )
    return found


def subjects_of(options: argparse.Namespace, folder: Path) -> tuple[list[Subject], dict[str, Any]]:
    """Everybody who was not left out, and how far other engines are from onnxruntime with promptguard's network."""
    found: list[Subject] = []
    differences = {}
    source = bundle.load(options.model)
    derived = folder / "fp32"
    derive(source, derived, "fp32")
    for precision, place in (("int8", options.model), ("fp32", derived)):
        ours = Ours(place, precision)
        graph = source.path(bundle.GRAPH) if precision == "int8" else derived / bundle.GRAPH
        openvino = None if "openvino" in options.skip else OursInOpenVINO(ours, graph)
        torch = None if "torch" in options.skip or precision == "int8" else OursInTorch(ours, graph)
        differences[precision] = check_ours(ours, openvino, torch)
        found += [subject for subject in (ours, openvino, torch) if subject is not None]
    peers = PEERS
    if options.quick:
        peers = {name: PEERS[name] | {"num_hidden_layers": 1, "vocab_size": 1000} for name in list(PEERS)[:1]}
    for name, config in peers.items():
        place = folder / name.split(" (")[0].replace(" ", "-")
        stated = place / "config.json"
        if not stated.exists() or json.loads(stated.read_text()) != config:
            began = time.perf_counter()
            # In a process of its own: exporting takes gigabytes, which it would keep.
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                pool.submit(export, config, place).result()
            print(f"{name}: {time.perf_counter() - began:.0f} s to export", flush=True)
        found += [Peer(name, kind, place / f"{kind}.onnx", config["vocab_size"]) for kind in ("int8", "fp32")]
    if "stackone-defender" not in options.skip:
        found.append(StackOne())
    return found, differences


def work_of(subject: Subject, case: Case) -> float:
    """Operations of a subject's network in a case."""
    if subject.name in PEERS:
        config = PEERS[subject.name]
        positions = 2 * config["position_buckets"]
        hidden, layers = config["hidden_size"], config["num_hidden_layers"]
        return operations(subject.runs(case), layers, hidden, relative_positions=positions)
    return operations(subject.runs(case), layers=6, hidden=384)


def missing(skip: Sequence[str]) -> str | None:
    """What has to be installed or left out before the run."""
    needed = {"torch": None, "transformers": None, "onnxscript": None, "openvino": "openvino"}
    needed |= {StackOneDefender.module: StackOneDefender.distribution}
    for module, option in needed.items():
        if option not in skip and importlib.util.find_spec(module) is None:
            return f"{option or module} is not installed" + (f"; or --skip {option}" if option else "")
    return None


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Milliseconds by tokens, int8 through onnxruntime: one line a subject."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "promptguard"  # the same file from the same figures
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    chosen: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["engine"] == "onnxruntime" and row["precision"] == "int8" and row["context"] == "none":
            label = row["name"] + (": whole call" if row["timed"] == "whole" else ": model")
            chosen.setdefault(label, []).append(row)
    for label, line in chosen.items():
        line.sort(key=lambda row: row["tokens"])
        ms = np.array([[row["median_ms"], row["p10_ms"], row["p90_ms"]] for row in line]).T
        style = {"linewidth": 2.2} if label.startswith(OURS) else {"linewidth": 1.2, "linestyle": "--"}
        tokens = [row["tokens"] for row in line]
        axes.plot(tokens, ms[0], marker="o", markersize=4, label=label, **style)
        axes.fill_between(tokens, ms[1], ms[2], alpha=0.15)
    axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel="milliseconds, one thread, 8 bits")
    ticks = sorted({row["tokens"] for row in rows})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    marks = [ms for ms in (2, 5, 10, 20, 50, 100, 200, 500, 1000) if axes.get_ylim()[0] < ms < axes.get_ylim()[1]]
    axes.set_yticks(marks, [str(mark) for mark in marks])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=Path, help="promptguard's bundle; the embedded one if left out")
    add("--out", type=Path)
    add("--plot", type=Path, help="an SVG of the 8-bit rows")
    add("--graphs", type=Path, help="where exported graphs are kept for the next run; gigabytes")
    add("--rounds", type=int, default=ROUNDS)
    add("--skip", nargs="*", default=[], choices=["openvino", "torch", "stackone-defender"])
    add(
        "--quick",
        action="store_true",
        help="one peer of one layer, 64 tokens, 2 rounds: to see that it works, no result",
    )
    options = parser.parse_args()
    problem = missing(options.skip)
    if problem:
        sys.exit(f"architectures: {problem}")
    import torch

    torch.set_num_threads(1)
    threadpool_limits(1)  # of numpy's products, which spin on other cores
    began, load = time.perf_counter(), os.getloadavg()[0]
    circumstances = provenance(sys.argv)
    for name in ("torch", "transformers", "openvino", "stackone-defender"):
        try:
            circumstances["versions"][name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    cases = [case for case in CASES if case.tokens == 64] if options.quick else CASES
    best = ceiling()
    with tempfile.TemporaryDirectory() as scratch:
        subjects, differences = subjects_of(options, options.graphs or Path(scratch))
        clock, processor = time.perf_counter(), time.process_time()
        turns = measure(subjects, cases, 2 if options.quick else options.rounds)
        share = (time.process_time() - processor) / (time.perf_counter() - clock)
        rows = rows_of(subjects, turns, work_of)
    best = max(best, ceiling())
    for row in rows:
        at_ceiling_ms = 1000 * row["gop"] * 1e9 / best
        row["times_ceiling"] = row["median_ms"] / at_ceiling_ms if row["precision"] == "int8" else None
    comparisons = compared(rows)
    for row in rows:
        what = f"{row['name']}, {row['engine']} {row['precision']}, {row['timed']}"
        what += f", {row['tokens']} tokens, context {row['context']}"
        print(f"{what}: {row['median_ms']:.1f} ms ({row['p10_ms']:.1f}–{row['p90_ms']:.1f})")
    for row in comparisons:
        if row["target"]:
            met = "met" if row["value"] >= row["target"] else "missed"
            print(
                f"{row['name']} {row['precision']} {row['tokens']}: {row['value']:.2f} times ours "
                f"({row['low']:.2f}–{row['high']:.2f}), target {row['target']:g} {met}"
            )
    result = circumstances | {
        "model": Guard(options.model).model,
        "load_before": load,
        "processor_share": share,  # of one core while it was measured: 1 where nobody else wanted it
        "seconds": time.perf_counter() - began,
        "quick": options.quick,
        "settings": {"rounds": options.rounds, "turn_ms": TURN_MS, "threads": 1},
        "ceiling_gops": best / 1e9,
        "logits_differ_from_onnxruntime": differences,
        "configurations": PEERS,
        "comparisons": comparisons,
        "rows": rows,
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()

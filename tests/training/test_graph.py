from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_bundle
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.testing import assert_allclose, assert_array_equal

from promptguard import Guard, InputError, bundle
from promptguard.runtime import Floats, Output, Runtime
from promptguard.training.export import derive, parity, read_smoothing, read_weights, write_bundle
from promptguard.training.graph import build, quantize

CONTEXTS: list[tuple[int, ...]] = [(), (9, 2017, 2024, 102), (1, *range(4000, 4050), 102), (), (3, 102)]
WINDOWS: list[tuple[int, ...]] = [
    (101, *range(3000, 3020), 102), (101, 102), (101, *range(2500, 2550), 102), (101, 2003, 102),
    (101, *range(9000, 9033), 102),
]  # fmt: skip


def opened(folder: Path) -> Runtime:
    return Runtime(folder / bundle.GRAPH, threads=1, providers=["CPUExecutionProvider"])


def written(folder: Path, precision: Any) -> Runtime:
    folder.mkdir()
    (folder / bundle.GRAPH).write_bytes(build(tiny_bundle.weights(), precision).SerializeToString())
    return opened(folder)


def close(one: Output, two: Output, atol: float) -> None:
    assert_allclose(one.logits, two.logits, atol=atol)
    assert_allclose(one.span_logits, two.span_logits, atol=atol)
    assert_allclose(one.embedding, two.embedding, atol=atol)


@pytest.fixture(scope="module")
def fp32(tiny_fp32: Path) -> Runtime:
    return opened(tiny_fp32)


# Precisions and batches


def test_a_padded_batch_gives_what_single_runs_give(fp32: Runtime) -> None:
    batch = fp32.run_batch(CONTEXTS, WINDOWS)
    for context, window, output in zip(CONTEXTS, WINDOWS, batch, strict=True):
        alone = fp32.run(context, window)
        assert output.span_logits.shape == (len(window) - 2,)
        close(output, alone, 1e-5)


def test_a_neighbour_changes_nothing_but_rounding(fp32: Runtime) -> None:
    hostile = (101, *[2049] * 60, 102)
    for context in CONTEXTS:
        output = fp32.run_batch([context, CONTEXTS[2]], [WINDOWS[0], hostile])[0]
        close(output, fp32.run(context, WINDOWS[0]), 1e-5)


def test_half_precision_agrees_through_casts(fp32: Runtime, tmp_path: Path) -> None:
    half = written(tmp_path / "fp16", "fp16")
    assert half._nothing[0].dtype == np.float16
    for output, expected in zip(half.run_batch(CONTEXTS, WINDOWS), fp32.run_batch(CONTEXTS, WINDOWS), strict=True):
        assert output.logits.dtype == output.embedding.dtype == np.float32
        close(output, expected, 0.05)


def test_eight_bits_agree_but_for_rounding(fp32: Runtime, tiny: Path) -> None:
    eight = opened(tiny)
    assert not eight.takes_batches
    for context, window in zip(CONTEXTS, WINDOWS, strict=True):
        output, expected = eight.run(context, window), fp32.run(context, window)
        assert np.abs(output.logits - expected.logits).mean() < 0.1
        assert float(output.embedding @ expected.embedding) > 0.99


def test_the_graph_has_only_live_inputs_and_fused_attention() -> None:
    for precision in ("int8", "fp32", "fp16"):
        graph = build(tiny_bundle.weights(), precision).graph
        branches = [a.g for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
        nodes = [node for part in (graph, *branches) for node in part.node]
        used = {name for node in nodes for name in node.input}
        assert {i.name for i in graph.input} <= used
        assert {c.name for part in (graph, *branches) for c in part.initializer} <= used
        assert sum(node.op_type == "MultiHeadAttention" for node in nodes) == 2
        for part in (graph, *branches):  # where onnxruntime can make 8-bit weights safe for older processors
            own = {c.name for c in part.initializer}
            assert all(node.input[1] in own for node in part.node if node.op_type == "DynamicQuantizeMatMul")
        assert ("mask" in {i.name for i in graph.input}) == (precision != "int8")


def test_equal_weights_make_equal_bytes() -> None:
    one, two = (build(tiny_bundle.weights(), "int8").SerializeToString(deterministic=True) for _ in range(2))
    assert one == two


# The context comes first and sees nothing else


def test_keys_of_a_context_do_not_depend_on_the_text(fp32: Runtime) -> None:
    fp32.run(CONTEXTS[2], WINDOWS[0])
    before = [key.copy() for key in fp32._contexts[CONTEXTS[2]]]
    fp32.run(CONTEXTS[2], WINDOWS[4])
    for kept, again in zip(before, fp32._contexts[CONTEXTS[2]], strict=True):
        assert_array_equal(kept, again)
        assert kept.shape == (1, 2, len(CONTEXTS[2]), 32)


def test_a_context_run_ends_with_its_keys(fp32: Runtime, tiny: Path) -> None:
    for runtime in (fp32, opened(tiny)):
        feed = runtime._feed(np.array([CONTEXTS[1]]), 0, runtime._nothing)
        if runtime.takes_batches:
            feed["mask"] = np.ones((1, len(CONTEXTS[1])), np.int64)
        logits, key = runtime._session.run(["logits", "present_key_1"], feed)
        assert logits.shape == (0, 11)
        assert key.shape == (1, 2, len(CONTEXTS[1]), 32)


def test_every_token_of_a_context_is_seen(fp32: Runtime) -> None:
    plain = fp32.run(CONTEXTS[1], WINDOWS[0]).logits
    for at in range(len(CONTEXTS[1])):
        changed = list(CONTEXTS[1])
        changed[at] = 7777
        assert not np.allclose(fp32.run(tuple(changed), WINDOWS[0]).logits, plain, atol=1e-4)


# Quantising, writing and reading back


@settings(deadline=None)
@given(arrays.arrays(np.float32, (5, 7), elements=st.floats(-100, 100, width=32)), st.sampled_from([0, 1]))
def test_eight_bit_weights_are_within_half_a_step(weight: Floats, axis: int) -> None:
    quantized, scale = quantize(weight, axis=axis)
    assert quantized.dtype == np.int8
    assert abs(quantized.astype(int)).max() <= 127
    steps = np.expand_dims(scale, axis)
    assert (np.abs(quantized * steps - weight) <= steps / 2 * 1.001 + 1e-6).all()


def test_weights_survive_full_precision_exactly(tmp_path: Path) -> None:
    weights = tiny_bundle.weights()
    (tmp_path / "g.onnx").write_bytes(build(weights, "fp32").SerializeToString())
    again = read_weights(tmp_path / "g.onnx")
    assert set(again) == set(weights)
    for name, array in weights.items():
        assert again[name].dtype == np.float32
        assert_array_equal(again[name], array)


def test_weights_survive_eight_bits_within_half_a_step(tmp_path: Path) -> None:
    weights = tiny_bundle.weights()
    (tmp_path / "g.onnx").write_bytes(build(weights, "int8").SerializeToString())
    again = read_weights(tmp_path / "g.onnx")
    assert set(again) == set(weights)
    for name, array in weights.items():
        in_eight_bits = name.endswith("dense.weight") or "attention.self" in name or "word_emb" in name
        if in_eight_bits and name.endswith("weight"):
            steps = np.abs(array).max(axis=1, keepdims=True) / 127  # a row of torch's is a column of the graph's
            assert (np.abs(again[name] - array) <= steps / 2 * 1.001).all()
        else:
            assert_array_equal(again[name], array)
    # What has been rounded once stays.
    (tmp_path / "h.onnx").write_bytes(build(again, "int8").SerializeToString())
    for name, array in read_weights(tmp_path / "h.onnx").items():
        assert_allclose(array, again[name], rtol=1e-6)


def test_another_graph_is_refused(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "other", [x], [y])), tmp_path / "other.onnx")
    with pytest.raises(InputError, match=r"other\.onnx is not a graph of this library"):
        read_weights(tmp_path / "other.onnx")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_another_precision_keeps_everything_else(tiny: Path, tmp_path: Path, precision: Any) -> None:
    settings_ = {"prior": 0.2, "thresholds": tiny_bundle.thresholds(0.3, 0.4, block=0.7)}
    source = bundle.load(tiny_bundle.copy(tiny, tmp_path / "source", **settings_))
    derive(source, tmp_path / "derived", precision)
    derived = bundle.load(tmp_path / "derived")
    assert derived.thresholds == source.thresholds
    assert derived.fusion == source.fusion
    assert derived.prior == 0.2
    assert derived.manifest["derived_from"] == source.id
    assert derived.manifest["precision"] == precision
    for name in (bundle.TOKENIZER, bundle.EXAMPLES, bundle.VECTORS):
        assert derived.manifest["files"][name] == source.manifest["files"][name]
    one, two = (Guard(b.folder).analyze("hello", "a shop") for b in (source, derived))
    assert one.risk == pytest.approx(two.risk, abs=0.05)
    compared = parity(source.folder, derived.folder, [("hello", "a shop"), ("Where is my order?", None)])
    assert compared["texts"] == 2
    assert compared["largest_difference_in_risk"] < 0.05


# Torch


def small_network(base: Path, *, spread: float) -> Any:
    """A network of two layers with random weights, its encoder kept in ``base``."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from promptguard.training.model import PairEncoder

    torch.manual_seed(3)
    config = transformers.BertConfig(
        vocab_size=3000, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        max_position_embeddings=96, initializer_range=spread,
    )  # fmt: skip
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(base)
    return PairEncoder(str(base)).eval()


@pytest.mark.train
def test_two_runs_are_one_pass_of_the_network(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from promptguard.training.model import PairEncoder

    network = small_network(tmp_path / "base", spread=0.3)
    for head in (network.cls, network.query, network.value, network.span, network.project):
        torch.nn.init.normal_(head.weight, std=0.3)
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items() if "position_ids" not in name}
    write_bundle(tmp_path / "made", weights, tiny_bundle.TOKENIZER, "fp32", tiny_bundle.SETTINGS)
    runtime = opened(tmp_path / "made")

    long_context = (9, *range(1500, 1530), 102)
    contexts: list[tuple[int, ...]] = [(), long_context, (2, 8, 1200, 102), long_context]
    texts: list[tuple[int, ...]] = [
        (101, *range(2000, 2040), 102), (101, *range(2000, 2040), 102), (101, 1999, 102), (101, 1010, 1011, 102),
    ]  # fmt: skip
    longest = max(len(c) + len(t) for c, t in zip(contexts, texts, strict=True))
    ids, segments, positions = (torch.zeros((len(texts), longest), dtype=torch.long) for _ in range(3))
    segments[:] = 2
    for row, (context, text) in enumerate(zip(contexts, texts, strict=True)):
        start, end = len(context), len(context) + len(text)
        ids[row, :end] = torch.tensor([*context, *text])
        segments[row, :start], segments[row, start:end] = 0, 1
        positions[row, :end] = torch.tensor([*range(start), *range(len(text))])

    states: list[Any] = []
    network.encoder.register_forward_hook(lambda module, given, output: states.append(output.last_hidden_state))
    with torch.no_grad():
        heads = network(ids, segments, positions)
    together = runtime.run_batch(contexts, texts)
    for row, (context, text) in enumerate(zip(contexts, texts, strict=True)):
        start = len(context)
        for output in (runtime.run(context, text), together[row]):
            assert_allclose(output.logits, heads.logits[row].numpy(), atol=1e-4)
            assert_allclose(output.embedding, heads.embedding[row].numpy(), atol=1e-4)
            inner = heads.span_logits[row, start + 1 : start + len(text) - 1].numpy()
            assert_allclose(output.span_logits, inner, atol=1e-4)

    # Rows 1 and 3: the same context before two texts. What is known of it must be the same, to the last layer.
    context_states = [states[0][row, : len(contexts[1])] for row in (1, 3)]
    assert torch.allclose(*context_states, atol=1e-5)
    two_way = PairEncoder(str(tmp_path / "base"), one_way=False).eval()
    two_way.load_state_dict(network.state_dict())
    two_way.encoder.register_forward_hook(lambda module, given, output: states.append(output.last_hidden_state))
    with torch.no_grad():
        two_way(ids, segments, positions)
    assert not torch.allclose(*[states[1][row, : len(contexts[1])] for row in (1, 3)], atol=1e-2)


@pytest.mark.train
def test_smoothing_changes_nothing_but_the_rounding(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from promptguard.training.batches import Collator, Store
    from promptguard.training.examples import Example, Row
    from promptguard.training.model import OUTPUTS
    from promptguard.training.smoothing import factors, largest_inputs, smooth

    network = small_network(tmp_path / "base", spread=0.1)
    with torch.no_grad():  # one channel that dwarfs the others, as trained encoders have
        for name, parameter in network.named_parameters():
            if name.endswith("LayerNorm.weight"):
                parameter[7] *= 40
    generator = np.random.default_rng(4)
    texts = [(101, *(int(t) for t in generator.integers(1000, 2999, 30)), 102) for _ in range(20)]
    context = (9, 1500, 1501, 102)
    rows = [Example((Row((context,), text, (0,) * 32),), (0.0,) * len(OUTPUTS), None) for text in texts]
    collate = Collator(Store.of({"any": [[row] for row in rows]}))
    largest = largest_inputs(network, [collate(np.arange(10)), collate(np.arange(10, 20))])
    assert largest["0.qkv"].argmax() == largest["1.up"].argmax() == 7

    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items() if "position_ids" not in name}
    smoothed, divisors = smooth(weights, factors(weights, largest))
    assert set(divisors) == {"0.qkv", "0.up", "0.down", "1.qkv", "1.up", "1.down"}
    graphs = {
        "exact": build(weights, "fp32"),
        "same": build(smoothed, "fp32", divisors),
        "plain": build(weights, "int8"),
        "smooth": build(smoothed, "int8", divisors),
    }
    logits = {}
    for name, graph in graphs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / bundle.GRAPH).write_bytes(graph.SerializeToString(deterministic=True))
        runtime = opened(tmp_path / name)
        logits[name] = np.stack([runtime.run(context, text).logits for text in texts])
    assert_allclose(logits["same"], logits["exact"], atol=1e-4)
    error = {name: np.abs(logits[name] - logits["exact"]).mean() for name in ("plain", "smooth")}
    assert error["smooth"] < 0.75 * error["plain"]

    path = tmp_path / "smooth" / bundle.GRAPH
    again, again_divisors = read_weights(path), read_smoothing(path)
    assert set(again) == set(weights)
    assert_allclose(again_divisors["1.down"], divisors["1.down"], rtol=1e-6)
    (tmp_path / "twice.onnx").write_bytes(build(again, "int8", again_divisors).SerializeToString())
    for name, array in read_weights(tmp_path / "twice.onnx").items():
        assert_allclose(array, again[name], rtol=1e-5, atol=1e-7)


def test_the_embedded_graph_can_be_read_back() -> None:
    path = bundle.EMBEDDED / bundle.GRAPH
    if not path.exists():
        pytest.skip("no embedded bundle in this checkout")
    weights = read_weights(path)
    manifest = json.loads((bundle.EMBEDDED / bundle.MANIFEST).read_text(encoding="utf-8"))
    assert len(weights["encoder.embeddings.position_embeddings.weight"]) >= manifest["window_tokens"]
    assert all(np.isfinite(array).all() for array in weights.values())

"""The loop: it learns, and an interrupted run ends where an undisturbed one does."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
transformers = pytest.importorskip("transformers", reason="needs the train extra")

from promptguard import bundle
from promptguard.runtime import Runtime
from promptguard.training import train as module
from promptguard.training.batches import Store
from promptguard.training.examples import Example, Row
from promptguard.training.export import read_weights, write_bundle
from promptguard.training.model import PairEncoder, run_in_eight_bits
from promptguard.training.train import Settings, predict, train
from tests import tiny_bundle

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=200,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
    )
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return str(folder)


def store(seed: int) -> Store:
    """Token 150 in the context makes token 160 in the text an attack."""
    generator = random.Random(seed)
    made = []
    for _ in range(300):
        risky = generator.random() < 0.5
        context = (9, 150 if risky else 151, 102)
        text = (101, *(generator.randrange(110, 140) for _ in range(6)), 160, 102)
        labels = (*([0.0] * 6), float(risky), *([0.0] * 3), float(risky))
        made.append([Example((Row((context,), text, (-1,) * len(text)),), labels, None)])
    return Store.of({"contextual": made})


def settings(base: str, steps: int) -> Settings:
    return Settings(base=base, steps=steps, learning_rate=3e-3, head_learning_rate=1e-2, tokens=256, average=0.9)


def test_the_context_is_learnt(base: str, tmp_path: Path) -> None:
    train(store(1), settings(base, 400), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["risk"] < 0.5 * lines[0]["risk"]
    assert not (tmp_path / "checkpoint.pt").exists()


def test_resuming_changes_nothing(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(store(1), settings(base, 30), tmp_path / "whole")
    saves = 0
    save = module._save

    def interrupt(*arguments: object) -> None:
        nonlocal saves
        save(*arguments)
        saves += 1
        if saves == 12:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "_save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(store(1), settings(base, 30), tmp_path / "cut", checkpoint_minutes=0)
    monkeypatch.setattr(module, "_save", save)
    resumed = train(store(1), settings(base, 30), tmp_path / "cut")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_text_cannot_reach_the_context(base: str) -> None:
    model = PairEncoder(base).eval()
    context = [9, 150, 151, 102]
    segments = torch.tensor([[0] * 4 + [1] * 4])
    positions = torch.tensor([[*range(4), *range(4)]])
    states = []
    hook = model.encoder.register_forward_hook(lambda _, __, out: states.append(out.last_hidden_state))
    for text in ([101, 120, 121, 102], [101, 130, 131, 102]):
        model(torch.tensor([context + text]), segments, positions)
    hook.remove()
    assert torch.equal(states[0][:, :4], states[1][:, :4])
    assert not torch.equal(states[0][:, 4:], states[1][:, 4:])


def test_a_teacher_alone_teaches(base: str, tmp_path: Path) -> None:
    taught, labelled = store(1), store(1)
    logits = np.repeat(np.where(labelled.labels[:, None] > 0, 4.0, -4.0), 1, axis=1)
    taught.teacher = logits.astype(np.float16)
    taught.labels = np.full_like(taught.labels, -1)
    model = train(taught, settings(base, 400), tmp_path)
    risky = labelled.labels[:, -1] == 1
    risk = predict(model, taught)[:, -1].numpy()
    assert np.mean((risk > 0) == risky) > 0.9


def test_a_verdict_learns_not_to_move_with_the_wording(base: str, tmp_path: Path) -> None:
    """Where another wording goes with the label, only the weight on consistency keeps it from being learnt."""
    generator, made = random.Random(5), []
    for _ in range(300):
        risky = generator.random() < 0.5
        plain, other = (9, 151, 102), (9, 150 if risky else 152, 151, 102)
        text = (101, *(generator.randrange(110, 140) for _ in range(6)), 102)
        labels = (*([0.0] * 6), float(risky), *([0.0] * 3), float(risky))
        made.append([Example((Row((plain, other), text, (-1,) * len(text)),), labels, None)])
    moved = {}
    for weight in (0.0, 3.0):
        two = Store.of({"contextual": made}, wordings=2)
        run = settings(base, 300)
        run.consistency_weight = weight
        model = train(two, run, tmp_path / str(weight))
        first, second = (predict(model, two, wording=i)[:, -1].sigmoid() for i in (0, 1))
        moved[weight] = float((first - second).abs().mean())
    assert moved[0.0] > 0.3
    assert moved[3.0] < 0.5 * moved[0.0]


def test_predictions_stand_in_the_order_of_the_rows(base: str) -> None:
    made = store(2)
    model = PairEncoder(base).eval()
    torch.nn.init.normal_(model.cls.weight)
    whole, small = predict(model, made), predict(model, made, tokens=32)
    assert whole.std() > 0
    assert torch.allclose(whole, small, atol=0.1)  # 16-bit products


def test_eight_bits_round_as_the_graph_does(base: str, tmp_path: Path) -> None:
    model = PairEncoder(base).eval()
    for head in (model.cls, model.query, model.value):
        torch.nn.init.normal_(head.weight, std=0.3)
    context, text = (9, *range(150, 170), 102), (101, *range(110, 140), 102)
    ids = torch.tensor([[*context, *text]])
    segments = torch.tensor([[0] * len(context) + [1] * len(text)])
    positions = torch.tensor([[*range(len(context)), *range(len(text))]])
    weights = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    # Products behind attention are left out: smoothing them moves weights, which the network here has not.
    divisors = {
        f"{i}.{name}": np.exp(np.random.default_rng(i).normal(size=size)).astype(np.float32)
        for i in range(2)
        for name, size in (("qkv", 32), ("up", 32), ("down", 64))
    }
    write_bundle(tmp_path / "eight", weights, tiny_bundle.TOKENIZER, "int8", tiny_bundle.SETTINGS, divisors)
    # The graph's words are rounded too; what is left to compare are the products.
    read = {name: torch.from_numpy(array) for name, array in read_weights(tmp_path / "eight" / bundle.GRAPH).items()}
    model.load_state_dict(read, strict=False)
    runtime = Runtime(tmp_path / "eight" / bundle.GRAPH, threads=1, providers=("CPUExecutionProvider",))
    factors = {name: torch.from_numpy(factor) for name, factor in divisors.items()}
    rounded = run_in_eight_bits(model, ids, segments, positions, factors).logits[0].detach().numpy()
    exact = model(ids, segments, positions).logits[0].detach().numpy()
    graph = runtime.run(context, text).logits
    assert np.abs(rounded - graph).max() < 0.2 * np.abs(exact - graph).max()


def test_a_bundle_can_be_the_start(base: str, tmp_path: Path) -> None:
    weights = {name: tensor.detach().numpy() for name, tensor in PairEncoder(base).state_dict().items()}
    write_bundle(tmp_path / "eight", weights, tiny_bundle.TOKENIZER, "int8", tiny_bundle.SETTINGS)
    started = train(store(1), settings(base, 0), tmp_path / "run", start=tmp_path / "eight" / bundle.GRAPH)
    name = "encoder.encoder.layer.0.output.dense.weight"
    step = np.abs(weights[name]).max() / 127
    difference = np.abs(started.state_dict()[name].numpy() - weights[name])
    assert 0 < difference.max() <= 0.51 * step
    assert np.array_equal(started.state_dict()["cls.weight"].numpy(), weights["cls.weight"])


def test_an_mpnet_can_be_the_base(tmp_path: Path) -> None:
    config = transformers.MPNetConfig(
        vocab_size=205, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, hidden_dropout_prob=0.0,
    )  # fmt: skip
    transformers.MPNetModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    model = PairEncoder(str(tmp_path), one_way=False).eval()
    ids = torch.tensor([[101, *range(110, 130), 102]])
    segments, positions = torch.ones_like(ids), torch.arange(ids.shape[1])[None]
    with torch.no_grad():
        mask = torch.zeros((1, ids.shape[1], ids.shape[1]))
        mine = model._mpnet_states(ids, segments == 1, positions, mask)
        theirs = model.encoder(model.vocabulary[ids], attention_mask=torch.ones_like(ids)).last_hidden_state
    assert torch.allclose(mine, theirs, atol=1e-5)


def test_a_run_by_the_clock_goes_through_the_whole_schedule(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(module.time, "monotonic", lambda: 0.5 * next(ticks))
    run = settings(base, 10**9)
    run.seconds = 300
    shares: list[float] = []
    schedule = module._schedule
    monkeypatch.setattr(module, "_schedule", lambda done: shares.append(done) or schedule(done))
    train(store(1), run, tmp_path, checkpoint_minutes=1000)
    assert 500 < len(shares) < 700
    assert shares == sorted(shares)
    assert shares[0] < 0.01
    assert 0.99 < shares[-1] < 1

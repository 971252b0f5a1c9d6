"""The loop: it learns, and an interrupted run ends where an undisturbed one does."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
transformers = pytest.importorskip("transformers", reason="needs the train extra")

from promptguard.training import train as module
from promptguard.training.examples import Example, Row
from promptguard.training.model import PairEncoder
from promptguard.training.train import Settings, train

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


def units(seed: int) -> dict[str, list[list[Example]]]:
    """Token 150 in the context makes token 160 in the text an attack."""
    generator = random.Random(seed)
    made = []
    for _ in range(300):
        risky = generator.random() < 0.5
        context = (9, 150 if risky else 151, 102)
        text = (101, *(generator.randrange(110, 140) for _ in range(6)), 160, 102)
        labels = (*([0.0] * 6), float(risky), *([0.0] * 3), float(risky))
        made.append([Example((Row(context, text, (-1,) * len(text)),), labels, None)])
    return {"contextual": made}


def settings(base: str, steps: int) -> Settings:
    return Settings(base=base, steps=steps, learning_rate=3e-3, head_learning_rate=1e-2, tokens=256, average=0.9)


def test_the_context_is_learnt(base: str, tmp_path: Path) -> None:
    train(units(1), settings(base, 400), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["risk"] < 0.5 * lines[0]["risk"]
    assert not (tmp_path / "checkpoint.pt").exists()


def test_resuming_changes_nothing(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(units(1), settings(base, 30), tmp_path / "whole")
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
        train(units(1), settings(base, 30), tmp_path / "cut", checkpoint_minutes=0)
    monkeypatch.setattr(module, "_save", save)
    resumed = train(units(1), settings(base, 30), tmp_path / "cut")
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

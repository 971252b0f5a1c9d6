"""Fine-tune the pair encoder: one loop, read top to bottom."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from promptguard.training.examples import Batch, Example, Mixture, collate
from promptguard.training.model import OUTPUTS, PairEncoder

RISK = OUTPUTS.index("risk")
_AVERAGE_EVERY = 10
_TEACH_EVERY = 4  # the teacher costs a third of a step

SHARES = {
    "contextual": 0.33,
    "content": 0.04,
    "neighbours": 0.13,
    "attacks": 0.20,
    "benign": 0.17,
    "composed_carriers": 0.08,
    "composed_apps": 0.05,
}
"""Share of the draws of each family: by what the product is for, not by what there is most of."""


@dataclass
class Settings:
    """What a run depends on besides its data.

    Attributes:
        base: a hub id or a folder with the encoder to start from; also the teacher of the embedding.
        steps: optimizer steps.
        learning_rate: peak rate of the encoder's last layer.
        head_learning_rate: peak rate of the new heads.
        layer_decay: factor on the rate from one layer to the one below.
        tokens: most padded tokens in a batch.
        seed: fixes initialisation and order.
        one_way: whether context tokens see only context.
        smoothing: what a label of 0 or 1 is moved towards the other.
        pair_weight: weight of the ranking within groups.
        span_weight: weight of the tokens' loss.
        embedding_weight: weight of the distance to the teacher, taken every fourth step.
        average: what the averaged weights keep in a step.
        shares: for each family its share of the draws.
    """

    base: str
    steps: int
    learning_rate: float = 1.5e-4
    head_learning_rate: float = 1e-3
    layer_decay: float = 0.9
    tokens: int = 4096
    seed: int = 1
    one_way: bool = True
    smoothing: float = 0.01
    intents_weight: float = 0.4
    pair_margin: float = 2.0
    pair_weight: float = 0.4
    span_weight: float = 0.5
    embedding_weight: float = 1.0
    average: float = 0.998
    shares: Mapping[str, float] = field(default_factory=lambda: dict(SHARES))


def loss_of(model: PairEncoder, batch: Batch, settings: Settings, teacher: nn.Module | None) -> dict[str, Tensor]:
    """The losses of one batch, weighted, by name."""
    heads = model(batch.ids, batch.segments, batch.positions)
    # An example answers through its strongest window.
    logits = torch.full((len(batch.labels), len(OUTPUTS)), -torch.inf).scatter_reduce(
        0, batch.owner[:, None].expand_as(heads.logits), heads.logits, "amax"
    )
    smooth = batch.labels * (1 - 2 * settings.smoothing) + settings.smoothing
    each = functional.binary_cross_entropy_with_logits(logits, smooth, reduction="none")
    losses = {"intents": settings.intents_weight * each[:, :RISK].sum(1).mean(), "risk": each[:, RISK].mean()}
    known = batch.spans >= 0
    token = functional.binary_cross_entropy_with_logits(
        heads.span_logits[known], batch.spans[known].float(), reduction="sum"
    ) / known.sum().clamp(min=1)
    losses["spans"] = settings.span_weight * token
    ranked = _ranking(logits[:, RISK], batch, settings.pair_margin)
    if ranked is not None:
        losses["pairs"] = settings.pair_weight * ranked
    if teacher is not None:
        losses["embedding"] = settings.embedding_weight * _distil(heads.embedding, batch, teacher)
    return losses


def _ranking(risk: Tensor, batch: Batch, margin: float) -> Tensor | None:
    """Within a group of one text the risky reading must rank above the harmless one."""
    where: dict[str, list[int]] = {}
    for i, pair in enumerate(batch.pairs):
        if pair is not None:
            where.setdefault(pair, []).append(i)
    terms = []
    for group in where.values():
        labels = batch.labels[group, RISK]
        gaps = risk[group][:, None] - risk[group][None, :]
        chosen = gaps[(labels[:, None] > labels[None, :])]
        if len(chosen):
            terms.append(functional.softplus(margin - chosen).mean())
    return torch.stack(terms).mean() if terms else None


def _distil(embedding: Tensor, batch: Batch, teacher: nn.Module) -> Tensor:
    """Keep the embedding close to the sentence encoder it came from, so that it stays a general one."""
    text = batch.segments == 1
    lengths = text.sum(1)
    ids = torch.zeros((len(text), int(lengths.max())), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row in range(len(text)):
        ids[row, : lengths[row]] = batch.ids[row][text[row]]
        mask[row, : lengths[row]] = 1
    with torch.no_grad():
        states = teacher(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        target = functional.normalize((states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True), dim=-1)
    return (1 - (embedding * target).sum(1)).mean()


def optimizer_of(model: PairEncoder, settings: Settings) -> torch.optim.AdamW:
    """AdamW with rates that fall towards the embeddings (ULMFiT, Howard and Ruder 2018)."""
    layers = model.encoder.config.num_hidden_layers
    groups = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if not name.startswith("encoder."):
            rate = settings.head_learning_rate if not name.startswith("project") else settings.learning_rate
        else:
            parts = name.split(".")
            depth = int(parts[parts.index("layer") + 1]) + 1 if "layer" in parts else 0
            rate = settings.learning_rate * settings.layer_decay ** (layers - depth)
        decay = 0.01 if parameter.ndim > 1 else 0.0
        groups.append({"params": [parameter], "lr": rate, "weight_decay": decay, "peak": rate})
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


def train(
    units: Mapping[str, list[list[Example]]],
    settings: Settings,
    folder: Path,
    *,
    start: Path | None = None,
    checkpoint_minutes: float = 5,
) -> PairEncoder:
    """Train, or go on where an interrupted run of the same folder stopped.

    Args:
        units: examples by family (``examples.group``).
        settings: the run.
        folder: receives ``checkpoint.pt``, ``log.jsonl`` and at the end ``weights.pt`` (averaged).
        start: weights of an earlier run to start from instead of the base's.
        checkpoint_minutes: how often the state is saved.

    Returns:
        The model with averaged weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    model = PairEncoder(settings.base, one_way=settings.one_way)
    if start is not None:
        model.load_state_dict(torch.load(start, weights_only=True))
    teacher = PairEncoder(settings.base).encoder.eval()
    optimizer = optimizer_of(model, settings)
    average = {k: v.clone() for k, v in model.state_dict().items()}
    step = 0
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        average, step = saved["average"], saved["step"]
    (folder / "settings.json").write_text(json.dumps(asdict(settings), indent=1))
    batches = Mixture(units, settings.shares, settings.tokens, settings.seed).batches()
    for _ in range(step):
        next(batches)
    model.train()
    saved_at = began = time.monotonic()
    seen: list[dict[str, float]] = []
    with (folder / "log.jsonl").open("a") as log:
        while step < settings.steps:
            batch = collate(next(batches))
            rate = _schedule(step, settings.steps)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate
            with torch.autocast("cpu", dtype=torch.bfloat16):
                losses = loss_of(model, batch, settings, teacher if step % _TEACH_EVERY == 0 else None)
            total = torch.stack(list(losses.values())).sum()
            total.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            if step % _AVERAGE_EVERY == 0:
                keep = min(settings.average**_AVERAGE_EVERY, step / (step + 10 * _AVERAGE_EVERY))
                for name, value in model.named_parameters():
                    if value.requires_grad:
                        average[name].lerp_(value.detach(), 1 - keep)
            seen.append({k: float(v.detach()) for k, v in losses.items()} | {"rows": float(len(batch.ids))})
            if step % 100 == 0:
                log.write(json.dumps(_summary(seen, step, time.monotonic() - began)) + "\n")
                log.flush()
                seen = []
            if time.monotonic() - saved_at > 60 * checkpoint_minutes:
                _save(checkpoint, model, optimizer, average, step)
                saved_at = time.monotonic()
    model.load_state_dict(average)
    torch.save(model.state_dict(), folder / "weights.pt")
    checkpoint.unlink(missing_ok=True)
    return model.eval()


def _schedule(step: int, steps: int) -> float:
    """Share of the peak rate: up within the first 6 % of the steps, then down along a cosine to 2 %."""
    warm = max(1, int(0.06 * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _summary(seen: list[dict[str, float]], step: int, seconds: float) -> dict[str, Any]:
    """A line of the log: means of the losses since the last one."""
    names = sorted({k for s in seen for k in s})
    means = {k: round(float(np.mean([s[k] for s in seen if k in s])), 4) for k in names}
    return {"step": step, "seconds": round(seconds), **means}


def _save(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor], step: int
) -> None:
    """Write the state beside the old one, then put it in its place: an interruption leaves one of the two whole."""
    partial = path.with_suffix(".partial")
    torch.save(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average, "step": step}, partial
    )
    partial.replace(path)

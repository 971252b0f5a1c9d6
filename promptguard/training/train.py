"""Fine-tune the pair encoder: one loop, read top to bottom."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from promptguard.training.batches import Batch, Collator, Mixture, Store
from promptguard.training.export import read_weights
from promptguard.training.model import OUTPUTS, Heads, PairEncoder, run_in_eight_bits
from promptguard.training.smoothing import factors, largest_inputs

RISK = OUTPUTS.index("risk")
_AVERAGE_EVERY = 10
_TEACH_EVERY = 4  # the teacher of the embedding costs a third of a step

SHARES = {
    "contextual": 0.36,
    "content": 0.08,
    "neighbours": 0.18,
    "attacks": 0.14,
    "benign": 0.13,
    "composed_carriers": 0.09,
    "composed_apps": 0.05,
}
"""Share of the draws of each family: by what the product is for, not by what there is most of."""


@dataclass
class Settings:
    """What a run depends on besides its data.

    Attributes:
        base: a hub id or a folder with the encoder to start from; also the teacher of the embedding.
        steps: optimizer steps; the most of them where ``seconds`` is given.
        seconds: how long to train, instead of how many steps: for a machine that is lent by the minute.
        learning_rate: peak rate of the encoder's last layer.
        head_learning_rate: peak rate of the new heads.
        layer_decay: factor on the rate from one layer to the one below.
        tokens: most padded tokens in a batch.
        seed: fixes initialisation and order.
        one_way: whether context tokens see only context.
        words: whether word embeddings are trained.
        smoothing: what a label of 0 or 1 is moved towards the other.
        pair_weight: weight of the ranking within groups.
        span_weight: weight of the tokens' loss.
        embedding_weight: weight of the distance to the teacher, taken every fourth step.
        teacher_weight: weight of a larger model's probabilities where the store has them.
        consistency_weight: weight of what the verdict moves when the context is said otherwise; above 0 a batch holds
            every example in two wordings.
        average: what the averaged weights keep in a step.
        eight_bits_from: share of the steps after which products are rounded as the 8-bit graph rounds them.
        shares: for each family its share of the draws.
        device: where to train.
    """

    base: str
    steps: int
    seconds: float | None = None
    learning_rate: float = 1.5e-4
    head_learning_rate: float = 1e-3
    layer_decay: float = 0.9
    tokens: int = 4096
    seed: int = 1
    one_way: bool = True
    words: bool = False
    smoothing: float = 0.01
    intents_weight: float = 0.4
    pair_margin: float = 2.0
    pair_weight: float = 0.4
    span_weight: float = 0.5
    embedding_weight: float = 1.0
    teacher_weight: float = 1.0
    consistency_weight: float = 0.0
    average: float = 0.998
    eight_bits_from: float = 0.8
    shares: Mapping[str, float] = field(default_factory=lambda: dict(SHARES))
    device: str = "cpu"


def loss_of(heads: Heads, batch: Batch, settings: Settings) -> dict[str, Tensor]:
    """The losses of one batch, weighted, by name."""
    # An example answers through its strongest window.
    logits = torch.full((len(batch.labels), len(OUTPUTS)), -torch.inf, device=heads.logits.device).scatter_reduce(
        0, batch.owner[:, None].expand_as(heads.logits), heads.logits, "amax"
    )
    known = (batch.labels >= 0).float()
    smooth = batch.labels.clamp(min=0) * (1 - 2 * settings.smoothing) + settings.smoothing
    each = functional.binary_cross_entropy_with_logits(logits, smooth, reduction="none") * known
    losses = {"intents": settings.intents_weight * each[:, :RISK].sum(1).mean(), "risk": each[:, RISK].mean()}
    marked = (batch.marks >= 0).float()
    token = functional.binary_cross_entropy_with_logits(
        heads.span_logits, batch.marks.clamp(min=0).float(), reduction="none"
    )
    losses["spans"] = settings.span_weight * (token * marked).sum() / marked.sum().clamp(min=1)
    losses["pairs"] = settings.pair_weight * _ranking(logits[:, RISK], batch, settings.pair_margin)
    weights = torch.full((len(OUTPUTS),), settings.intents_weight, device=logits.device)
    weights[RISK] = 1.0
    if batch.teacher is not None:
        soft = functional.binary_cross_entropy_with_logits(heads.logits, batch.teacher.sigmoid(), reduction="none")
        losses["teacher"] = settings.teacher_weight * (soft * weights).sum(1).mean()
    if settings.consistency_weight:
        losses["consistency"] = settings.consistency_weight * (_moved(logits) * weights).sum(1).mean()
    return losses


def _moved(logits: Tensor) -> Tensor:
    """Cross-entropy of each wording against the other's probabilities; the second half has the first one's examples.

    Each side learns from the other as from a teacher: the gradient is the difference of probabilities, and nothing
    pulls towards certainty.
    """
    one, other = logits.chunk(2)
    sides = ((one, other), (other, one))
    return torch.cat(
        [functional.binary_cross_entropy_with_logits(a, b.detach().sigmoid(), reduction="none") for a, b in sides]
    )


def _ranking(risk: Tensor, batch: Batch, margin: float) -> Tensor:
    """Within a group the risky reading must rank above the harmless one; 0 in a batch without groups."""
    labels = batch.labels[:, RISK]
    same = (batch.pairs[:, None] == batch.pairs[None, :]) & (batch.pairs >= 0)[:, None]
    chosen = (same & (labels[:, None] > labels[None, :])).float()
    return (functional.softplus(margin - risk[:, None] + risk[None, :]) * chosen).sum() / chosen.sum().clamp(min=1)


def _distil(embedding: Tensor, batch: Batch, teacher: nn.Module) -> Tensor:
    """Keep the embedding close to the sentence encoder it came from, so that it stays a general one."""
    text = batch.segments == 1
    with torch.no_grad():
        # The texts alone: moved to the front, with the positions they have.
        order = torch.argsort((~text).long(), dim=1, stable=True)
        ids, mask = batch.ids.gather(1, order), text.gather(1, order).long()
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
    store: Store,
    settings: Settings,
    folder: Path,
    *,
    start: Path | None = None,
    checkpoint_minutes: float = 5,
) -> PairEncoder:
    """Train, or go on where an interrupted run of the same folder stopped.

    Args:
        store: the examples (``batches.Store``).
        settings: the run.
        folder: receives ``checkpoint.pt``, ``log.jsonl`` and at the end ``weights.pt`` (averaged).
        start: weights of an earlier run to start from instead of the base's: ``weights.pt``, or a bundle's graph, whose
            8-bit weights are multiplied out.
        checkpoint_minutes: how often the state is saved.

    Returns:
        The model with averaged weights, in evaluation mode.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    device = settings.device
    model = PairEncoder(settings.base, one_way=settings.one_way, words=settings.words)
    if start is not None:
        model.load_state_dict(_state(start))
    model.to(device)
    # What teaches the embedding is the base itself; an MPNet's embedding is nobody's.
    guide = None if model.mpnet else PairEncoder(settings.base).encoder.eval().to(device)
    optimizer = optimizer_of(model, settings)
    average = {k: v.clone() for k, v in model.state_dict().items()}
    step, spent = 0, 0.0
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location=device)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        average, step = saved["average"], saved["step"]
        spent = float(saved["spent"])
    (folder / "settings.json").write_text(json.dumps(asdict(settings), indent=1))
    collate = Collator(store, device)
    twice = settings.consistency_weight > 0
    batches = Mixture(store, settings.shares, settings.tokens // (1 + twice), settings.seed).batches()
    for _ in range(step):
        next(batches)
    model.train()
    saved_at = began = time.monotonic()
    seen: dict[str, list[Tensor]] = {}
    divisors: dict[str, Tensor] = {}
    with (folder / "log.jsonl").open("a") as log:
        while step < settings.steps:
            now = time.monotonic()
            done = step / settings.steps if settings.seconds is None else (spent + now - began) / settings.seconds
            if done >= 1:
                break
            # Seeded by the step, so that a run that was cut goes on as it would have.
            batch = collate(next(batches), seed=settings.seed * 1_000_003 + step, twice=twice)
            rate = _schedule(done)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate
            rounding = done >= settings.eight_bits_from
            with torch.autocast(device, dtype=torch.bfloat16, enabled=fast_halves(device)):
                given = batch.ids, batch.segments, batch.positions
                if rounding and not divisors:
                    divisors = _divisors(model, batch)
                heads = run_in_eight_bits(model, *given, divisors) if rounding else model(*given)
                losses = loss_of(heads, batch, settings)
                if guide is not None and step % _TEACH_EVERY == 0:
                    losses["embedding"] = settings.embedding_weight * _distil(heads.embedding, batch, guide)
            total = torch.stack(list(losses.values())).sum()
            total.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            if step % _AVERAGE_EVERY == 0:
                keep = min(settings.average**_AVERAGE_EVERY, step / (step + 10 * _AVERAGE_EVERY))
                trained = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
                torch._foreach_lerp_([average[n] for n in trained], list(trained.values()), 1 - keep)
            for name, loss in losses.items():
                seen.setdefault(name, []).append(loss.detach())
            if step % 100 == 0:
                means = {k: round(float(torch.stack(v).mean()), 4) for k, v in seen.items()}
                line = {"step": step, "seconds": round(time.monotonic() - began), **means, "rows": len(batch.ids)}
                log.write(json.dumps(line) + "\n")
                log.flush()
                seen = {}
            if now - saved_at > 60 * checkpoint_minutes:
                _save(checkpoint, model, optimizer, average, step, spent + now - began)
                saved_at = now
    model.load_state_dict(average)
    torch.save({k: v.cpu() for k, v in model.state_dict().items()}, folder / "weights.pt")
    checkpoint.unlink(missing_ok=True)
    return model.eval()


def _state(start: Path) -> dict[str, Tensor]:
    if start.suffix != ".onnx":
        return cast("dict[str, Tensor]", torch.load(start, weights_only=True))
    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in read_weights(start).items()}


def _divisors(model: PairEncoder, batch: Batch) -> dict[str, Tensor]:
    """What channels are divided by before 8-bit products, from what one batch shows of them."""
    model.eval()
    largest = largest_inputs(model, [batch])
    model.train()
    weights = {name: values.float().cpu().numpy() for name, values in model.state_dict().items()}
    return {name: torch.from_numpy(factor).to(batch.ids.device) for name, factor in factors(weights, largest).items()}


def fast_halves(device: str) -> bool:
    """Whether 16-bit products are the device's own: a processor without them emulates them, slower than 32 bits."""
    return device != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def predict(model: PairEncoder, store: Store, *, wording: int = 0, device: str = "cpu", tokens: int = 65536) -> Tensor:
    """Logits of every row of a store.

    Args:
        model: the network, in evaluation mode, on the device.
        store: the examples.
        wording: which wording of every context.
        device: where the network is.
        tokens: most padded tokens in a batch.

    Returns:
        ``(rows, 11)`` logits, on the processor.
    """
    lengths = store.lengths()
    counts = np.diff(store.first_row)
    result = torch.zeros((len(store.texts), len(OUTPUTS)))
    collate = Collator(store, device)
    order = np.argsort(lengths, kind="stable")
    with torch.inference_mode(), torch.autocast(device, dtype=torch.bfloat16, enabled=fast_halves(device)):
        while len(order):
            # The longest last: how many fit is known from the longest taken.
            many = int(np.searchsorted(np.cumsum(counts[order]) * lengths[order], tokens)) or 1
            chosen, order = order[:many], order[many:]
            batch = collate(chosen, wording=wording)
            values = model(batch.ids, batch.segments, batch.positions).logits.float().cpu()
            rows = np.concatenate([np.arange(store.first_row[i], store.first_row[i + 1]) for i in chosen])
            result[torch.from_numpy(rows)] = values
    return result


def _schedule(done: float) -> float:
    """Share of the peak rate: up within the first 6 % of the run, then down along a cosine to 2 %."""
    if done < 0.06:
        return max(done / 0.06, 0.01)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (done - 0.06) / 0.94))


def _save(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor],
    step: int,
    spent: float,
) -> None:
    """Write the state beside the old one, then put it in its place: an interruption leaves one of the two whole."""
    partial = path.with_suffix(".partial")
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average}
    torch.save(state | {"step": step, "spent": spent}, partial)
    partial.replace(path)

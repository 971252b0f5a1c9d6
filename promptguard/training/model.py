"""The network: one encoder over context and text, four heads.

Context tokens attend to the context alone, text tokens to both. Keys and values of a context then
depend on the context alone and can be computed once for every text that arrives in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import AutoConfig, AutoModel

from promptguard.intents import INTENTS
from promptguard.tokenizer import CLS, PAD, SEP, UNK
from promptguard.training.smoothing import product

OUTPUTS = (*INTENTS, "risk")
"""Names of the logits, in order."""


@dataclass
class Heads:
    """What the network says of a batch of windows.

    Attributes:
        logits: ``(batch, 11)``: ten intents, then risk.
        span_logits: ``(batch, length)``: whether a token belongs to an attack; meaningless on context.
        embedding: ``(batch, hidden)``: unit vectors of the text part.
    """

    logits: Tensor
    span_logits: Tensor
    embedding: Tensor


class PairEncoder(nn.Module):
    """Encoder and heads.

    A logit is the sum of a linear reading of ``[CLS]`` and of an attention pool of its own over the
    text's tokens (label-wise attention, Mullenbach et al. 2018), which finds a sentence in a page.

    Args:
        base: a hub id or a folder with a BERT-like encoder, or, for a teacher, an MPNet.
        one_way: False lets context tokens see the text as well; for comparison, and for a teacher.
        words: whether the word embeddings are trained too; frozen, a step costs a third less on a processor.
    """

    def __init__(self, base: str, *, one_way: bool = True, words: bool = False) -> None:
        super().__init__()
        config = AutoConfig.from_pretrained(base)
        self.mpnet = config.model_type == "mpnet"
        # Attention dropout would take torch off its fast path on a processor.
        self.encoder = AutoModel.from_pretrained(
            base,
            add_pooling_layer=False,
            attn_implementation="eager" if self.mpnet else "sdpa",
            attention_probs_dropout_prob=0.0,
        )
        self.encoder.embeddings.word_embeddings.weight.requires_grad_(words)
        hidden = config.hidden_size
        self.one_way = one_way
        self.cls = nn.Linear(hidden, len(OUTPUTS))
        self.query = nn.Linear(hidden, len(OUTPUTS), bias=False)
        self.value = nn.Linear(hidden, len(OUTPUTS), bias=False)
        self.span = nn.Linear(hidden, 1)
        self.project = nn.Linear(hidden, hidden, bias=False)
        for layer in (self.cls, self.query, self.value, self.span):
            nn.init.normal_(layer.weight, std=0.02)
        nn.init.eye_(self.project.weight)
        if self.mpnet:
            # MPNet has BERT's vocabulary four places on, special tokens of its own, and no segments.
            self.segment = nn.Embedding(2, hidden)
            nn.init.zeros_(self.segment.weight)
            words_of = torch.arange(config.vocab_size - 5) + 4
            words_of[torch.tensor([CLS, PAD, SEP, UNK])] = torch.arange(4)
            self.vocabulary: Tensor
            self.register_buffer("vocabulary", words_of, persistent=False)

    def forward(self, ids: Tensor, segments: Tensor, positions: Tensor) -> Heads:
        """Run a batch.

        Args:
            ids: ``(batch, length)`` token ids, context first, then text, then padding.
            segments: ``(batch, length)``: 0 context, 1 text, 2 padding.
            positions: ``(batch, length)``, starting afresh at the text.

        Returns:
            The heads' outputs.
        """
        text = segments == 1
        sees = (segments != 2)[:, None, :]
        if self.one_way:
            sees = sees & (text[:, :, None] | (segments == 0)[:, None, :])
        # A row that sees nothing would be NaN: padding sees itself.
        sees = sees | torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device)[None]
        # Attention adds its mask: a boolean one might be added as ones and mask nothing.
        mask = torch.zeros(sees.shape, device=ids.device, dtype=self._dtype(ids)).masked_fill_(~sees, -1e4)
        if self.mpnet:
            states = self._mpnet_states(ids, text, positions, mask)
        else:
            states = self.encoder(
                input_ids=ids,
                attention_mask=mask[:, None],
                token_type_ids=text.long(),
                position_ids=positions,
            ).last_hidden_state
        with torch.autocast(ids.device.type, enabled=False):
            return self._heads(states.float(), text)

    def _mpnet_states(self, ids: Tensor, text: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """MPNet's layers through fused attention, which transformers does not offer for it."""
        embedded = self.encoder.embeddings.word_embeddings(self.vocabulary[ids]) + self.segment(text.long())
        states = self.encoder.embeddings(inputs_embeds=embedded, position_ids=positions + 2)
        with torch.no_grad():  # the bias by distance stays as it was learnt
            bias = mask[:, None] + self.encoder.encoder.compute_position_bias(states[:1]).to(mask.dtype)
        for layer in self.encoder.encoder.layer:
            states = self._mpnet_layer(layer, states, bias)
        return states

    @staticmethod
    def _mpnet_layer(layer: Any, states: Tensor, bias: Tensor) -> Tensor:
        attention, inner = layer.attention, layer.attention.attn
        shape = (*states.shape[:2], inner.num_attention_heads, inner.attention_head_size)
        q, k, v = (part(states).view(shape).transpose(1, 2) for part in (inner.q, inner.k, inner.v))
        seen = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)
        states = attention.LayerNorm(attention.dropout(inner.o(seen)) + states)
        result: Tensor = layer.output(layer.intermediate(states), states)
        return result

    @staticmethod
    def _dtype(ids: Tensor) -> torch.dtype:
        """The type attention runs in, which its mask must have."""
        device = ids.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32

    def _heads(self, states: Tensor, text: Tensor) -> Heads:
        first = text.float().argmax(dim=1)
        cls = states[torch.arange(len(states), device=states.device), first]
        weights = self.query(states).masked_fill(~text[:, :, None], -1e4).softmax(dim=1)
        pooled = (weights * self.value(states)).sum(dim=1)
        mean = (states * text[:, :, None]).sum(dim=1) / text.sum(dim=1, keepdim=True)
        return Heads(
            logits=self.cls(cls) + pooled,
            span_logits=self.span(states)[:, :, 0],
            embedding=nn.functional.normalize(self.project(mean), dim=-1),
        )


def run_in_eight_bits(
    model: PairEncoder, ids: Tensor, segments: Tensor, positions: Tensor, factors: Mapping[str, Tensor]
) -> Heads:
    """Run a batch with products rounded as the 8-bit graph will, with gradients as if nothing were.

    Quantization-aware training (Jacob et al. 2018): weights symmetric with a scale a column, activations with one
    scale a run, where a run is a context or the text of a window, as in ``runtime``, and channels evened out
    (``smoothing``). Heads stay as they are.

    Args:
        model: the network.
        ids: as ``PairEncoder.forward`` takes them, like ``segments`` and ``positions``.
        segments: ``(batch, length)``: 0 context, 1 text, 2 padding.
        positions: ``(batch, length)``, starting afresh at the text.
        factors: what channels are divided by before they are rounded (``smoothing.factors``); those that are missing
            count as 1.

    Returns:
        The heads' outputs.
    """
    weights, hooks = {}, []
    one = torch.ones((), device=ids.device)

    def round_input(factor: Tensor, _: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor]:
        x = given[0].float()
        for run in (0, 1):
            own = (segments == run)[:, :, None]
            seen = x.detach().masked_fill(~own, 0) / factor
            low, high = seen.amin(dim=(1, 2), keepdim=True), seen.amax(dim=(1, 2), keepdim=True)
            scale = ((high - low) / 255).clamp(min=1e-8)
            zero = (-low / scale).round()
            near = ((seen / scale + zero).round().clamp(0, 255) - zero) * scale
            x = torch.where(own, x + (near - seen) * factor, x)
        return (x,)

    for name, layer in model.encoder.encoder.named_modules():
        if isinstance(layer, nn.Linear):
            factor = factors.get(product(name), one)
            weight = layer.weight
            smooth = weight.detach() * factor
            scale = (smooth.abs().amax(dim=1, keepdim=True) / 127).clamp(min=1e-12)
            near = (smooth / scale).round().clamp(-127, 127) * scale
            weights[f"encoder.encoder.{name}.weight"] = weight + (near - smooth) / factor
            hooks.append(layer.register_forward_pre_hook(partial(round_input, factor)))
    try:
        heads: Heads = functional_call(model, weights, (ids, segments, positions))
    finally:
        for hook in hooks:
            hook.remove()
    return heads

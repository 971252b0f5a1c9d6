"""The network: one encoder over context and text, four heads.

Context tokens attend to the context alone, text tokens to both. Keys and values of a context then
depend on the context alone and can be computed once for every text that arrives in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AutoModel

from promptguard.intents import INTENTS

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
        base: a hub id or a folder with a BERT-like encoder.
        one_way: False lets context tokens see the text as well; only for comparison.
    """

    def __init__(self, base: str, *, one_way: bool = True) -> None:
        super().__init__()
        # Attention dropout would take torch off its fast path on a processor.
        self.encoder = AutoModel.from_pretrained(
            base, add_pooling_layer=False, attn_implementation="eager", attention_probs_dropout_prob=0.0
        )
        # Half of the parameters, well trained already; frozen, a step costs a third less.
        self.encoder.embeddings.word_embeddings.weight.requires_grad_(False)
        hidden = self.encoder.config.hidden_size
        self.one_way = one_way
        self.cls = nn.Linear(hidden, len(OUTPUTS))
        self.query = nn.Linear(hidden, len(OUTPUTS), bias=False)
        self.value = nn.Linear(hidden, len(OUTPUTS), bias=False)
        self.span = nn.Linear(hidden, 1)
        self.project = nn.Linear(hidden, hidden, bias=False)
        for layer in (self.cls, self.query, self.value, self.span):
            nn.init.normal_(layer.weight, std=0.02)
        nn.init.eye_(self.project.weight)

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
        sees = sees | torch.eye(ids.shape[1], dtype=torch.bool)[None]
        # Eager attention adds its mask: a boolean one would be added as ones and mask nothing.
        mask = torch.zeros(sees.shape).masked_fill_(~sees, -1e4)
        states = self.encoder(
            input_ids=ids,
            attention_mask=mask[:, None],
            token_type_ids=text.long(),
            position_ids=positions,
        ).last_hidden_state
        with torch.autocast("cpu", enabled=False):
            return self._heads(states.float(), text)

    def _heads(self, states: Tensor, text: Tensor) -> Heads:
        first = text.float().argmax(dim=1)
        cls = states[torch.arange(len(states)), first]
        weights = self.query(states).masked_fill(~text[:, :, None], -1e4).softmax(dim=1)
        pooled = (weights * self.value(states)).sum(dim=1)
        mean = (states * text[:, :, None]).sum(dim=1) / text.sum(dim=1, keepdim=True)
        return Heads(
            logits=self.cls(cls) + pooled,
            span_logits=self.span(states)[:, :, 0],
            embedding=nn.functional.normalize(self.project(mean), dim=-1),
        )

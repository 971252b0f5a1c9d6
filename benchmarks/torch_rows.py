"""Rows a second of a text and its context through what there is for torch, with this library's network and weights.

A Hugging Face text-classification pipeline and sentence-transformers' ``CrossEncoder`` read the pair as one sequence of
the same tokens, each with full attention and the context anew for every text, in 32 bits. What they say is not our
verdict (their head is a layer of random weights on ``[CLS]``); what they cost is what the same network costs there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from promptguard import Context, Guard, bundle
from promptguard.tokenizer import UNK
from promptguard.training.export import read_weights

Scored = Callable[[Sequence[tuple[str, str]]], Any]

BATCH = 16


def as_pairs(guard: Guard, rows: Sequence[tuple[str, Context]]) -> list[tuple[str, str]]:
    """Contexts, cut as our own are and spelled out again, and texts."""
    loaded = guard._loaded

    def spelled(text: str, context: Context) -> str:
        ids = loaded.contexts.ids(context, text)
        return loaded.tokenizer._backend.decode([i for i in ids if i > UNK], skip_special_tokens=True)  # no markers

    return [(spelled(text, context), text) for text, context in rows]


def save(folder: Path, model: Path | str | None) -> None:
    """The weights of a bundle as a sequence classifier of transformers'."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    opened = bundle.load(model)
    weights = read_weights(opened.path(bundle.GRAPH))
    prefix = "encoder."
    encoder = {"bert." + name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
    words = encoder["bert.embeddings.word_embeddings.weight"]
    layers = sum(name.endswith("attention.self.query.weight") for name in encoder)
    config = BertConfig(
        vocab_size=words.shape[0],
        hidden_size=words.shape[1],
        num_hidden_layers=layers,
        num_attention_heads=words.shape[1] // 32,
        intermediate_size=4 * words.shape[1],
        max_position_embeddings=encoder["bert.embeddings.position_embeddings.weight"].shape[0],
        num_labels=1,
    )
    network = BertForSequenceClassification(config)
    missing = network.load_state_dict({name: torch.tensor(w) for name, w in encoder.items()}, strict=False)
    if missing.unexpected_keys or any("pooler" not in k and "classifier" not in k for k in missing.missing_keys):
        raise SystemExit(f"these are not the weights of a BERT: {missing}")
    network.save_pretrained(folder)
    tokens = {f"{name}_token": f"[{name.upper()}]" for name in ("cls", "sep", "pad", "unk", "mask")}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(opened.path(bundle.TOKENIZER)),
        model_max_length=config.max_position_embeddings,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **tokens,
    )
    tokenizer.save_pretrained(folder)


def scorers(folder: Path) -> dict[str, Scored]:
    """Both, over what ``save`` wrote, on one thread."""
    import torch
    from sentence_transformers import CrossEncoder
    from transformers import pipeline

    torch.set_num_threads(1)
    classify = pipeline("text-classification", model=str(folder), device="cpu")
    encoder = CrossEncoder(str(folder), device="cpu")

    def by_pipeline(pairs: Sequence[tuple[str, str]]) -> Any:
        asked = [{"text": context, "text_pair": text} for context, text in pairs]
        return classify(asked, batch_size=BATCH, truncation=True)

    def by_cross_encoder(pairs: Sequence[tuple[str, str]]) -> Any:
        return encoder.predict(list(pairs), batch_size=BATCH, show_progress_bar=False)

    return {"transformers pipeline": by_pipeline, "CrossEncoder": by_cross_encoder}

"""What is sent in a measurement: texts in contexts, of given lengths or from the user's own log.

``sizes`` says how many tokens each really costs, as the guard would cut it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from promptguard import text
from promptguard.bench.speed.load import Integers, Request
from promptguard.errors import InputError
from promptguard.loaded import Loaded
from promptguard.types import Context

_WORDS = "the order of a parcel can be sent to our shop on monday and we will check it for you when".split()
"""Ordinary words, one token each in the embedded bundle's vocabulary."""

_MOST_WINDOWS = 64
"""As many windows of a text as a ``Guard`` reads by default."""

_LOG_ROWS = 200_000
"""Rows of a log that are looked at: enough to know its lengths."""


def made(
    number: int, *, text_tokens: int, context_tokens: int, contexts: int | None = 1, seed: int = 0
) -> list[Request]:
    """Texts of ordinary words, all different, each in a context.

    Args:
        number: how many.
        text_tokens: tokens of a text with the two special ones of its window, at least 3. A text longer than a
            window is cut into several, which overlap: ``sizes`` has the tokens that are run.
        context_tokens: tokens of a context with its marker and separator, at least 3; 0 for no context.
        contexts: different contexts, which take turns; None for a new one each time.
        seed: same seed, same words.

    Returns:
        The requests.

    Raises:
        InputError: a number is too small.
    """
    if text_tokens < 3 or (context_tokens < 3 and context_tokens != 0):
        raise InputError("a text or a context has at least 3 tokens, two of them special ones; 0 is no context")
    if number < 1 or (contexts is not None and contexts < 1):
        raise InputError("there must be at least 1 request and 1 context")
    draw = np.random.default_rng(seed)
    known: list[Context | None] = []
    requests: list[Request] = []
    for i in range(number):
        if contexts is None or i < contexts:
            known.append(Context(system_prompt=_said(draw, context_tokens - 2)) if context_tokens else None)
        requests.append((_said(draw, text_tokens - 2), known[i % len(known)]))
    return requests


def _said(draw: np.random.Generator, words: int) -> str:
    return " ".join(draw.choice(_WORDS, words))


def logged(sources: Sequence[str | Path], number: int, *, seed: int = 0) -> list[Request]:
    """Texts in contexts from logs in any format that ``promptguard scan`` reads.

    Args:
        sources: files, folders or patterns.
        number: most requests, drawn evenly from the first 200,000 rows.
        seed: of the draw.

    Returns:
        The requests, in the log's order, so that a context comes again as soon as it does in the log.

    Raises:
        InputError: there is no such file, or no row that can be read.
        MissingExtraError: the ``logs`` extra is not installed.
    """
    from promptguard.logs.presets import Mapper
    from promptguard.logs.readers import Reader
    from promptguard.logs.run import read_row
    from promptguard.logs.sources import find

    generator = random.Random(seed)  # noqa: S311 - a sample, not a secret
    mapper = Mapper()
    drawn: list[tuple[int, Request]] = []
    rows = pairs = 0
    found, _ = find(sources)
    for record in islice((record for source in found for record in Reader(source)), _LOG_ROWS):
        rows += 1
        row, _ = read_row(record, mapper)
        for pair in row.parts if row else ():
            pairs += 1  # reservoir sampling (Vitter 1985)
            if len(drawn) < number:
                drawn.append((pairs, pair))
            elif (place := generator.randrange(pairs)) < number:
                drawn[place] = (pairs, pair)
    if not drawn:
        raise InputError(f"the traffic log holds no text: {rows:,} rows, none of which can be read")
    return [pair for _, pair in sorted(drawn, key=lambda item: item[0])]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Tokens of requests, one element each.

    Attributes:
        context: tokens of the context.
        text: tokens of all windows together.
        windows: number of windows.
        known: whether the context, or none, stands at an earlier request, too.
    """

    context: Integers
    text: Integers
    windows: Integers
    known: NDArray[np.bool_]


def sizes(loaded: Loaded, requests: Sequence[Request]) -> Sizes:
    """How many tokens the guard runs for each request.

    Args:
        loaded: an open bundle.
        requests: texts in contexts.

    Returns:
        The numbers.
    """
    rows = []
    seen: set[tuple[int, ...]] = {()}
    for prompt, context in requests:
        ids = loaded.contexts.ids(context or Context(), prompt)
        views = text.views(prompt, loaded.tokenizer.pieces)
        windows = [window for view in views for window in loaded.cut(view.text, _MOST_WINDOWS).windows]
        rows.append((len(ids), sum(len(window.ids) for window in windows), len(windows), ids in seen))
        seen.add(ids)
    columns = np.array(rows, np.int64).reshape(-1, 4)
    return Sizes(columns[:, 0], columns[:, 1], columns[:, 2], columns[:, 3].astype(bool))

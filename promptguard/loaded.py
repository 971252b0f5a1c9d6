"""What a guard needs once its bundle is open."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from promptguard import bundle, windows
from promptguard.context import ContextEncoder
from promptguard.detectors import Detector, Reading
from promptguard.detectors.classifier import Classifier
from promptguard.detectors.matches import Matches
from promptguard.detectors.similarity import Example, Index, Similarity
from promptguard.detectors.surface import Surface, vocabulary
from promptguard.fusion import log_odds, shifted
from promptguard.policy import Thresholds
from promptguard.runtime import Floats, Runtime
from promptguard.tokenizer import Tokenizer
from promptguard.windows import Cut

_ENCODED_CHARACTERS = 4000
"""Read of a text of which only the first window is wanted: no window of language holds more."""


class Loaded:
    """An open bundle and everything made from it. Safe to share between threads.

    Args:
        opened: the bundle.
        runtime: its graph, ready to run.
        prior: share of risky traffic to state probabilities at; None for the bundle's own.
        detectors: further detectors.
        matches: the operator's own examples and exceptions.

    Raises:
        ModelCorrupt: the tokenizer or the examples cannot be read.
        BackendError: the operator's examples could not be encoded.
    """

    def __init__(
        self,
        opened: bundle.Bundle,
        runtime: Runtime,
        *,
        prior: float | None,
        detectors: tuple[Detector, ...],
        matches: tuple[Sequence[Example], Sequence[Example]],
    ) -> None:
        manifest = opened.manifest
        self.bundle, self.runtime = opened, runtime
        self.tokenizer = Tokenizer(opened.path(bundle.TOKENIZER))
        self.window_tokens = int(manifest["window_tokens"])
        self.overlap_tokens = int(manifest["overlap_tokens"])
        self.contexts = ContextEncoder(self.tokenizer, int(manifest["context_tokens"]))
        self.shift = 0.0 if prior is None else log_odds(prior) - log_odds(opened.prior)
        at_bundle = opened.thresholds
        self.thresholds = Thresholds(
            risk={mode: shifted(p, self.shift) for mode, p in at_bundle.risk.items()},
            intents={name: shifted(p, self.shift) for name, p in at_bundle.intents.items()},
        )
        self.detectors: tuple[Detector, ...] = (Classifier(), Surface())
        self.explaining: tuple[Detector, ...] = ()
        """Detectors that have no part in the risk: for flagged texts only, which they say more about."""
        if bundle.EXAMPLES in manifest["files"]:
            similarity = Similarity(Index.load(opened.path(bundle.EXAMPLES), opened.path(bundle.VECTORS)))
            if opened.fusion.reads(similarity.name):
                self.detectors += (similarity,)
            else:
                self.explaining = (similarity,)
        self.more_detectors = detectors
        self.matches = Matches(*matches, self.encode)

    def cut(self, view: str, max_windows: int) -> Cut:
        """A view's windows."""
        return windows.cut(
            view,
            self.tokenizer,
            window_tokens=self.window_tokens,
            overlap_tokens=self.overlap_tokens,
            max_windows=max_windows,
            evidence=vocabulary,
        )

    def encode(self, prompt: str) -> Floats:
        """Vector of the first window of a text, read without context."""
        with self.runtime.turn:
            # As many windows as there may be: sampling would be work for nothing.
            first = self.cut(prompt[:_ENCODED_CHARACTERS], max_windows=_ENCODED_CHARACTERS).windows[0]
            return self.runtime.run((), first.ids).embedding

    def plain_vectors(self, context_ids: tuple[int, ...], readings: Sequence[Reading]) -> Floats:
        """Vectors of windows read without context: those at hand, if there was none."""
        if not context_ids:
            return np.stack([reading.output.embedding for reading in readings])
        with self.runtime.turn:
            return np.stack([self.runtime.run((), reading.window.ids).embedding for reading in readings])

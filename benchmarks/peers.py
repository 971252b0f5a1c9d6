"""Other detectors and shortcut baselines on promptguard's own records, scored by the same code.

    pip install 'stackone-defender[onnx]' prompt-guardrail transformers torch
    python benchmarks/peers.py --records runs/data/report --train runs/data/train.jsonl --encoder path/to/minilm \
        --out benchmarks/results/peers.json

Each detector is asked as its documentation says and decides at its own default; besides, every score is cut where
equally many harmless records lie above. None of the packages fetches anything: their models come with them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from promptguard import Context, Guard
from promptguard.bench.ablation import ablate
from promptguard.bench.baselines import BASELINES, Baseline, embedded, fit
from promptguard.bench.kinds import KINDS, figures_by_kind
from promptguard.bench.provenance import provenance
from promptguard.bench.records import Record, limit_per_source, read_records
from promptguard.bench.scoring import Scored, score
from promptguard.runtime import onnxruntime  # with its telemetry switched off
from promptguard.training.data import REPORT_SOURCES
from promptguard.types import Coverage

Scorer = Callable[[Sequence[Record]], list[Scored]]
TIMED = 100  # records asked about one by one
WARM_UP = 5
ENCODER_TOKENS = 256  # what all-MiniLM-L6-v2 was trained to read


@dataclass(frozen=True)
class Verdict:
    """What a peer says of a text, in the shape that ``score`` reads."""

    risk: float
    decision: str
    model: str
    probabilities: Mapping[str, float] = field(default_factory=dict)
    intents: tuple[str, ...] = ()
    spans: tuple[Any, ...] = ()
    coverage: Coverage = field(default_factory=lambda: Coverage(0, 0, 0, 1))


class StackOneDefender:
    """``stackone-defender``: patterns (tier 1) and a MiniLM classifier (tier 2), made for tool results.

    ``block_high_risk=True`` is its README's way to a decision. Its score is ``tier2_score``; where its patterns
    alone block, 1. A text that it skips as too short gets 0.
    """

    distribution = "stackone-defender"
    install = "stackone-defender[onnx]"
    module = "stackone_defender"

    def __init__(self) -> None:
        from stackone_defender import create_prompt_defense

        with one_thread_sessions():
            self._defense = create_prompt_defense(block_high_risk=True, require_tier2=True)
            self._defense.warmup_tier2()
        self._blocks_from = self._defense._config.tier2.high_risk_threshold  # the model's own, read when it loads

    def analyze_many(self, pairs: Sequence[tuple[str, Context]]) -> Iterator[Verdict]:
        """Judge each text as the whole result of a tool."""
        for text, context in pairs:
            result = self._defense.defend_tool_result(text, f"{context.source or 'user'}_message")
            classifier = result.tier2_score or 0.0
            by_patterns = not result.allowed and classifier < self._blocks_from
            yield Verdict(1.0 if by_patterns else classifier, "allow" if result.allowed else "block", self.distribution)


class PromptGuardrail:
    """``prompt-guardrail``: TF-IDF and logistic regression; its score is the confidence in its label."""

    distribution = "prompt-guardrail"
    install = "prompt-guardrail"
    module = "guardify"

    def __init__(self) -> None:
        from guardify import LogisticRegressionGuardrail

        with warnings.catch_warnings():  # pickled with scikit-learn 1.7.2
            warnings.simplefilter("ignore")
            self._guardrail = LogisticRegressionGuardrail()

    def analyze_many(self, pairs: Sequence[tuple[str, Context]]) -> Iterator[Verdict]:
        """Judge each text."""
        for text, _ in pairs:
            result = self._guardrail.predict(text)
            attack = result["label"] == "injection"
            risk = result["score"] if attack else 1.0 - result["score"]
            yield Verdict(risk, "block" if attack else "allow", self.distribution)


PEERS = (StackOneDefender, PromptGuardrail)


class SentenceEncoder:
    """A frozen transformer, mean over its tokens, unit length; remembers what it has encoded."""

    def __init__(self, name: str) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        self._torch = torch
        self._tokenizer = AutoTokenizer.from_pretrained(name)
        self._model = AutoModel.from_pretrained(name).eval()
        self.known: dict[str, np.ndarray] = {}

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of the texts, of shape (texts, width)."""
        fresh = sorted({text for text in texts if text not in self.known}, key=len)
        for start in range(0, len(fresh), 32):
            part = fresh[start : start + 32]
            tokens = self._tokenizer(
                part, padding=True, truncation=True, max_length=ENCODER_TOKENS, return_tensors="pt"
            )
            with self._torch.inference_mode():
                hidden = self._model(**tokens).last_hidden_state
            mask = tokens["attention_mask"].unsqueeze(-1)
            mean = (hidden * mask).sum(1) / mask.sum(1)
            self.known.update(zip(part, self._torch.nn.functional.normalize(mean).numpy(), strict=True))
        return np.stack([self.known[text] for text in texts])


@dataclass(frozen=True)
class Row:
    """One line of the comparison: what it reads, and how it is asked."""

    reads: str
    ask: Scorer
    version: str | None = None
    before_timing: Callable[[], None] = lambda: None


@contextmanager
def one_thread_sessions() -> Iterator[None]:
    """Sessions of onnxruntime opened by a package that does not say how many threads it wants get one."""
    original = onnxruntime.InferenceSession

    def session(path: Any, sess_options: Any = None, **rest: Any) -> Any:
        options = sess_options or onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        return original(path, options, **rest)

    onnxruntime.InferenceSession = session
    try:
        yield
    finally:
        onnxruntime.InferenceSession = original


def rows_of(options: argparse.Namespace, train: Sequence[Record]) -> Iterator[tuple[str, Row]]:
    """Every detector and baseline that was not left out, made when its turn comes."""
    guard = Guard(options.model)
    version = metadata.version("promptguard-intent")
    yield "promptguard", Row("text, context", partial(score, guard), version)
    yield "promptguard, context withheld", Row("text", lambda given: score(guard, ablate(given, "all")), version)
    for peer in PEERS:
        if peer.distribution not in options.skip:
            yield peer.distribution, Row("text", partial(score, peer()), metadata.version(peer.distribution))
    for name in BASELINES:
        reads = {"words of the context": "context", "words of both": "text, context"}.get(name, "text")
        yield name, Row(reads, fit(name, train, intents=()).score)
    if "embeddings" not in options.skip:
        encode = SentenceEncoder(options.encoder)
        embedding_train = limit_per_source(train, options.encoder_train_records)
        for name, with_context in (("embeddings of the text", False), ("embeddings of both", True)):
            features = embedded(encode, with_context=with_context)
            baseline: Baseline = fit(name, embedding_train, features=features, intents=())
            reads = "text, context" if with_context else "text"
            yield name, Row(reads, baseline.score, before_timing=encode.known.clear)


def missing(options: argparse.Namespace) -> str | None:
    """What has to be installed, given or left out before the run."""
    for peer in PEERS:
        if peer.distribution not in options.skip and importlib.util.find_spec(peer.module) is None:
            return f"{peer.install} is not installed: pip install '{peer.install}', or --skip {peer.distribution}"
    if "embeddings" not in options.skip and options.encoder is None:
        return "--encoder names the sentence encoder of the embeddings; or --skip embeddings"
    return None


def by_source(records: Sequence[Record]) -> list[Record]:
    """Source names as the records' ids state them: one file may hold the records of every source."""
    return [replace(record, source_name=record.id.split("/")[0]) if "/" in record.id else record for record in records]


def milliseconds(ask: Scorer, records: Sequence[Record]) -> dict[str, float]:
    """How long one record takes, asked about alone, on one thread."""
    times = []
    with threadpool_limits(1):
        for record in [*records[:WARM_UP], *records]:
            began = time.perf_counter()
            ask([record])
            times.append(1000 * (time.perf_counter() - began))
    times = times[WARM_UP:]
    return {
        "median": statistics.median(times),
        "p10": float(np.quantile(times, 0.1)),
        "p90": float(np.quantile(times, 0.9)),
        "n": len(times),
    }


def brief(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that the tables hold."""
    kept = {name: figures[name] for name in ("n", "risky", "benign", "errors", "auroc", "recall", "false_alarm_rate")}
    return kept | {"recall_at_fpr": {rate: figures["recall_at_fpr"][rate] for rate in ("0.01", "0.05")}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--records", type=Path, nargs="+", required=True, help="report records: files, or folders of *.jsonl")
    add("--train", type=Path, required=True, help="training records: the baselines are fitted on them")
    add("--out", type=Path, required=True)
    add("--model", type=Path, help="promptguard's bundle; the embedded one if left out")
    add("--encoder", help="folder or name of the sentence encoder of the embeddings")
    add("--skip", nargs="*", default=[], choices=[*(peer.distribution for peer in PEERS), "embeddings"])
    add("--limit-per-source", type=int, default=120, help="the draw of scripts/evaluate.py with the same limit")
    add("--train-records", type=int, default=30_000, help="how many training records the baselines are fitted on")
    add("--encoder-train-records", type=int, default=6_000, help="of those, for the embeddings: encoding is slow")
    add("--bootstrap", type=int, default=500)
    options = parser.parse_args()
    problem = missing(options)
    if problem:
        sys.exit(f"peers: {problem}")
    circumstances = provenance(sys.argv)
    records = limit_per_source(by_source(read_records(options.records)), options.limit_per_source)
    train = limit_per_source(read_records([options.train]), options.train_records)
    drawn = np.random.default_rng(0).choice(len(records), min(TIMED, len(records)), replace=False)
    timed = [records[i] for i in drawn]
    results = {}
    for name, row in rows_of(options, train):
        began = time.perf_counter()
        scored = row.ask(records)
        if all(verdict.error for verdict in scored):
            sys.exit(f"peers: {name} failed on every record: {scored[0].error}")
        figures = figures_by_kind(records, scored, REPORT_SOURCES, bootstrap=options.bootstrap)
        for among in ("kinds", "text_decides"):
            figures[among] = {kind: brief(part) for kind, part in figures[among].items()}
        row.before_timing()
        results[name] = {
            "reads": row.reads,
            "version": row.version,
            "model": scored[0].model,
            "milliseconds": milliseconds(row.ask, timed),
            **figures,
        }
        whole = figures["kinds"]["all"]
        print(f"{name}: AUROC {whole['auroc']['value']:.3f}, {time.perf_counter() - began:.0f} s", flush=True)
    content = {
        "provenance": circumstances | {"records": dict(Counter(record.source_name for record in records))},
        "settings": {
            "limit_per_source": options.limit_per_source,
            "bootstrap": options.bootstrap,
            "fitted_on": len(train),
            "embeddings_fitted_on": min(len(train), options.encoder_train_records),
            "skipped": options.skip,
            "kinds": KINDS,
        },
        "results": results,
    }
    options.out.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

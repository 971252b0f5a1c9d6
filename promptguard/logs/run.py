"""A scan: rows of logs to rows of verdicts, in order, each text scored once, and resumed where it stopped."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from promptguard import __version__
from promptguard.errors import BackendError, InputError
from promptguard.guard import Guard
from promptguard.logs import score
from promptguard.logs.output import FORMATS, Output, OutputFormat, Part, begin_part, part_number
from promptguard.logs.presets import Mapper, Row
from promptguard.logs.readers import MOST_ROW_BYTES, Reader, Record, dataset_source, is_dataset
from promptguard.logs.schema import SCHEMA_VERSION
from promptguard.logs.score import Pair, Settings, Verdict, pair_key
from promptguard.logs.sources import STANDARD_INPUT, Source, find
from promptguard.policy import Policy, severity
from promptguard.runtime import cores
from promptguard.types import Context, Decision

Engine: TypeAlias = Literal["local", "ray"]
ENGINES: tuple[Engine, ...] = ("local", "ray")

PART_ROWS = 20_000
"""Rows of a part: what at most is done again after an interruption."""

CHUNK_ROWS = 256
CHUNK_CHARACTERS = 4 * 2**20
_JOB_PAIRS = 16
_BATCHED_CHUNK_ROWS, _BATCHED_JOB_PAIRS = 4096, 512
"""On an accelerator, so that there are enough windows of one length to run together, though most rows are repeats."""

_KNOWN_VERDICTS = 65_536
"""Most verdicts that are kept for texts that come again: about two kilobytes each."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a scan is.

    Attributes:
        rows: rows written, those of earlier runs included.
        errors: of them, rows without a verdict.
        flagged: of them, rows that are not allowed.
        share: how much of the input has been read, in [0, 1]; None where its size is unknown.
    """

    rows: int
    errors: int
    flagged: int
    share: float | None


@dataclass(frozen=True, slots=True)
class ScanResult:
    """What a scan did.

    Attributes:
        rows: rows written: one for every row read.
        ok: rows with a verdict.
        errors: rows without one; each says why.
        flagged: rows whose decision is anything but *allow*.
        seconds: time this run took.
        preset: the preset of most rows.
        presets: rows of each preset.
        folder: where the parts and the manifest are.
        resumed: rows that an earlier run had finished.
        passed_over: files of folders that were not read because of their names.
    """

    rows: int
    ok: int
    errors: int
    flagged: int
    seconds: float
    preset: str
    presets: Mapping[str, int]
    folder: Path
    resumed: int = 0
    passed_over: tuple[str, ...] = ()


def scan(
    sources: Any,
    out: Path | str,
    *,
    preset: str = "auto",
    map: Mapping[str, str] | None = None,
    turns: str = "last",
    format: OutputFormat = "parquet",
    workers: int | None = 1,
    engine: Engine = "local",
    model: Path | str | None = None,
    mode: str | None = None,
    policy: Policy | None = None,
    prior: float | None = None,
    providers: Sequence[str] = score.CPU,
    copy_text: bool = False,
    resume: bool = True,
    part_rows: int = PART_ROWS,
    progress: Callable[[Progress], None] | None = None,
) -> ScanResult:
    """Score every row of logs and write one row for each, in order.

    Interrupted at any moment, the same call goes on where the last finished part ends and gives the same parts as a
    run that was not interrupted. A folder that holds the finished scan is left as it is.

    Args:
        sources: a path, folder, glob pattern or ``-`` (JSON Lines on standard input), a list of them, or a
            ``datasets.Dataset``.
        out: a new or empty folder, or that of the scan to go on with.
        preset: format of the rows; ``auto`` recognises each row's.
        map: paths of fields by name, before those of the preset, as in ``{"text": "event.prompt"}``.
        turns: of a conversation ``last`` scores the user's last turn, ``all`` also what is new from tools and
            documents; the row then has the worst verdict.
        format: ``parquet`` or ``jsonl``.
        workers: processes that score. 1 scores in this process; with more, a script needs the
            ``if __name__ == "__main__":`` that the standard library's multiprocessing asks for. None for one a core
            of the machine or the cluster; for one where ``providers`` begin with an accelerator.
        engine: ``local``, or ``ray`` for the workers of a Ray cluster, which must see the files, ``out`` and the
            model under the same paths (``docs/scale.md``). Either may go on with what the other began.
        model: folder of a bundle; None for the one that comes with the package.
        mode: ``low-alarm``, ``balanced`` or ``strict``; None for the policy's, or else ``balanced``.
        policy: what to do with which intent, for some applications by themselves, by the log's ``application``.
        prior: share of risky traffic to state probabilities at, in (0, 1); None for the bundle's own.
        providers: onnxruntime execution providers in order of preference, as for ``Guard``; not for ``ray``, which
            finds out.
        copy_text: also write the text and its context.
        resume: go on with an unfinished scan in ``out``; False removes it and starts anew.
        part_rows: rows of a part.
        progress: called now and then, and at the end.

    Returns:
        The counts.

    Raises:
        InputError: an argument is unusable, a source has changed since the scan began, or ``out`` holds a scan
            with other settings.
        ModelError, BackendError: the model cannot be used, or a worker process was ended from outside.
        OSError: a file cannot be read or written, for example on a full disk. What was finished stays.
    """
    began = time.perf_counter()
    if format not in FORMATS:
        raise InputError(f"format must be one of {', '.join(FORMATS)}")
    if engine not in ENGINES:
        raise InputError(f"engine must be one of {', '.join(ENGINES)}")
    if workers is not None and (not isinstance(workers, int) or workers < 1):
        raise InputError("workers must be a whole number, at least 1")
    if not isinstance(part_rows, int) or part_rows < 1:
        raise InputError("part_rows must be a whole number, at least 1")
    Mapper(preset, map, turns)  # what it refuses is refused before anything is written
    settings = Settings(model, mode, prior, policy, tuple(providers) if not isinstance(providers, str) else ())
    if engine == "ray" and settings.providers != score.CPU:
        raise InputError("engine ray finds out itself what its nodes can run on: leave providers out")
    if engine == "ray":
        from promptguard.logs import ray
    guard = settings.guard()
    dataset = sources if is_dataset(sources) else None
    passed_over: list[str] = []
    if engine == "ray" and (dataset is not None or sources in (STANDARD_INPUT, [STANDARD_INPUT])):
        raise InputError("engine ray reads files that every node sees: no dataset and no standard input")
    if dataset is not None:
        found = [dataset_source(dataset)]
    else:
        given = [sources] if isinstance(sources, str | Path) else list(sources)
        found, passed_over = find(given, leave_out=Path(out))
    about = {
        "schema_version": SCHEMA_VERSION,
        "promptguard": __version__,
        "bundle": guard.model,
        "mode": guard.policy.mode,
        "policy": guard.policy.to_dict(),
        "providers": list(settings.providers),
        "prior": guard.prior,
        "thresholds": guard.thresholds.to_dict(),
        "preset": preset,
        "map": dict(map or {}),
        "turns": turns,
        "format": format,
        "copy_text": copy_text,
        "part_rows": part_rows,
    }
    output = Output(Path(out))
    try:
        scanned, parts, finished = _before(output, about, found, resume=resume, gaps=engine == "ray")
        tally = _Tally(parts)
        resumed = tally.rows
        if not finished:

            def done(part: dict[str, Any]) -> None:
                parts.append(part)
                output.add(part)

            def report(counts: Mapping[str, Any], share: float | None) -> None:
                tally.add(counts)
                if progress is not None:
                    progress(Progress(tally.rows, tally.errors, tally.flagged, share))

            if engine == "ray":
                ray.run(output.folder, about, scanned, settings, parts, done, report, workers)
                parts.sort(key=part_number)
            else:
                start = Start(len(parts), tally.rows, *parts[-1]["after"]) if parts else Start()
                processes = workers or (1 if settings.batched else cores())
                scorer = Serial(guard, batched=settings.batched) if processes == 1 else _Pool(settings, processes)
                with scorer:
                    Run(output.folder, about, scanned, scorer, done, dataset=dataset, progress=report).parts(start)
            output.write_manifest({**about, "status": "finished", **tally.counts(), **_listed(scanned, parts)})
        output.tidy()
    finally:
        output.close()
    return ScanResult(
        rows=tally.rows,
        ok=tally.rows - tally.errors,
        errors=tally.errors,
        flagged=tally.flagged,
        seconds=time.perf_counter() - began,
        preset=tally.presets.most_common(1)[0][0] if tally.presets else preset,
        presets=dict(tally.presets),
        folder=Path(out),
        resumed=resumed,
        passed_over=tuple(passed_over),
    )


def _listed(sources: Sequence[Source], parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"sources": [source.to_dict() for source in sources], "parts": list(parts)}


def _before(
    output: Output, about: Mapping[str, Any], found: list[Source], *, resume: bool, gaps: bool
) -> tuple[list[Source], list[dict[str, Any]], bool]:
    """The sources as they were when the scan began, the parts that are finished, and whether all is."""
    known = output.manifest() if resume else None
    if known is None:
        output.clear()
        output.write_manifest({**about, "status": "running", **_listed(found, ())})
        return found, [], False
    different = [name for name, value in about.items() if known.get(name) != value]
    if different:
        raise InputError(
            f"{output.folder} holds a scan with another {different[0]}: choose another folder, or start anew"
        )
    sources = [Source(**source) for source in known["sources"]]
    missing = {source.path for source in sources} - {source.path for source in found}
    if missing:
        raise InputError(f"{output.folder} holds a scan of other sources, {sorted(missing)[0]} among them")
    for source in sources:
        source.check()
    if known["status"] == "finished":
        if sources[0].path == STANDARD_INPUT:
            raise InputError(f"{output.folder} holds a finished scan of standard input: choose another, or start anew")
        return sources, known["parts"], True
    parts = output.finished_parts()
    if not gaps:  # behind a part that is missing nobody knows which row comes next
        parts = [part for place, part in enumerate(parts) if part_number(part) == place]
    if sources[0].path == STANDARD_INPUT:
        parts = []  # what comes in now need not be what came in then: it is read from its start
    output.keep(parts)
    return sources, parts, False


class _Tally:
    """Counts over the parts."""

    def __init__(self, parts: Sequence[Mapping[str, Any]]) -> None:
        self.rows = self.errors = self.flagged = 0
        self.presets: Counter[str] = Counter()
        for part in parts:
            self.add(part)

    def add(self, counts: Mapping[str, Any]) -> None:
        self.rows += counts["rows"]
        self.errors += counts["errors"]
        self.flagged += counts["flagged"]
        self.presets.update(counts["presets"])

    def counts(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "ok": self.rows - self.errors,
            "errors": self.errors,
            "flagged": self.flagged,
            "presets": dict(self.presets),
        }


# --- reading --------------------------------------------------------------------------------------


Entry: TypeAlias = tuple[str | None, int | None, Row | None, str | None]
"""File and line of a row, and what it says or why that is unknown."""


@dataclass(slots=True)
class Chunk:
    """Rows that are read together, in order, and their verdicts."""

    next_row: int
    rows: list[Entry] = field(default_factory=list)
    answers: list[list[tuple[bytes, Verdict | _Answer]]] = field(default_factory=list)
    characters: int = 0
    after: tuple[int, int] = (0, 0)  # source, and rows of it that have been read
    share: float | None = None


def _size(pair: Pair) -> int:
    text, context = pair
    return len(text) + len(context.system_prompt or "") + sum(len(message.content) for message in context.history)


def chunk_size(row: Row | None) -> int:
    """Characters that a row adds to its chunk."""
    return sum(map(_size, row.parts)) if row else 0


def read_row(record: Record, mapper: Mapper) -> tuple[Row | None, str | None]:
    """What a record says, or why that is unknown."""
    if record.error is not None:
        return None, record.error
    try:
        row = mapper.row(record.values)
    except InputError as error:
        return None, str(error)
    except RecursionError:
        return None, "the row is nested too deeply"
    except Exception as error:  # one row must not keep all others from being scored, today and at every restart
        return None, f"{type(error).__name__}: a bug in promptguard"
    if max(map(_size, row.parts)) > MOST_ROW_BYTES:
        return None, f"longer than {MOST_ROW_BYTES // 2**20} MB"
    return row, None


# --- scoring --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Answer:
    """A verdict that a worker is finding."""

    found: Future[list[Verdict]]
    at: int


class Scorer(Protocol):
    """Where verdicts are found.

    Attributes:
        waiting_chunks: chunks whose verdicts may be awaited at a time.
        chunk_rows: most rows of a chunk.
        job_pairs: most texts that are submitted at a time.
    """

    waiting_chunks: int
    chunk_rows: int
    job_pairs: int

    def __enter__(self) -> Scorer: ...
    def __exit__(self, *error: object) -> None: ...

    def submit(self, pairs: list[Pair]) -> list[Verdict | _Answer]:
        """Verdicts, or answers that will be."""
        ...


class Serial:
    """Scores in this process.

    Args:
        guard: made by ``Settings.guard``.
        batched: whether windows are meant to run together.
    """

    waiting_chunks = 0

    def __init__(self, guard: Guard, *, batched: bool = False) -> None:
        self._guard = guard
        self.chunk_rows, self.job_pairs = _sizes(batched)

    def __enter__(self) -> Serial:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def submit(self, pairs: list[Pair]) -> list[Verdict | _Answer]:
        """Verdicts."""
        return list(score.score(self._guard, pairs))


class _Pool:
    """Scores in processes of their own, each with a guard."""

    def __init__(self, settings: Settings, workers: int) -> None:
        self.waiting_chunks = 2 + 2 * workers
        self.chunk_rows, self.job_pairs = _sizes(settings.batched)
        self._executor = ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), initializer=score.start, initargs=(settings,)
        )

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *error: object) -> None:
        self._executor.shutdown(wait=error[0] is None, cancel_futures=True)

    def submit(self, pairs: list[Pair]) -> list[Verdict | _Answer]:
        found = self._executor.submit(score.work, pairs)
        return [_Answer(found, at) for at in range(len(pairs))]


def _sizes(batched: bool) -> tuple[int, int]:
    """Most rows of a chunk and most texts that are submitted at a time."""
    return (_BATCHED_CHUNK_ROWS, _BATCHED_JOB_PAIRS) if batched else (CHUNK_ROWS, _JOB_PAIRS)


class ChunkScorer:
    """Rows to rows of the output; a text is scored once in each context. Every engine scores through this.

    Args:
        scorer: where verdicts are found.
        copy_text: also give the text and its context.
    """

    def __init__(self, scorer: Scorer, *, copy_text: bool) -> None:
        self._scorer, self._copy_text = scorer, copy_text
        self._known: OrderedDict[bytes, Verdict | _Answer] = OrderedDict()

    def ask(self, chunk: Chunk) -> None:
        """Ask for the verdicts that are not known yet."""
        new: dict[bytes, Pair] = {}
        keys = [[] if row is None else [pair_key(pair) for pair in row.parts] for _, _, row, _ in chunk.rows]
        for row_keys, (_, _, row, _) in zip(keys, chunk.rows, strict=True):
            for key, pair in zip(row_keys, row.parts if row else (), strict=True):
                if key in self._known:
                    self._known.move_to_end(key)
                else:
                    new.setdefault(key, pair)
        asked = list(new)
        found: dict[bytes, Verdict | _Answer] = {}
        for start in range(0, len(asked), self._scorer.job_pairs):
            job = asked[start : start + self._scorer.job_pairs]
            found |= zip(job, self._scorer.submit([new[key] for key in job]), strict=True)
        self._known |= found
        chunk.answers = [[(key, self._known[key]) for key in row_keys] for row_keys in keys]
        while len(self._known) > _KNOWN_VERDICTS:
            self._known.popitem(last=False)

    def rows(self, chunk: Chunk) -> list[dict[str, Any]]:
        """The rows of the output, one for each of a chunk that has been asked for."""
        numbered = enumerate(zip(chunk.rows, chunk.answers, strict=True), start=chunk.next_row)
        return [self._row(number, entry, answers) for number, (entry, answers) in numbered]

    def _row(self, number: int, entry: Entry, answers: Sequence[tuple[bytes, Verdict | _Answer]]) -> dict[str, Any]:
        file, line, row, error = entry
        place = {"row": number, "file": None if file is None else _sayable(file), "line": line}
        if row is None:
            return {**place, "status": "error", "error": error}
        verdicts = []
        for key, answer in answers:
            verdict = answer.found.result()[answer.at] if isinstance(answer, _Answer) else answer
            verdicts.append(verdict)
            if key in self._known:
                self._known[key] = verdict  # lets go of the other verdicts of its job
        at = max(range(len(verdicts)), key=lambda i: _rank(verdicts[i]))
        made = {**place, **row.about, **verdicts[at]}
        if self._copy_text:
            text, context = row.parts[at]
            made |= {"text": text, "context": json.dumps(_context(context))}
        return {name: _sayable(value) if isinstance(value, str) else value for name, value in made.items()}


# --- all of it ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Where a part begins.

    Attributes:
        part: its number.
        row: number of its first row.
        source: which source that row is in.
        taken: rows of that source before it.
    """

    part: int = 0
    row: int = 0
    source: int = 0
    taken: int = 0


class Run:
    """Reads, scores and writes parts.

    Args:
        folder: that of the output.
        about: the manifest's settings.
        sources: as they were when the scan began.
        scorer: where verdicts are found.
        finished: called with what is known of each finished part.
        dataset: the ``datasets.Dataset`` where the source is one.
        progress: called after each chunk with the rows just written and the share of the input that has been read.
        temporary: prefix of the names under which parts are written.
    """

    def __init__(
        self,
        folder: Path,
        about: Mapping[str, Any],
        sources: Sequence[Source],
        scorer: Scorer,
        finished: Callable[[dict[str, Any]], None],
        *,
        dataset: Any = None,
        progress: Callable[[Mapping[str, Any], float | None], None] | None = None,
        temporary: str = "",
    ) -> None:
        self._folder, self._about, self._sources, self._dataset = folder, about, sources, dataset
        self._waiting_chunks, self._chunk_rows = scorer.waiting_chunks, scorer.chunk_rows
        self._temporary = temporary
        self._finished, self._progress = finished, progress
        self._scorer = ChunkScorer(scorer, copy_text=about["copy_text"])
        self._mapper = Mapper(about["preset"], about["map"], about["turns"], about["policy"]["applications"])
        self._part: Part | None = None

    def parts(self, start: Start, *, only_one: bool = False) -> None:
        """Write the parts from ``start`` on, or that part alone; a scan without rows has one without rows."""
        self._number, self._after, self._counts = start.part, (start.source, start.taken), _counts()
        try:
            waiting: deque[Chunk] = deque()
            for chunk in self._chunks(start, only_one):
                self._scorer.ask(chunk)
                waiting.append(chunk)
                while len(waiting) > self._waiting_chunks:
                    self._write(waiting.popleft())
            while waiting:
                self._write(waiting.popleft())
            if self._part is not None or self._number == 0:
                self._finish_part(self._after)
        except BrokenProcessPool as error:
            raise BackendError("a worker process ended, perhaps for want of memory: run it again to go on") from error
        finally:
            if self._part is not None:
                self._part.abandon()
                self._part = None

    def _chunks(self, start: Start, only_one: bool) -> Iterator[Chunk]:
        row, taken = start.row, start.taken
        total = sum(source.size for source in self._sources)
        done = sum(source.size for source in self._sources[: start.source])
        most = self._about["part_rows"]
        chunk = Chunk(row)
        for index in range(start.source, len(self._sources)):
            source = self._sources[index]
            reader = Reader(source, skip=taken, dataset=self._dataset)
            for record in reader:
                taken += 1
                row += 1
                found, error = read_row(record, self._mapper)
                chunk.rows.append((source.path, record.line, found, error))
                chunk.characters += chunk_size(found)
                if len(chunk.rows) >= self._chunk_rows or chunk.characters >= CHUNK_CHARACTERS or row % most == 0:
                    chunk.after = (index + 1, 0) if record.last else (index, taken)
                    chunk.share = (done + reader.share * source.size) / total if total else None
                    yield chunk
                    if only_one and row % most == 0:
                        return
                    chunk = Chunk(row)
            done += source.size
            chunk.after = (index + 1, 0)
            taken = 0
        chunk.share = 1.0
        if chunk.rows:
            yield chunk
        self._after = chunk.after

    def _write(self, chunk: Chunk) -> None:
        written = self._scorer.rows(chunk)
        counts = _counts()
        for made, (_, _, read, _) in zip(written, chunk.rows, strict=True):
            error = made["status"] == "error"
            counts["rows"] += 1
            counts["errors"] += error
            counts["flagged"] += not error and made["decision"] != "allow"
            if read is not None:
                counts["presets"][read.preset] += 1
        for name, count in counts.items():
            self._counts[name] += count
        if self._part is None:
            self._part = self._begin_part()
        self._part.write(written)
        self._after = chunk.after
        if (chunk.next_row + len(written)) % self._about["part_rows"] == 0:
            self._finish_part(chunk.after)
        if self._progress is not None:
            self._progress(counts, chunk.share)

    def _begin_part(self) -> Part:
        about = self._about
        return begin_part(
            self._folder, self._number, about["format"], copy_text=about["copy_text"], temporary=self._temporary
        )

    def _finish_part(self, after: tuple[int, int]) -> None:
        if self._part is None:
            self._part = self._begin_part()
            self._part.write([])
        name = self._part.finish()
        self._part, self._number = None, self._number + 1
        self._finished({"file": name, **self._counts, "after": list(after)})
        self._counts = _counts()


def _counts() -> dict[str, Any]:
    return {"rows": 0, "errors": 0, "flagged": 0, "presets": Counter()}


def _rank(verdict: Verdict) -> tuple[float, float]:
    """How bad a verdict is: one that is missing is worse than *allow* and milder than anything flagged."""
    if verdict["status"] == "error":
        return 0.5, 0.0
    return severity(Decision(verdict["decision"])), verdict["risk"]


def _sayable(text: str) -> str:
    """A text that UTF-8 can hold: lone surrogates spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _context(context: Context) -> dict[str, Any]:
    return {name: value for name, value in asdict(context).items() if value}

"""A scan on a Ray cluster: the parts of ``promptguard.logs.run``, written by actors with a model each.

First the rows of every source are counted, so that the place where each part begins is known; then Ray Data's
``map_batches`` gives every part that is missing to an actor, which reads, scores and writes it as one machine would.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from promptguard.errors import BackendError, InputError, MissingExtraError, PromptGuardError
from promptguard.logs import score
from promptguard.logs.output import part_number
from promptguard.logs.readers import Reader
from promptguard.logs.run import Run, Serial, Start
from promptguard.logs.score import Settings
from promptguard.logs.sources import Source
from promptguard.runtime import onnxruntime

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before ray is imported: it reports to its makers otherwise

try:
    import pyarrow as pa
    import ray
    import ray.data
except ImportError as error:
    raise MissingExtraError("ray", "the engine ray") from error

_GPU = "CUDAExecutionProvider"
_FAILURES = (PromptGuardError, OSError, pa.ArrowException)


def run(
    folder: Path,
    about: Mapping[str, Any],
    sources: Sequence[Source],
    settings: Settings,
    parts: Sequence[Mapping[str, Any]],
    finished: Callable[[dict[str, Any]], None],
    progress: Callable[[Mapping[str, Any], float | None], None],
    workers: int | None,
) -> None:
    """Write the parts that are missing, in any order, on the cluster that Ray finds, else on this machine.

    Args:
        folder: that of the output; every node sees it, the sources and the model under the same paths.
        about: the manifest's settings.
        sources: files, as they were when the scan began.
        settings: what guards are made with.
        parts: what is known of the parts that are finished.
        finished: called with what is known of each part that has been finished now.
        progress: called after that with its counts and the share of parts that are finished.
        workers: actors; None for one a GPU where there are GPUs and onnxruntime can use them, else one a core.

    Raises:
        InputError: the cluster has fewer cores or GPUs than ``workers``.
        BackendError: a worker failed; what was finished stays.
    """
    with _cluster():
        resources = ray.cluster_resources()
        gpu = resources.get("GPU", 0) >= 1 and _GPU in onnxruntime.get_available_providers()
        most = int(resources["GPU" if gpu else "CPU"])
        if workers is not None and workers > most:
            raise InputError(f"the cluster has {most} {'GPUs' if gpu else 'cores'}, not {workers}")
        try:
            starts = _starts(_counted(sources), about["part_rows"])
            known = {part_number(part) for part in parts}
            missing = [start for start in starts if start.part not in known]
            done = len(starts) - len(missing)
            for part in _written(missing, workers or most, gpu, (folder.absolute(), about, sources, settings)):
                done += 1
                finished(part)
                progress(part, done / len(starts))
        except ray.exceptions.RayError as error:
            raise BackendError("Ray failed, run it again to go on; the cause is chained") from error


@contextmanager
def _cluster() -> Iterator[None]:
    """A cluster that is there, else one of this machine's cores that ends with the scan; quiet, without a dashboard."""
    ours = not ray.is_initialized()
    if ours:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    context = ray.data.DataContext.get_current()
    bars, context.enable_progress_bars = context.enable_progress_bars, False
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what fails is raised: its stack needs not be printed as well
    try:
        yield
    finally:
        logger.setLevel(level)
        context.enable_progress_bars = bars
        if ours:
            ray.shutdown()


def _dataset(rows: list[dict[str, Any]]) -> Any:
    """Rows as a dataset in which each is a block, and so a task, of its own."""
    return ray.data.from_items(rows, override_num_blocks=len(rows))


def _counted(sources: Sequence[Source]) -> list[int]:
    """How many rows each source has."""
    counts = [0] * len(sources)
    dataset = _dataset([{"source": index} for index in range(len(sources))])
    counted = dataset.map_batches(_count, fn_args=(sources, os.getcwd()), batch_size=1)
    for row in counted.iter_rows():
        _raise(row["failed"])
        counts[int(row["source"])] = int(row["rows"])
    return counts


def _count(batch: Mapping[str, Any], sources: Sequence[Source], cwd: str) -> dict[str, Any]:
    """In a worker: read sources without scoring; they must be what they were for the process that asks."""
    os.chdir(cwd)
    (index,) = batch["source"]
    rows, failed = 0, ""
    try:
        sources[index].check()
        rows = sum(1 for _ in Reader(sources[index]))
    except _FAILURES as error:
        failed = _said(error)
    return {"source": batch["source"], "rows": np.array([rows]), "failed": np.array([failed])}


def _said(error: BaseException) -> str:
    """What the process that asked is told: Ray would carry over the stack and lose the error."""
    return f"{type(error).__name__}: {error}"


def _raise(failed: str) -> None:
    if failed:
        raise BackendError(f"a worker failed, run it again to go on: {failed}")


def _starts(counts: Sequence[int], part_rows: int) -> list[Start]:
    """Where each part begins; without any row there is one."""
    ends = list(accumulate(counts))
    starts = []
    for part, row in enumerate(range(0, max(1, ends[-1]), part_rows)):
        source = bisect_right(ends, row)
        before = ends[source - 1] if source else 0
        starts.append(Start(part, row, source, row - before))
    return starts


def _written(missing: Sequence[Start], workers: int, gpu: bool, made_with: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
    """Have parts written; what is known of each as soon as it is finished."""
    if not missing:
        return
    columns = ("part", "row", "source", "taken")
    rows = [{name: getattr(start, name) for name in columns} for start in missing]
    written = _dataset(rows).map_batches(
        _Writer,
        fn_constructor_args=(*made_with, os.getcwd(), gpu),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(missing))),
        num_cpus=0 if gpu else 1,
        num_gpus=1 if gpu else None,
    )
    for batch in written.iter_batches(batch_size=None, prefetch_batches=0):
        for part, failed in zip(batch["finished"], batch["failed"], strict=True):
            _raise(failed)
            yield json.loads(part)


class _Writer:
    """An actor: one model, and the verdicts it remembers from part to part."""

    def __init__(
        self, folder: Path, about: Mapping[str, Any], sources: Sequence[Source], settings: Settings, cwd: str, gpu: bool
    ) -> None:
        os.chdir(cwd)
        self._made_with = (folder, about, sources, settings, gpu)
        self._run: Run | None = None
        self._finished = ""

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        start = Start(*(int(batch[name][0]) for name in ("part", "row", "source", "taken")))
        failed = ""
        try:
            self._run = self._run or self._open()
            self._run.parts(start, only_one=True)
        except _FAILURES as error:
            failed = _said(error)
        return {"finished": np.array([self._finished]), "failed": np.array([failed])}

    def _open(self) -> Run:
        folder, about, sources, settings, gpu = self._made_with
        settings = replace(settings, providers=(_GPU,) if gpu else score.CPU)
        guard = settings.guard()
        if guard.model != about["bundle"]:
            raise InputError("this node has another model under that path")
        return Run(folder, about, sources, Serial(guard, batched=gpu), self._finish, temporary=f"{uuid.uuid4().hex}-")

    def _finish(self, part: dict[str, Any]) -> None:
        self._finished = json.dumps(part)

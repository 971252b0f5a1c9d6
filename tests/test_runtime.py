from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tiny_bundle
from numpy.testing import assert_array_equal

from promptguard import runtime
from promptguard.errors import BackendError
from promptguard.runtime import Output, Runtime
from promptguard.training.graph import build

CPU = ["CPUExecutionProvider"]
CONTEXT = (9, 2017, 2024, 2748, 102)
WINDOW = (101, 7592, 2088, 2003, 4658, 102)


def opened(folder: Path, threads: int = 1) -> Runtime:
    return Runtime(folder / "model.onnx", threads=threads, providers=CPU)


def same(one: Output, two: Output) -> None:
    for a, b in ((one.logits, two.logits), (one.span_logits, two.span_logits), (one.embedding, two.embedding)):
        assert_array_equal(a, b)


def test_shapes(tiny: Path) -> None:
    output = opened(tiny).run(CONTEXT, WINDOW)
    assert output.logits.shape == (11,)
    assert output.span_logits.shape == (len(WINDOW) - 2,)
    assert output.embedding.shape == (64,)
    assert np.linalg.norm(output.embedding) == pytest.approx(1, abs=1e-5)
    assert opened(tiny).run((), (101, 102)).span_logits.shape == (0,)


def test_the_context_matters_and_the_order_of_runs_does_not(tiny: Path) -> None:
    one, two = opened(tiny), opened(tiny)
    with_context, without = one.run(CONTEXT, WINDOW), one.run((), WINDOW)
    assert not np.allclose(with_context.logits, without.logits, atol=1e-3)
    same(two.run((), WINDOW), without)
    same(two.run(CONTEXT, WINDOW), with_context)
    same(one.run(CONTEXT, WINDOW), with_context)  # from the cache now


def test_a_forgotten_context_is_read_again_to_the_same_result(tiny: Path) -> None:
    plain = opened(tiny)
    contexts = [(9, *range(2000, 2000 + n), 102) for n in (5, 30, 60, 90)]
    expected = [plain.run(c, WINDOW) for c in contexts]
    size = sum(k.nbytes for k in plain._contexts[contexts[-1]])
    for limit in (0, size, 2 * size):
        small = opened(tiny)
        small._cache_bytes = limit
        for context, output in [*zip(contexts, expected, strict=True)] * 2:
            same(small.run(context, WINDOW), output)
            assert small._cached_bytes == sum(k.nbytes for keys in small._contexts.values() for k in keys) <= limit


def test_threads_of_one_run_change_nothing(tiny: Path) -> None:
    window = (101, *range(3000, 3060), 102)
    same(opened(tiny, 1).run(CONTEXT, window), opened(tiny, 2).run(CONTEXT, window))


def test_callers_in_parallel_change_nothing(tiny: Path) -> None:
    shared, alone = opened(tiny), opened(tiny)
    jobs = [((9, 2000 + i % 7, 102), (101, *range(3000, 3010 + i % 5), 102)) for i in range(160)]
    expected = [alone.run(*job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        for output, wanted in zip(pool.map(lambda job: shared.run(*job), jobs), expected, strict=True):
            same(output, wanted)


def test_an_unknown_provider_is_refused_with_what_there_is(tiny: Path) -> None:
    with pytest.raises(BackendError, match=r"no NoSuchProvider.*CPUExecutionProvider"):
        Runtime(tiny / "model.onnx", threads=1, providers=["NoSuchProvider", *CPU])
    with pytest.raises(BackendError, match="CPUExecutionProvider"):
        Runtime(tiny / "model.onnx", threads=1, providers=[])


def test_a_graph_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(BackendError, match="could not open") as caught:
        opened(tmp_path)
    assert caught.value.__cause__ is not None


def test_ids_outside_the_vocabulary_fail_with_the_cause_chained(tiny: Path) -> None:
    with pytest.raises(BackendError, match="failed to run") as caught:
        opened(tiny).run((), (101, 10**6, 102))
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("name", ["cls.weight", "span.weight", "project.weight"])
def test_numbers_that_are_not_finite_are_an_error(tmp_path: Path, name: str) -> None:
    weights = tiny_bundle.weights()
    weights[name] = np.full_like(weights[name], np.nan)
    (tmp_path / "model.onnx").write_bytes(build(weights, "int8").SerializeToString())
    with pytest.raises(BackendError, match="not finite"):
        opened(tmp_path).run((), WINDOW)


@pytest.mark.parametrize(
    ("machine", "flags", "needed"),
    [
        ("aarch64", "", False),
        ("x86_64", "fpu avx2 avx512f avx512_vnni", False),
        ("x86_64", "fpu avx2 avx_vnni", False),
        ("AMD64", "fpu avx2 avx512f", True),
    ],
)
def test_products_of_eight_bits_are_made_safe_where_they_could_overflow(
    machine: str, flags: str, needed: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: {flags}\n", encoding="utf-8")
    monkeypatch.setattr(runtime.platform, "machine", lambda: machine)
    monkeypatch.setattr("builtins.open", lambda path, **rest: (tmp_path / "cpuinfo").open(**rest))
    assert runtime.needs_safe_int8() is needed


def test_without_knowing_the_processor_it_is_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, **rest: str) -> None:
        raise FileNotFoundError(path)

    monkeypatch.setattr(runtime.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr("builtins.open", refuse)
    assert runtime.needs_safe_int8()


def test_the_safe_setting_changes_nothing_here(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if runtime.needs_safe_int8():
        pytest.skip("this processor always needs it")
    plain = opened(tiny).run(CONTEXT, WINDOW)
    monkeypatch.setattr(runtime, "needs_safe_int8", lambda: True)
    same(opened(tiny).run(CONTEXT, WINDOW), plain)


# Processes of their own: what is tested ends or changes the process.

FORK = """
import os, sys
from pathlib import Path
from promptguard.runtime import Runtime

runtime = Runtime(Path(sys.argv[1]), threads=int(sys.argv[2]), providers=["CPUExecutionProvider"])
job = (9, 2017, 102), (101, *range(3000, 3040), 102)
before = runtime.run(*job)
session = runtime._session
for _ in range(runtime._turns):
    runtime.turn.acquire()  # other threads are in the middle of a run
for runs in (0, 2):
    child = os.fork()
    if not child:
        assert runtime._session is not session  # its threads stayed behind
        for _ in range(runs):
            after = runtime.run(*job)
            assert (after.logits == before.logits).all() and (after.span_logits == before.span_logits).all()
        sys.exit(17)  # an ordinary end, destructors and exit handlers included
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
for _ in range(runtime._turns):
    runtime.turn.release()
assert (runtime.run(*job).logits == before.logits).all()
print("all ended")
"""

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


def run_python(program: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_fork
@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_forked_child_reads_and_ends(tiny: Path, threads: str) -> None:
    assert run_python(FORK, str(tiny / "model.onnx"), threads) == "all ended"


TELEMETRY = """
import os
before = dict(os.environ)
import promptguard.runtime
assert dict(os.environ) == before, "the environment was changed"
print(len(os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="reads Linux's list of threads")
def test_the_engine_starts_without_its_telemetry() -> None:
    # An uploader would be a second thread; numpy is told to start none.
    quiet = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    assert run_python(TELEMETRY, **quiet) == "1"


def test_contexts_kept_is_what_the_cache_holds(tiny: Path) -> None:
    model = opened(tiny)
    model._cache_bytes = 50_000
    size = model.contexts_kept // 3
    contexts = [tuple(range(1000 + i, 1000 + i + size)) for i in range(4)]
    for context in contexts:
        model.run(context, WINDOW)
    assert list(model._contexts) == contexts[1:]

"""Scans on a Ray cluster of several nodes on this machine: what one machine writes, byte for byte."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_logs import half, parts, rows, write

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]

ray = pytest.importorskip("ray", reason="the extra ray is not installed")
pytest.importorskip("ray.data", reason="the extra ray is not installed")

from ray.cluster_utils import Cluster

from promptguard import BackendError, InputError
from promptguard.logs import Progress, read_scan, scan
from promptguard.logs import ray as engine
from promptguard.logs.output import Output


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    return half(tmp_path_factory.mktemp("bundle") / "half", tiny)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a cluster of two nodes, to which this process is connected."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 0, "include_dashboard": False})
    made.add_node(num_cpus=2, num_gpus=0)
    made.wait_for_nodes()
    ray.init(address=made.address, log_to_driver=False)
    yield made.address
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def logged(tmp_path: Path) -> Path:
    """Files of several formats, with rows that cannot be read, one of them damaged."""
    folder = tmp_path / "logs"
    folder.mkdir()
    made = rows(900)
    write(folder / "a.jsonl", [*made[:250], b"{", {"x": 1}, *made[250:400]])
    (folder / "b.jsonl").write_bytes(b"")
    packed = gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in made[400:600]))
    (folder / "c.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    write(folder / "d.jsonl", made[600:])
    return folder


def manifest(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())
    return value


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_parts_and_manifest_are_those_of_one_machine(
    tmp_path: Path, bundle: Path, cluster: str, logged: Path, form: Any
) -> None:
    settings: Any = {"model": bundle, "part_rows": 90, "format": form, "copy_text": True}
    seen: list[Progress] = []
    one = scan(logged, tmp_path / "one", **settings)
    many = scan(logged, tmp_path / "many", engine="ray", workers=3, progress=seen.append, **settings)
    assert len(parts(one.folder)) >= 8
    assert parts(many.folder) == parts(one.folder)
    assert manifest(many.folder) == manifest(one.folder)
    assert sorted(path.name for path in many.folder.iterdir()) == sorted(path.name for path in one.folder.iterdir())
    assert (many.rows, many.errors, many.flagged, many.presets) == (one.rows, one.errors, one.flagged, one.presets)
    assert many.errors >= 3
    assert seen[-1].rows == many.rows
    assert seen[-1].share == 1
    assert len(seen) == len(parts(many.folder))


def test_it_is_scored_by_several_processes_on_every_node(
    tmp_path: Path, bundle: Path, cluster: str, logged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = tmp_path / "who"
    who.mkdir()

    class Telling(engine._Writer):
        def __call__(self, batch: Any) -> Any:
            (who / f"{ray.get_runtime_context().get_node_id()}-{os.getpid()}").touch()
            time.sleep(0.5)  # so that none has done all before the others have begun
            return super().__call__(batch)

    monkeypatch.setattr(engine, "_Writer", Telling)
    scan(logged, tmp_path / "out", engine="ray", workers=4, model=bundle, part_rows=50)
    seen = [path.name.split("-") for path in who.iterdir()]
    assert len(seen) == 4
    assert len({node for node, _ in seen}) == 2


def test_what_is_finished_is_not_scored_again(tmp_path: Path, bundle: Path, cluster: str, logged: Path) -> None:
    settings: Any = {"model": bundle, "part_rows": 90}
    one = scan(logged, tmp_path / "one", **settings)

    def stop(now: Progress) -> None:
        if now.share is not None and now.share > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(logged, tmp_path / "many", engine="ray", workers=2, progress=stop, **settings)
    held = Output(tmp_path / "many")
    before = {part["file"]: (tmp_path / "many" / part["file"]).stat().st_ino for part in held.finished_parts()}
    held.close()
    assert 2 <= len(before) < len(parts(one.folder))
    many = scan(logged, tmp_path / "many", engine="ray", workers=2, **settings)
    assert parts(many.folder) == parts(one.folder)
    assert manifest(many.folder) == manifest(one.folder)
    assert {name: (tmp_path / "many" / name).stat().st_ino for name in before} == before
    assert many.resumed > 0


@pytest.mark.parametrize("engines", [("local", "ray"), ("ray", "local")])
def test_either_engine_goes_on_with_what_the_other_began(
    tmp_path: Path, bundle: Path, cluster: str, logged: Path, engines: tuple[Any, Any]
) -> None:
    settings: Any = {"model": bundle, "part_rows": 90}
    one = scan(logged, tmp_path / "one", **settings)

    def stop(now: Progress) -> None:
        if now.rows == one.rows:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        scan(logged, out, engine=engines[0], progress=stop, **settings)
    # As if the second part had not been finished, and the others from the last to the first.
    progress = out / ".work" / "progress.jsonl"
    lines = sorted(progress.read_text().splitlines(keepends=True), reverse=True)
    assert "part-00001" in lines[-2]
    progress.write_text("".join([*lines[:-2], lines[-1]]))
    many = scan(logged, out, engine=engines[1], **settings)
    assert parts(out) == parts(one.folder)
    assert manifest(out) == manifest(one.folder)
    kept = sum(json.loads(line)["rows"] for line in lines) - 90
    assert kept >= 450
    assert many.resumed == (kept if engines[1] == "ray" else 90)


def test_it_goes_on_after_a_kill(tmp_path: Path, bundle: Path, cluster: str, logged: Path) -> None:
    out = tmp_path / "out"
    code = (
        "import sys; from promptguard.logs import scan; "
        "scan(sys.argv[1], sys.argv[2], model=sys.argv[3], engine='ray', workers=2, part_rows=40)"
    )
    call = [sys.executable, "-c", code, str(logged), str(out), str(bundle)]
    process = subprocess.Popen(call, env={**os.environ, "RAY_ADDRESS": cluster}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(out.glob("part-*"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert manifest(out)["status"] == "running"
    one = scan(logged, tmp_path / "one", model=bundle, part_rows=40)
    scan(logged, out, model=bundle, engine="ray", workers=2, part_rows=40)
    assert parts(out) == parts(one.folder)
    assert manifest(out) == manifest(one.folder)


def test_a_scan_without_rows(tmp_path: Path, bundle: Path, cluster: str) -> None:
    source = write(tmp_path / "a.jsonl", [])
    result = scan(source, tmp_path / "out", model=bundle, engine="ray")
    assert result.rows == 0
    assert read_scan(result.folder).count_rows() == 0


def test_what_fails_in_a_worker_is_named(
    tmp_path: Path, bundle: Path, cluster: str, logged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="the cluster has 4 cores, not 5"):
        scan(logged, tmp_path / "out", model=bundle, engine="ray", workers=5)
    with pytest.raises(InputError, match="no dataset and no standard input"):
        scan("-", tmp_path / "new", model=bundle, engine="ray")
    counted = engine._counted

    def then_changed(sources: Any) -> Any:
        (logged / "a.jsonl").write_bytes(b"{}\n")
        return counted(sources)

    monkeypatch.setattr(engine, "_counted", then_changed)
    with pytest.raises(BackendError, match=r"a worker failed.*InputError.*a\.jsonl has changed"):
        scan(logged, tmp_path / "out", model=bundle, engine="ray")


def test_a_cluster_of_its_own_reports_nothing_and_has_no_dashboard(tmp_path: Path, bundle: Path) -> None:
    source = write(tmp_path / "a.jsonl", rows(3))
    code = """
import sys
from promptguard.logs import scan
def look(now):
    import ray
    from ray._common.usage import usage_lib
    print(usage_lib.usage_stats_enabled(), repr(ray._private.worker.global_worker.node.address_info["webui_url"] or ""))
scan(sys.argv[1], sys.argv[2], model=sys.argv[3], engine="ray", workers=1, progress=look)
import ray
print(ray.is_initialized())
"""
    call = [sys.executable, "-c", code, str(source), str(tmp_path / "out"), str(bundle)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_USAGE_STATS_ENABLED"}
    done = subprocess.run(
        call, env={**environment, "RAY_ADDRESS": "local"}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.splitlines() == ["False ''", "False"], done.stderr

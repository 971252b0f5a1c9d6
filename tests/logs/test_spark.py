"""Scoring with Spark on a local cluster of several workers: the rows that one machine writes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_logs import half, rows

pytestmark = [pytest.mark.spark, pytest.mark.filterwarnings("default")]

pytest.importorskip("pyspark", reason="the extra spark is not installed")
if not (os.environ.get("JAVA_HOME") or shutil.which("java")):
    pytest.skip("SPARK IS NOT TESTED: there is no Java here", allow_module_level=True)

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from promptguard import InputError
from promptguard.logs import read_scan, scan
from promptguard.logs.spark import score


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    return half(tmp_path_factory.mktemp("bundle") / "half", tiny)


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A session on a master and two workers, each a process of its own with a core."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        session = (
            SparkSession.builder.master("local-cluster[2,1,1024]")
            .config("spark.ui.enabled", "false")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.sql.warehouse.dir", str(tmp_path_factory.mktemp("warehouse")))
            .config("spark.sql.files.maxPartitionBytes", "8k")
            .config("spark.sql.files.openCostInBytes", "0")
            .config("spark.sql.session.timeZone", "UTC")
            .getOrCreate()
        )
        yield session
        session.stop()


@pytest.fixture
def logged(tmp_path: Path) -> Path:
    """One file of several row groups, with rows that no preset recognises."""
    made = rows(700)
    for i in (3, 500):
        del made[i]["text"]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(made), path, row_group_size=100, compression="none")
    return path


@pytest.mark.parametrize("copy_text", [False, True])
def test_rows_are_those_of_one_machine(tmp_path: Path, bundle: Path, spark: Any, logged: Path, copy_text: bool) -> None:
    one = scan(logged, tmp_path / "one", model=bundle, copy_text=copy_text)
    df = spark.read.parquet(str(logged))
    assert df.rdd.getNumPartitions() > 2
    scored = score(df, model=bundle, copy_text=copy_text).toArrow()
    expected = read_scan(one.folder).to_table()
    assert scored.num_rows == expected.num_rows == 700
    assert scored.column_names == expected.column_names
    assert scored["row"].to_pylist() == list(range(700))
    assert set(scored["file"].to_pylist()) == set(scored["line"].to_pylist()) == {None}
    for name in set(expected.column_names) - {"file", "line"}:
        found, wanted = scored[name], expected[name]
        if name == "near_hash":
            found = pa.chunked_array([chunk.view(pa.uint64()) for chunk in found.chunks])
        assert found.to_pylist() == wanted.to_pylist(), name  # floats too: they are compared exactly
    assert scored["status"].to_pylist().count("error") == 2
    assert scored["vector"].null_count < 600


def test_it_is_scored_by_several_processes(bundle: Path, spark: Any, logged: Path) -> None:
    df = spark.read.parquet(str(logged))

    def who(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import time

        time.sleep(0.5)
        for batch in batches:
            yield pa.RecordBatch.from_pydict({"who": [os.environ["SPARK_EXECUTOR_DIRS"]] * batch.num_rows})

    executors = score(df, model=bundle).mapInArrow(who, "who string").distinct().collect()
    assert len(executors) == 2


def test_a_dataframe_that_changes_is_refused(bundle: Path, spark: Any) -> None:
    def other_each_time(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import time

        for _ in batches:
            yield pa.RecordBatch.from_pydict({"text": ["hello"] * (1 + time.time_ns() // 1000 % 1009)})

    scored = score(spark.range(1).coalesce(1).mapInArrow(other_each_time, "text string"), model=bundle)
    with pytest.raises(Exception, match="another number of rows when it was counted"):
        scored.toArrow()


def test_wrong_arguments(bundle: Path, spark: Any) -> None:
    df = spark.createDataFrame([("hello",)], "said string")
    with pytest.raises(InputError, match="preset"):
        score(df, model=bundle, preset="no such")
    assert score(df, model=bundle, map={"text": "said"}).toArrow()["status"].to_pylist() == ["ok"]
    empty = spark.createDataFrame([], "text string")
    assert score(empty, model=bundle).toArrow().num_rows == 0


def test_the_example_runs() -> None:
    example = Path(__file__).parent.parent.parent / "examples" / "spark_scan.py"
    done = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "decision" in done.stdout
    assert "u2" in done.stdout

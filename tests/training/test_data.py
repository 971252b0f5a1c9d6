"""The splits of our own records: nothing stands in two of them."""

from __future__ import annotations

import pytest

pytest.importorskip("datasketch", reason="needs the train extra")

from promptguard.errors import RecordError
from promptguard.intents import INTENTS
from promptguard.training import data

pytestmark = [
    pytest.mark.train,
    pytest.mark.skipif(not (data.OURS / "context").exists(), reason="the records are not part of the wheel"),
]


@pytest.fixture(scope="module")
def records() -> list[data.Record]:
    return list(data.own_records(data.OURS, seed=7))


def test_every_record_is_well_formed(records: list[data.Record]) -> None:
    assert len(records) > 10_000
    for record in records:
        assert record["split"] in data.SPLITS
        assert set(record["labels"]) <= set(INTENTS)
        assert "out_of_scope" not in record["labels"] or len(record["labels"]) == 1
        for start, end in record["spans"] or ():
            assert 0 <= start < end <= len(record["text"])


def test_groups_and_applications_stay_together(records: list[data.Record]) -> None:
    written = [r for r in records if r["source"] != "composed"]
    for key in (lambda r: r["pair_id"], lambda r: r["context"].get("system_prompt")):
        where: dict[str, set[str]] = {}
        for record in written:
            value = key(record)
            if (value and len(value) > 20) or (value and value == record["pair_id"]):
                where.setdefault(value, set()).add(record["split"])
        assert where
        assert all(len(splits) == 1 for splits in where.values())


def test_near_duplicates_of_held_out_texts_leave_training() -> None:
    base = {"context": {}, "labels": [], "family": "benign", "source": "x"}
    text = "please tell me how long the parcel to my aunt in Lisbon will take if I send it on Monday"
    rows = [
        {**base, "text": text, "split": "report"},
        {**base, "text": text.replace("Monday", "Tuesday"), "split": "train"},
        {**base, "text": "an entirely different question about the opening hours of the museum", "split": "train"},
    ]
    kept, removed = data.drop_near_duplicates(rows)
    assert removed == 1
    assert rows[2] in kept


@pytest.mark.parametrize(
    ("row", "field"), [('{"text": "b", "labels": ["mischief"]}', "labels"), ('{"text": ["b"], "labels": []}', "text")]
)
def test_a_bad_row_names_file_line_and_field(tmp_path, row: str, field: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "labels": []}\n' + row + "\n")
    with pytest.raises(RecordError) as caught:
        list(data.read_jsonl(path))
    assert (caught.value.line, caught.value.field) == (2, field)

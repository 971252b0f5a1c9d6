"""Score a file of records, one JSON object a line with ``text`` and ``context``.

python examples/many_records.py records.jsonl > scored.jsonl
"""

import json
import sys
from itertools import islice
from pathlib import Path

from promptguard import Guard

guard = Guard(mode="low-alarm")
path = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "records.jsonl")
with path.open(encoding="utf-8") as lines:
    records = (json.loads(line) for line in lines)
    while chunk := list(islice(records, 256)):
        for record, analysis in zip(chunk, guard.analyze_many((r["text"], r["context"]) for r in chunk), strict=True):
            print(json.dumps({"id": record["id"], "decision": analysis.decision.value, "risk": analysis.risk}))

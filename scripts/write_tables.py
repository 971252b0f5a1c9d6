"""Put the figures of result files into README.md and pages of docs/, between their markers.

    python scripts/write_tables.py

Nothing in those tables is typed by hand: ``<!-- table: NAME -->`` starts one, ``<!-- end -->`` ends it.
"""

from __future__ import annotations

import re
from pathlib import Path

from tables import logs, peers, quality, speed, training

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DOCS = ("model-card.md", "training-runs.md", "logs.md", "scale.md", "options.md", "bench.md", "speed.md")
PAGES = (ROOT / "README.md", *(ROOT / "docs" / name for name in DOCS))


def main() -> None:
    tables: dict[str, str] = {}
    for subject in (quality, training, peers, speed, logs):
        tables |= subject.tables(RESULTS)
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name, table in tables.items():
            pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
            text = pattern.sub(lambda match, table=table: match.group(1) + table + match.group(2), text)
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

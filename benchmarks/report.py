"""How long the report of a scan takes, how much memory, and how fast a browser opens it.

The scan is made up by the generator of the tests: the report does not care what scored the rows.

    python benchmarks/report.py --rows 1000000 --out benchmarks/results/report.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def opened(page: str) -> float:
    """Seconds from starting a browser until it has loaded and laid out a page."""
    with tempfile.TemporaryDirectory() as profile:
        began = time.perf_counter()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        command = [str(BROWSER), *flags, f"--user-data-dir={profile}", "--dump-dom", page]
        subprocess.run(command, capture_output=True, check=True, timeout=120)
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scan, page = Path(folder) / "scan", Path(folder) / "report.html"
        make = (
            "import sys, pathlib, made_scan as m; "
            "m.write(pathlib.Path(sys.argv[2]), m.table(m.planted(m.rows(int(sys.argv[1]), text=True))), shards=8)"
        )
        tests = Path(__file__).parent.parent / "tests" / "logs"
        path = os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path}
        subprocess.run([sys.executable, "-c", make, str(arguments.rows), str(scan)], check=True, env=environment)

        from promptguard.logs import report

        began = time.perf_counter()
        numbers = report(scan, page)
        figures = {
            "date": datetime.now(UTC).date().isoformat(),
            "cores": os.cpu_count(),
            "load_before": round(os.getloadavg()[0], 1),
            "python": platform.python_version(),
            "rows": numbers["counts"]["rows"],
            "flagged": numbers["counts"]["flagged"],
            "actors": numbers["actors"]["number"],
            "seconds": round(time.perf_counter() - began, 1),
            "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000),
            "page_kb": round(page.stat().st_size / 1000),
            "json_kb": round(page.with_suffix(".json").stat().st_size / 1000),
        }
        if BROWSER is None:
            print("no browser here: not opened", file=sys.stderr)
        else:
            pages = {"browser_opens_s": page.as_uri(), "browser_opens_blank_s": "about:blank"}
            figures |= {name: round(min(opened(uri) for _ in range(3)), 2) for name, uri in pages.items()}
    print(json.dumps(figures, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

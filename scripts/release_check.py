"""Check a built wheel: what is in it, and that it works alone in a new virtual environment.

python scripts/release_check.py dist/promptguard_intent-0.1.0-py3-none-any.whl
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

MOST_MEGABYTES = 45
NEEDED = ("promptguard/py.typed", "promptguard/model/model.onnx", "promptguard/model/manifest.json")
CALL = """
import socket
def refuse(*_, **__):
    raise OSError("the network is off in this check")
socket.socket.connect = refuse
import promptguard
analysis = promptguard.analyze("What are your opening hours?", "chat of a library")
assert 0 <= analysis.risk <= 1
print(promptguard.__version__, analysis.model, analysis.decision.value)
"""


def main(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    megabytes = wheel.stat().st_size / 1e6
    missing = [name for name in NEEDED if name not in names]
    stray = [name for name in names if "promptguard/training/data/" in name or name.startswith(("tests", "benchmarks"))]
    if missing or stray or megabytes > MOST_MEGABYTES:
        raise SystemExit(f"missing {missing}, stray {stray[:5]}, {megabytes:.1f} MB (at most {MOST_MEGABYTES})")
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel.resolve())], check=True)
        subprocess.run([python, "-I", "-c", CALL], check=True, cwd=folder)
    print(f"{wheel.name}: {len(names)} files, {megabytes:.1f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

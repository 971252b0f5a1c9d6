"""When, with what and where figures were made."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from promptguard import __version__

_DISTRIBUTIONS = (
    "numpy", "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "tokenizers", "scikit-learn", "scipy",
)  # fmt: skip


def provenance(arguments: Sequence[str]) -> dict[str, Any]:
    """When, with what and where the figures were made: what a results file must say.

    Args:
        arguments: the command line; of absolute paths only the last part is kept.

    Returns:
        ``date``, ``command``, ``machine``, ``commit``, ``dirty`` (both None outside a checkout), ``versions``.
    """
    here = Path(__file__).resolve()
    tracked = _git(here, "ls-files", "--error-unmatch", here.name)
    changes = _git(here, "status", "--porcelain", "--untracked-files=no", "--", ":/") if tracked else None
    versions = {"promptguard": __version__, "python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(_last_part(argument) for argument in arguments),
        "machine": {"platform": platform.platform(), "cpu": _processor(), "cores": os.cpu_count()},
        "commit": _git(here, "rev-parse", "HEAD") if tracked else None,
        "dirty": None if changes is None else bool(changes),
        "versions": versions,
    }


def _last_part(argument: str) -> str:
    """An argument without the folders of this machine."""
    option, equals, value = argument.rpartition("=") if argument.startswith("-") else ("", "", argument)
    return option + equals + (Path(value).name if Path(value).is_absolute() else value)


def _git(file: Path, *arguments: str) -> str | None:
    program = shutil.which("git")
    if program is None:
        return None
    done = subprocess.run(  # noqa: S603 - git, with fixed arguments
        [program, "-C", str(file.parent), *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())

"""The machine that figures belong to, and what it can be asked to do."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from promptguard.errors import InputError
from promptguard.runtime import cores, needs_safe_int8, onnxruntime

FLAGS = (
    "sse4_1", "avx2", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "avx512_bf16", "amx_tile",
    "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip
"""Processor flags that decide which matrix kernels can be used."""

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
"""Names on the command line, and onnxruntime's."""

CPU = PROVIDERS["cpu"]

SAME = ("cpu", "architecture", "cores", "flags", "gpus")
"""Facts that make two machines the same for a comparison of times."""


def machine() -> dict[str, Any]:
    """What of this machine decides its speed.

    Returns:
        ``cpu``, ``architecture``, ``platform``, ``cores`` (that this process may use), ``flags``, ``memory_bytes``,
        ``gpus``, ``load`` (of the last minute), ``safe_int8`` (whether 8-bit products take the slower kernels that
        cannot overflow). What the system does not say is None, or an empty list.
    """
    processor, flags = _processor()
    try:
        load: float | None = round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        load = None
    return {
        "cpu": processor,
        "architecture": platform.machine(),
        "platform": platform.platform(),
        "cores": cores(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "memory_bytes": _memory(),
        "gpus": _gpus(),
        "load": load,
        "safe_int8": needs_safe_int8(),
    }


def provider_named(name: str) -> str:
    """The full name of an execution provider that is installed.

    Args:
        name: ``cpu``, ``cuda``, ``tensorrt``, ``openvino``, or onnxruntime's own name.

    Raises:
        InputError: it is unknown or not installed; the message says what is.
    """
    available = installed()
    found = PROVIDERS.get(name.lower(), name)
    if found not in (*PROVIDERS.values(), *available):
        raise InputError(f"--provider {name!r:.40} is unknown: one of {', '.join(PROVIDERS)}")
    if found not in available:
        raise InputError(f"the installed onnxruntime has no {found}; it has {', '.join(available)}")
    return found


def installed() -> list[str]:
    """Execution providers of the installed onnxruntime."""
    return list(onnxruntime.get_available_providers())


def assigned(graph: Path, provider: str) -> dict[str, int] | None:
    """Which provider onnxruntime runs how many of a graph's operators on: being registered is not being used.

    Args:
        graph: the ONNX file.
        provider: the provider preferred; what it cannot do is left to the processor.

    Returns:
        Number of operators, or of groups that a provider runs as one, by provider; None where onnxruntime is too old to
        say.
    """
    if not hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"):
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(str(graph), options, providers=[provider])
    return dict(Counter(part.ep_name for part in session.get_provider_graph_assignment_info()))


def checked_workers(workers: int | None, threads: int, provider: str) -> int:
    """How many workers there shall be, with a core for every thread of theirs.

    Args:
        workers: as many as asked for; None for as many as there are cores for their threads, and for one on an
            accelerator.
        threads: of one run of the model.
        provider: the execution provider's full name.

    Raises:
        InputError: there are not so many cores, or a number is below 1.
    """
    if threads < 1 or (workers is not None and workers < 1):
        raise InputError("--workers and --threads must be at least 1")
    if workers is None:
        workers = max(1, cores() // threads) if provider == CPU else 1
    if workers * threads > cores():
        wanted = f"{workers} workers with {threads} threads each" if workers > 1 else f"{threads} threads"
        raise InputError(f"{wanted} are more than the {cores()} cores that this process may use")
    return workers


def _processor() -> tuple[str, set[str]]:
    """Name and flags of the first processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    said: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        said.setdefault(key.strip(), value.strip())
    name = said.get("model name") or platform.processor() or platform.machine()
    return name, set(said.get("flags", said.get("Features", "")).split())


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _gpus() -> list[str]:
    """Names of the GPUs, where NVIDIA's tool is there to say them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    return _lines([program, "--query-gpu=name", "--format=csv,noheader"])


def _lines(command: Sequence[str]) -> list[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)  # noqa: S603 - fixed
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []

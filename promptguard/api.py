"""``promptguard.analyze``: one shared guard for scripts and first steps."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from promptguard.types import Analysis, ContextLike

if TYPE_CHECKING:
    from promptguard.guard import Guard

_lock = threading.Lock()
_guard: Guard | None = None


def analyze(prompt: str, context: ContextLike = None) -> Analysis:
    """Analyse one text in its context with a shared ``Guard`` of default settings.

    Args:
        prompt: any string.
        context: a ``Context``, a mapping with its fields, a string (what the application is for) or None.

    Returns:
        The verdict.

    Raises:
        InputError, ModelError, BackendError: as ``Guard.analyze``.
    """
    global _guard
    if _guard is None:
        with _lock:
            if _guard is None:
                from promptguard.guard import Guard

                _guard = Guard()
    return _guard.analyze(prompt, context)


def _after_fork() -> None:
    """In the child: whoever held the lock did not survive the fork."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

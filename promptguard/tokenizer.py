"""Text to token ids, with character offsets, for hostile text.

WordPiece as published loses text in three ways that an attacker can use: a word that holds one
unknown character becomes a single unknown piece, so does any run of more than 100 characters, and a
text that spells ``[SEP]`` yields a real separator. ``prepare`` writes a tokenizer without these; loading
sets again what the file format does not keep.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from promptguard.errors import ModelCorrupt

CLS = 101
SEP = 102
UNK = 100
PAD = 0
_LONGEST_WORD = 64
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # all but tab and line ends


@dataclass(frozen=True, slots=True)
class Encoded:
    """Tokens of a text.

    Attributes:
        ids: token ids, without any special token; never shown in a repr.
        offsets: for each token the characters ``[start, end)`` it stands for.
        continues: for each token whether it continues the word before it.
    """

    ids: list[int] = field(repr=False)
    offsets: list[tuple[int, int]]
    continues: list[bool]


class Tokenizer:
    """A loaded ``tokenizer.json``. Safe to share between threads.

    Args:
        path: the file.

    Raises:
        ModelCorrupt: the file cannot be read as a tokenizer.
    """

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Backend
        from tokenizers.pre_tokenizers import BertPreTokenizer

        try:
            self._backend = Backend.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ModelCorrupt(f"{path.name} is not a readable tokenizer") from error
        self._backend.no_truncation()
        self._backend.no_padding()
        # Kept by no file format: without it a text that spells [SEP] would yield a real separator.
        self._backend.encode_special_tokens = True
        # The same for text of which nothing has to be set apart, cut or dropped, in half the time.
        self._plain = Backend(self._backend.model)
        self._plain.pre_tokenizer = BertPreTokenizer()

    def encode(self, text: str) -> Encoded:
        """Tokenize any string; surrogates yield no token, like other characters that show nothing."""
        encoding = self._encoding(text)
        ids = encoding.ids
        words = encoding.word_ids
        continues = [i > 0 and words[i] == words[i - 1] for i in range(len(ids))]
        return Encoded(ids, encoding.offsets, continues)

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        ids: list[int] = self._encoding(text).ids
        return ids

    def pieces(self, text: str) -> int:
        """Number of tokens of a text; fewer a character means closer to language."""
        return len(self._encoding(text))

    def _encoding(self, text: str) -> Any:
        if text.isascii() and not _CONTROL.search(text) and max(map(len, text.split()), default=0) < _LONGEST_WORD:
            return self._plain.encode(text.lower(), add_special_tokens=False)
        try:
            return self._backend.encode(text, add_special_tokens=False)
        except (UnicodeEncodeError, TypeError):
            # It takes no surrogates. What stands for them keeps the offsets; the normalizer then drops it.
            return self._backend.encode(_SURROGATE.sub("\ufffd", text), add_special_tokens=False)


def prepare(base: Path, target: Path) -> None:
    """Write a tokenizer that hides nothing, from a published uncased WordPiece one.

    Every character the vocabulary does not know is set apart as a piece of its own, and runs are cut
    before the length at which WordPiece gives up.

    Args:
        base: the published ``tokenizer.json``.
        target: the file to write.
    """
    settings = json.loads(base.read_text(encoding="utf-8"))
    known = sorted({c for piece in settings["model"]["vocab"] for c in piece.removeprefix("##")})
    unknown = "[^" + "".join(f"\\x{{{ord(c):X}}}" for c in known) + "]"
    settings["truncation"] = None
    settings["padding"] = None
    settings["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "BertPreTokenizer"},
            {"type": "Split", "pattern": {"Regex": unknown}, "behavior": "Isolated", "invert": False},
            {
                "type": "Split",
                "pattern": {"Regex": f".{{{_LONGEST_WORD}}}"},
                "behavior": "Isolated",
                "invert": False,
            },
        ],
    }
    target.write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")

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
from functools import lru_cache
from pathlib import Path

from promptguard.errors import ModelCorrupt

CLS = 101
SEP = 102
UNK = 100
PAD = 0
_LONGEST_WORD = 64
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # what is dropped, of ASCII
# Words and signs as the tokenizer that ``prepare`` writes sets them apart in ASCII. The pieces of one do not depend on
# its neighbours: those of frequent words are kept, which is three times as fast as tokenizing the text.
_ASCII_WORD = re.compile(rf"[a-z0-9]{{1,{_LONGEST_WORD}}}|[!-/:-@\[-`{{-~]")
_WORDS_KEPT = 8192


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

        try:
            self._backend = Backend.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ModelCorrupt(f"{path.name} is not a readable tokenizer") from error
        self._backend.no_truncation()
        self._backend.no_padding()
        # Kept by no file format: without it a text that spells [SEP] would yield a real separator.
        self._backend.encode_special_tokens = True
        self._word = lru_cache(maxsize=_WORDS_KEPT)(self._word_uncached)

    def encode(self, text: str) -> Encoded:
        """Tokenize any string; surrogates yield no token, like other characters that show nothing."""
        if not text.isascii() or _CONTROL.search(text):
            return Encoded(*self._tokens(text))
        encoded = Encoded([], [], [])
        for match in _ASCII_WORD.finditer(text.lower()):
            start = match.start()
            for token, (first, last), continues in self._word(match[0]):
                encoded.ids.append(token)
                encoded.offsets.append((start + first, start + last))
                encoded.continues.append(continues)
        return encoded

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        return self.encode(text).ids

    def pieces(self, text: str) -> int:
        """Number of tokens of a text; fewer a character means closer to language."""
        return len(self.encode(text).ids)

    def _word_uncached(self, word: str) -> tuple[tuple[int, tuple[int, int], bool], ...]:
        return tuple(zip(*self._tokens(word), strict=True))

    def _tokens(self, text: str) -> tuple[list[int], list[tuple[int, int]], list[bool]]:
        """Ids, offsets, and whether each token continues a word."""
        try:
            encoding = self._backend.encode(text, add_special_tokens=False)
        except (UnicodeEncodeError, TypeError):
            # It takes no surrogates. What stands for them keeps the offsets; the normalizer then drops it.
            encoding = self._backend.encode(_SURROGATE.sub("\ufffd", text), add_special_tokens=False)
        words = encoding.word_ids
        return encoding.ids, encoding.offsets, [i > 0 and word == words[i - 1] for i, word in enumerate(words)]


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

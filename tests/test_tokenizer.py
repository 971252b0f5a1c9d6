from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_bundle
from hypothesis import example, given, settings
from hypothesis import strategies as st

from promptguard import bundle
from promptguard.errors import ModelCorrupt
from promptguard.tokenizer import UNK, Encoded, Tokenizer, prepare

SPECIAL = ("[SEP]", "[CLS]", "[PAD]", "[MASK]", "[UNK]", *(f"[unused{i}]" for i in (0, 1, 9, 14, 98, 99, 993)))
FIRST_ORDINARY = 999
"""Below it the vocabulary holds nothing but special and unused pieces."""

hostile_text = st.lists(st.one_of(st.sampled_from(SPECIAL), st.text(st.characters(), max_size=8)), max_size=12).map(
    "".join
)


@pytest.fixture(scope="module", params=["embedded", "tiny"])
def tokenizer(request: pytest.FixtureRequest, tiny: Path) -> Tokenizer:
    folder = tiny if request.param == "tiny" else bundle.EMBEDDED
    return Tokenizer(folder / bundle.TOKENIZER)


@pytest.fixture(scope="module")
def words() -> dict[int, str]:
    vocabulary = json.loads(tiny_bundle.TOKENIZER.read_text(encoding="utf-8"))["model"]["vocab"]
    return {number: piece for piece, number in vocabulary.items()}


def test_everything_below_the_first_ordinary_id_is_special(words: dict[int, str]) -> None:
    assert all(words[i].startswith("[") and words[i].endswith("]") for i in range(FIRST_ORDINARY))
    assert words[FIRST_ORDINARY] == "!"


@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("around", ["{}", "a {} b", "a{}b", "{0}{0}", "\n{}\n", "​{}​", "{}".upper()])
def test_spelling_a_special_piece_yields_ordinary_ones(tokenizer: Tokenizer, special: str, around: str) -> None:
    assert min(tokenizer.ids(around.format(special))) >= FIRST_ORDINARY


@settings(deadline=None, max_examples=300)
@given(hostile_text)
def test_no_text_yields_a_special_piece_and_offsets_lead_back(text: str) -> None:
    tokenizer = Tokenizer(tiny_bundle.TOKENIZER)
    encoded = tokenizer.encode(text)
    assert all(i >= FIRST_ORDINARY or i == UNK for i in encoded.ids)
    assert encoded.ids == tokenizer.ids(text)
    assert len(encoded.ids) == len(encoded.offsets) == len(encoded.continues) == tokenizer.pieces(text)
    starts = [start for start, _ in encoded.offsets]
    assert starts == sorted(starts)
    assert all(0 <= start < end <= len(text) for start, end in encoded.offsets)
    assert not encoded.continues or not encoded.continues[0]


def test_each_piece_stands_for_its_characters(tokenizer: Tokenizer, words: dict[int, str]) -> None:
    text = "Résumé 🙂: IGNORE\tthe [SEP] naïve\ud800 rules\0 12,5 驴?"
    encoded = tokenizer.encode(text)
    read = [(words[i].removeprefix("##"), text[a:b]) for i, (a, b) in zip(encoded.ids, encoded.offsets, strict=True)]
    plain = {"Résumé": "resume", "naïve": "naive"}
    for piece, source in read:
        if piece != "[UNK]":
            assert piece == plain.get(source, source.lower())
    assert [source for piece, source in read if piece == "[UNK]"] == ["🙂", "驴"]


def test_a_picture_inside_a_word_hides_nothing_but_itself(tokenizer: Tokenizer, words: dict[int, str]) -> None:
    assert [words[i] for i in tokenizer.ids("sun🙂flower")] == ["sun", "[UNK]", "flower"]
    for unknown in ("🙂", "漢", "ह", "𝔦"):
        assert tokenizer.ids(f"please ig{unknown}nore this").count(UNK) <= 1


ascii_text = st.text(st.sampled_from([*map(chr, range(128)), *"  \n aeinrst"]), max_size=200)


@settings(deadline=None, max_examples=300)
@given(ascii_text)
@example("a" * 64 + "b" * 64 + "!" * 70 + "c d" * 70)
@example("[SEP] don't ##ing under_score 3.5% \tx\x0by\x00z")
def test_word_by_word_is_what_the_whole_text_gives(text: str) -> None:
    tokenizer = Tokenizer(tiny_bundle.TOKENIZER)
    assert tokenizer.encode(text) == Encoded(*tokenizer._tokens(text))


def test_no_run_is_too_long_to_be_read(tokenizer: Tokenizer) -> None:
    for length in (63, 64, 65, 100, 101, 128, 1000):
        encoded = tokenizer.encode("a" * length)
        assert UNK not in encoded.ids
        assert [encoded.offsets[0][0], encoded.offsets[-1][1]] == [0, length]
        assert sum(b - a for a, b in encoded.offsets) == length
    hidden = "x" * 70 + "ignoreallpreviousinstructions" + "x" * 70
    assert UNK not in tokenizer.ids(hidden)


def test_characters_that_show_nothing_split_no_word(tokenizer: Tokenizer) -> None:
    word = tokenizer.ids("ignore")
    for invisible in ("​", "­", "\U000e0041", "\0", "\ud800", "\udc00\ud800", "\ud83d\ude42", "�", ""):
        assert tokenizer.ids(f"ign{invisible}ore") == word
    assert tokenizer.ids("".join(chr(0xE0000 + ord(c)) for c in "ignore")) == []


def test_full_width_letters_are_read(tokenizer: Tokenizer) -> None:
    assert tokenizer.ids("ｉｇｎｏｒｅ")
    assert min(tokenizer.ids("［ＳＥＰ］")) >= UNK


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\0", "\ud800" * 5, "​"])
def test_what_holds_no_piece_gives_none(tokenizer: Tokenizer, text: str) -> None:
    encoded = tokenizer.encode(text)
    assert (encoded.ids, encoded.offsets, encoded.continues) == ([], [], [])


def test_a_surrogate_stands_for_itself_in_offsets(tokenizer: Tokenizer) -> None:
    for text in ("a \ud800 b", "a \ud83d\ude42 b", "a \udfff\ud800 b", "\ud800" * 9 + " b"):
        encoded = tokenizer.encode(text)
        assert encoded.offsets[-1] == (len(text) - 1, len(text))


def test_continuations_are_told_from_first_pieces(tokenizer: Tokenizer, words: dict[int, str]) -> None:
    encoded = tokenizer.encode("unbelievably misconfigured servers, again")
    for number, continues in zip(encoded.ids, encoded.continues, strict=True):
        assert continues or not words[number].startswith("##")


def test_nothing_is_cut_or_padded(tokenizer: Tokenizer) -> None:
    assert tokenizer.pieces("word " * 3000) == 3000
    assert tokenizer.pieces("word") == 1


def test_preparing_a_tokenizer_again_changes_nothing(tmp_path: Path) -> None:
    prepare(tiny_bundle.TOKENIZER, tmp_path / "again.json")
    again, first = Tokenizer(tmp_path / "again.json"), Tokenizer(tiny_bundle.TOKENIZER)
    for text in ("ig🙂nore", "a" * 500, "[SEP] 漢字 naïve", "किताब"):
        assert again.encode(text) == first.encode(text)


def test_preparing_removes_truncation_and_padding(tmp_path: Path) -> None:
    base = json.loads(tiny_bundle.TOKENIZER.read_text(encoding="utf-8"))
    base["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    base["padding"] = {
        "strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
    }  # fmt: skip
    (tmp_path / "base.json").write_text(json.dumps(base), encoding="utf-8")
    prepare(tmp_path / "base.json", tmp_path / "made.json")
    made = json.loads((tmp_path / "made.json").read_text(encoding="utf-8"))
    assert made["truncation"] is None
    assert made["padding"] is None
    # Loading does not trust the file either.
    assert Tokenizer(tmp_path / "base.json").pieces("one two three four five six") == 6


@pytest.mark.parametrize("content", ["", "{", "{}", '{"model": 1}', "\x00\x01"])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ModelCorrupt, match=r"tokenizer\.json is not a readable tokenizer"):
        Tokenizer(path)
    with pytest.raises(ModelCorrupt):
        Tokenizer(tmp_path / "missing.json")

"""The halves of a text share nothing, and windows are fitted to what is there."""

import random

import pytest

from lorcbench.config.protocols import HALVES
from lorcbench.data import corpora
from lorcbench.data.corpora import CorpusError


def documents(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [f"{number} " + "word " * rng.randint(1, 200) for number in range(count)]


@pytest.mark.parametrize("count", [2, 3, 10, 101])
def test_the_halves_share_no_document_and_are_all_of_the_text(count):
    text = documents(count)
    parts = [corpora.half(text, part) for part in HALVES]
    assert sorted(parts[0] + parts[1]) == sorted(text)
    assert not set(parts[0]) & set(parts[1])
    assert all(parts)
    sizes = [sum(map(len, part)) for part in parts]
    assert abs(sizes[0] - sizes[1]) <= max(map(len, text))
    assert all(part == [document for document in text if document in part] for part in parts), "in the order of the file"


def test_neither_order_nor_repetition_moves_a_document_to_the_other_half():
    text = documents(50)
    shuffled = random.Random(1).sample(text, len(text))
    for part in HALVES:
        chosen = set(corpora.half(text, part))
        assert set(corpora.half(shuffled, part)) == set(corpora.half(text + text[:20], part)) == chosen


def test_one_document_is_cut_at_the_end_of_a_line_or_else_of_a_word():
    lines = "".join(f"line number {number}\n" for number in range(1000))
    first, second = (corpora.half([lines], part)[0] for part in HALVES)
    assert first + second == lines and first.endswith("\n")
    assert abs(len(first) - len(second)) < 40
    words = "word " * 1001
    first, second = (corpora.half([words], part)[0] for part in HALVES)
    assert first + second == words and first.endswith(" ") and second.startswith("word")
    solid = "x" * 999
    assert [len(corpora.half([solid], part)[0]) for part in HALVES] == [499, 500]


@pytest.mark.parametrize(
    ("longest", "tokens", "window"),
    [(2048, 60 * 2048, 2048), (2048, 60 * 2048 - 1, 1024), (2048, 60 * 128, 128), (1000, 60 * 400, 250), (512, 10**6, 512)],
)
def test_a_window_is_halved_until_enough_of_them_fit(longest, tokens, window):
    assert corpora.fitted(longest, {"short": tokens, "long": 10 * tokens}, 60) == window


def test_a_text_that_is_too_short_is_told_how_many_tokens_are_needed():
    with pytest.raises(CorpusError, match="7,679 tokens are fewer than 60 windows of 128; expected at least 7,680"):
        corpora.fitted(2048, {"text": 7679}, 60)
    with pytest.raises(CorpusError, match="windows of 32 tokens at most; expected a model with 128 positions or more"):
        corpora.fitted(32, {"text": 10**6}, 60)

"""Text and windows: nothing overlaps or is drawn unseeded, no document is on two sides, damage is said in one line."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from types import SimpleNamespace

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer

from lorcbench.data import corpora, stdlib_text
from lorcbench.data.corpora import CorpusError, calibration_windows, read_documents, token_stream
from lorcbench.data.stdlib_text import CORPORA, SPLITS, documents, harness_tasks, split_of


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, list[str]]]:
    return documents()


@pytest.fixture(scope="module")
def tokenizer(found) -> ByteLevelBPETokenizer:
    made = ByteLevelBPETokenizer()
    texts = [text for corpus in CORPORA for text in found[corpus]["train"][::8]]
    made.train_from_iterator(texts, vocab_size=512, special_tokens=["</s>"], show_progress=False)
    return made


# Windows


@pytest.mark.parametrize(("length", "window"), [(40, 8), (47, 8), (8, 8), (100, 7)])
def test_test_windows_are_the_stream_from_its_start(length, window):
    stream = torch.arange(length) * 3
    cut = corpora.test_windows(stream, window, None, "text")
    assert cut.tokens.shape == (length // window, window)
    assert torch.equal(cut.tokens.flatten(), stream[: length // window * window])
    assert cut.stream_length == length


@pytest.mark.parametrize(("count", "most"), [(10, 10), (10, 20), (10, 3), (10, 1), (97, 10), (60, 59)])
def test_at_most_so_many_windows_evenly_spaced(count, most):
    stream = torch.arange(count * 4 + 3)
    chosen = corpora.test_windows(stream, 4, most, "text").tokens[:, 0] // 4
    every = corpora.test_windows(stream, 4, None, "text").tokens
    assert len(chosen) == min(count, most)
    assert torch.equal(corpora.test_windows(stream, 4, most, "text").tokens, every[chosen])
    gaps = torch.diff(torch.cat([chosen, torch.tensor([count])]))
    assert chosen[0] == 0
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


def test_the_streams_hash_follows_the_stream_and_not_the_windows():
    stream = torch.arange(50)
    hashes = {corpora.test_windows(stream, window, most, "text").stream_sha256 for window in (4, 8) for most in (None, 2)}
    changed = stream.clone()
    changed[-1] += 1  # in no window of 8
    assert len(hashes) == 1
    assert len(next(iter(hashes))) == 64
    assert corpora.test_windows(changed, 8, None, "text").stream_sha256 not in hashes


def test_a_stream_shorter_than_a_window_is_refused():
    with pytest.raises(CorpusError, match=r"wiki.* 7 tokens .* 8"):
        corpora.test_windows(torch.arange(7), 8, None, "wiki")


def test_calibration_windows_are_seeded_and_from_the_streams_in_turn():
    streams = {"a": torch.arange(500), "b": 1000 + torch.arange(100), "c": 2000 + torch.arange(17)}
    windows = calibration_windows(streams, 12, 16, seed=3)
    assert windows.shape == (12, 16)
    assert (windows.diff(dim=1) == 1).all()  # each a piece of one stream
    assert (windows[:, 0] // 1000).tolist() == [0, 1, 2] * 4
    assert torch.equal(windows, calibration_windows(streams, 12, 16, seed=3))
    assert not torch.equal(windows, calibration_windows(streams, 12, 16, seed=4))
    assert torch.equal(windows[:5], calibration_windows(streams, 5, 16, seed=3))
    assert len(set(windows[::3, 0].tolist())) > 1


def test_calibration_windows_do_not_depend_on_the_state_of_other_generators():
    stream = {"a": torch.arange(500)}
    torch.manual_seed(1)
    first = calibration_windows(stream, 4, 16, seed=0)
    torch.manual_seed(2)
    assert torch.equal(first, calibration_windows(stream, 4, 16, seed=0))


def test_a_calibration_stream_that_is_too_short_is_refused():
    with pytest.raises(CorpusError, match=r"short.* 16 tokens.* 16"):
        calibration_windows({"long": torch.arange(500), "short": torch.arange(16)}, 4, 16, seed=0)


# Documents


def test_documents_come_back_as_written_whatever_characters_they_hold(tmp_path):
    texts = ["two\nlines\r\n", "", "größe \u2028 \u2029 \x85 \x0b \x0c \x1c \u00a0", "\ufeff{}"]
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")
    assert read_documents(path) == texts


@pytest.mark.parametrize(
    "data",
    [
        b'{"text": "\xff"}\n',
        b'{"text": "a"}\n{"text": \n',
        b'{"text": "a"}\n\n{"text": "b"}\n',
        b'{"title": "a"}\n',
        b'["text"]\n',
        b'"text"\n',
        b"3\n",
        b'{"text": 3}\n',
        b'{"text": null}\n',
    ],
)
def test_a_line_that_is_no_document_is_refused_in_one_line(tmp_path, data):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(data)
    with pytest.raises(CorpusError) as caught:
        read_documents(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(CorpusError, match=r"gone\.jsonl"):
        read_documents(tmp_path / "gone.jsonl")


@pytest.mark.slow
def test_stream_is_that_of_the_joined_text(tokenizer):
    texts = ["def f(x):", "return x + 1"]
    stream = token_stream(tokenizer, texts)
    assert stream.dtype == torch.int64
    assert tokenizer.decode(stream.tolist()) == "def f(x):\n\nreturn x + 1"


# Text of the standard library


def make_library(root) -> None:
    """Forty modules and ten packages of two, whose docstrings and code carry the module's name."""
    code = '"""doc of {0}"""\nX = "{0} code"\n\n\ndef f():\n    """inner doc of {0}"""\n    return "{0} body"\n'
    for number in range(40):
        (root / f"module{number}.py").write_text(code.format(f"<module{number}>"))
    for number in range(10):
        (root / f"package{number}").mkdir()
        for name in ("__init__", "part"):
            (root / f"package{number}" / f"{name}.py").write_text(code.format(f"<package{number}>"))
    for skipped in ("test", "site-packages", "idlelib"):
        (root / skipped).mkdir()
        (root / skipped / "one.py").write_text(code.format("<skipped>"))
    (root / "broken.py").write_text("def (<broken>")
    (root / "latin.py").write_bytes(b"# \xff <latin>\n")
    (root / "paged.py").write_text('X = 1\n\x0c\nY = 2\n\n\ndef f():\n    """paged doc"""\n    return "<paged> body"\n')


def test_a_module_is_on_one_side_in_every_corpus(tmp_path, monkeypatch):
    make_library(tmp_path)
    monkeypatch.setattr(stdlib_text, "sysconfig", SimpleNamespace(get_paths=lambda: {"stdlib": str(tmp_path)}))
    found = documents()
    assert documents() == found
    joined = {corpus: {split: "\n".join(found[corpus][split]) for split in SPLITS} for corpus in ("docstrings", "source")}
    units = [f"module{number}" for number in range(40)] + [f"package{number}" for number in range(10)]
    sides = {unit: [[split for split in SPLITS if f"<{unit}>" in joined[corpus][split]] for corpus in joined] for unit in units}
    assert all(sides[unit] == [[split_of(unit)], [split_of(unit)]] for unit in units)
    assert {split_of(unit) for unit in units} == set(SPLITS)
    everything = "\n".join(text for corpus in joined.values() for text in corpus.values())
    assert "<skipped>" not in everything
    assert "<broken>" not in everything
    assert "<latin>" not in everything
    source = "\n".join(joined["source"].values())
    assert "doc of" not in source
    assert source.count("code") == source.count("body") - 1 == 60
    assert "paged doc" not in source
    assert 'return "<paged> body"' in source


@pytest.mark.slow
def test_no_docstring_is_left_in_the_real_source(found):
    parsed = 0
    for text in (text for split in SPLITS for text in found["source"][split]):
        try:
            tree = ast.parse(text)
        except SyntaxError:  # cut off, or a body that was a docstring alone
            continue
        parsed += 1
        nodes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        assert not [node for node in ast.walk(tree) if isinstance(node, nodes) and ast.get_docstring(node)]
    assert parsed > 50


def test_docstrings_of_a_module_that_everybody_knows_are_where_its_side_is(found):
    docstring = inspect.getdoc(textwrap)
    holding = [split for split in SPLITS if any(docstring in text for text in found["docstrings"][split])]
    assert len(docstring) > 10
    assert holding == [split_of("textwrap")]


def test_splits_are_disjoint_and_filled(found):
    for corpus in CORPORA:
        sets = [set(found[corpus][split]) for split in SPLITS]
        assert all(sets)
        # Identical texts (stub modules) may stand for two units; nothing longer than a paragraph may.
        shared = (sets[0] & sets[1]) | (sets[0] & sets[2]) | (sets[1] & sets[2])
        assert all(len(text) < 1000 for text in shared)
        assert all(text.strip() for split in SPLITS for text in found[corpus][split])


def test_sides_are_a_fixed_function_of_the_name():
    sides = [split_of(f"unit{number}") for number in range(2000)]
    assert [split_of(name) for name in ("json", "lambda", "textwrap")] == ["train", "calibration", "test"]
    assert abs(sides.count("train") / 2000 - 0.7) < 0.05
    assert abs(sides.count("test") / 2000 - 0.2) < 0.05


def test_every_corpus_has_enough_windows_for_an_interval(found, tokenizer):
    for corpus in CORPORA:
        stream = token_stream(tokenizer, found[corpus]["test"])
        assert len(corpora.test_windows(stream, 128, None, corpus).tokens) >= 60


# Tasks for lm-eval


def test_the_labelled_continuation_is_the_one_that_follows(found):
    test = {corpus: found[corpus]["test"] for corpus in CORPORA}
    items = harness_tasks(test)["stdlib_continuation"]
    assert len(items) >= 60
    for item in items:
        assert len(item["choices"]) == 4
        follows = [any(item["context"] + choice in text for text in test["docstrings"]) for choice in item["choices"]]
        assert [number for number, true in enumerate(follows) if true] == [item["label"]]
    labels = [item["label"] for item in items]
    assert {labels.count(label) for label in range(4)} <= {len(items) // 4, -(-len(items) // 4)}


def test_wrong_continuations_come_from_other_documents():
    texts = [f"{chr(97 + number)}" * 900 for number in range(9)]
    for item in harness_tasks({"reference": ["prose"], "docstrings": texts, "source": []})["stdlib_continuation"]:
        letters = [set(choice) for choice in item["choices"]]
        assert letters.count(set(item["context"])) == 1
        assert letters[item["label"]] == set(item["context"])
        assert len({choice[0] for choice in item["choices"]}) == 4


def test_tasks_are_deterministic_and_prose_is_held_out(found):
    test = {corpus: found[corpus]["test"] for corpus in CORPORA}
    tasks = harness_tasks(test)
    assert tasks == harness_tasks(test)
    assert tasks["stdlib_prose"]
    assert all(any(text.startswith(item["text"]) for text in test["reference"]) for item in tasks["stdlib_prose"])

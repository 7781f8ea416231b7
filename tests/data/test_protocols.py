"""Windows of the published protocols: token for token those of a plain re-implementation, from text in whatever format."""

from __future__ import annotations

import os
import random
from pathlib import Path

import corpus_files
import numpy as np
import pytest
import reference_protocols as reference
import tiny
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from lorcbench.common.artifacts import file_digest
from lorcbench.config import compose
from lorcbench.data import corpora, texts
from lorcbench.data.corpora import CorpusError, Documents, LongDocuments, calibration_windows
from lorcbench.models import discovery
from lorcbench.models.blocks import BlockWalk
from lorcbench.report.intervals import perplexity

WINDOW = 24
REAL = os.environ.get("LORCBENCH_TEST_DATA")
needs_real_text = pytest.mark.skipif(not REAL, reason="set LORCBENCH_TEST_DATA to a folder with wikitext-2-raw/ and c4/")


@pytest.fixture(scope="module", params=["opt", "bloom"])
def tokenizer(request, tmp_path_factory) -> Tokenizer:
    """As `prepare` saves it from the files on the hub."""
    folder = getattr(corpus_files, f"{request.param}_tokenizer")(tmp_path_factory.mktemp(request.param))
    corpora.load_tokenizer(folder).backend_tokenizer.save(str(folder / "saved.json"))
    return corpora.open_tokenizer(folder / "saved.json")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    return corpus_files.data_folder(tmp_path_factory.mktemp("data"))


def staged(name: str, data_dir: Path | str, folder: Path) -> Documents:
    """What the text stage leaves of a text."""
    text = compose.load("text", name)
    path = texts.own_file(text, str(data_dir))
    texts.stage(folder / f"{name}.jsonl", texts.read(path, text.column, text.lines))
    return Documents(folder / f"{name}.jsonl")


def windows(tokenizer, name: str, data_dir, folder) -> dict[str, list[list[int]]]:
    """Of every corpus of a protocol."""
    protocol = compose.load("eval", name)
    found = {}
    for corpus, settings in protocol.corpora.items():
        documents = staged(settings.text, data_dir, folder)
        found[corpus] = corpora.protocol_windows(tokenizer, documents, protocol, corpus).tokens.tolist()
    return found


def encoder(tokenizer: Tokenizer) -> reference.Encode:
    return lambda text: tokenizer.encode(text).ids


def test_the_papers_protocol(tokenizer, data_dir, tmp_path):
    found, encode = windows(tokenizer, f"gptq-old+window={WINDOW}", data_dir, tmp_path), encoder(tokenizer)
    assert found["wikitext2"] == reference.joined(corpus_files.wikitext(), "\n\n", encode, WINDOW)
    assert found["ptb"] == reference.joined(corpus_files.ptb(), "\n\n", encode, WINDOW)
    assert found["c4"] == reference.c4_old(corpus_files.c4(), encode, WINDOW, 256)
    assert len(found["c4"]) == 256
    assert min(len(found["wikitext2"]), len(found["ptb"])) > 60


def test_the_newer_protocol(tokenizer, data_dir, tmp_path):
    found, encode = windows(tokenizer, f"gptq-new+window={WINDOW}", data_dir, tmp_path), encoder(tokenizer)
    assert found["wikitext2"] == reference.joined(corpus_files.wikitext(), "\n\n", encode, WINDOW)
    assert found["ptb"] == reference.joined(corpus_files.ptb(90), " ", encode, WINDOW)
    assert found["c4"] == reference.c4_new(corpus_files.c4(), encode, WINDOW, 256)
    assert len(found["c4"]) == 256
    # Windows so long that 1,100 documents do not fill 256 of them: nothing comes from the later ones.
    few = windows(tokenizer, "gptq-new+window=500", data_dir, tmp_path)["c4"]
    assert few == reference.c4_new(corpus_files.c4(), encode, 500, 256)
    assert 1 < len(few) < 256


@pytest.mark.parametrize(("seed", "count", "length"), [(0, 128, 24), (123, 7, 24), (234, 40, 11)])
def test_the_papers_calibration(tokenizer, data_dir, tmp_path, seed, count, length):
    settings = compose.load("calibration", f"c4-128x2048+seed={seed}+n_samples={count}+length={length}")
    documents = staged("c4-train", data_dir, tmp_path)
    source = corpora.source(tokenizer, documents, settings.corpora["c4"], length, True, "c4")
    found = calibration_windows({"c4": source}, settings.n_samples, settings.length, settings.seed)
    expected = reference.calibration(corpus_files.c4(400, seed=4), encoder(tokenizer), length, count, seed)
    assert found.tolist() == expected
    assert len({tuple(window) for window in expected}) > count // 2


def test_the_paper_calibrates_on_128_sequences_of_2048_tokens():
    settings = compose.load("calibration", "c4-128x2048")
    assert (settings.n_samples, settings.length, settings.seed) == (128, 2048, 0)
    assert compose.load("eval", "gptq-old").window == compose.load("eval", "gptq-new").window == 2048


@pytest.mark.parametrize("name", ["wiki.test.raw", "test.jsonl", "test.jsonl.gz", "test-00000-of-00001.parquet"])
def test_every_format_gives_the_same_documents(tmp_path, name):
    corpus_files.write(tmp_path / "data" / "wikitext-2-raw" / name, corpus_files.wikitext())
    assert list(staged("wikitext2-test", tmp_path / "data", tmp_path)) == corpus_files.wikitext()


@pytest.mark.parametrize("name", ["ptb.valid.txt", "validation.json", "validation.json.gz", "validation.parquet"])
def test_every_format_gives_the_same_sentences(tmp_path, name):
    corpus_files.write(tmp_path / "data" / "ptb" / name, corpus_files.ptb(), "sentence")
    assert list(staged("ptb-validation", tmp_path / "data", tmp_path)) == corpus_files.ptb()


# What the tokenizer adds


def test_opt_begins_a_stream_or_a_document_with_its_bos_and_bloom_adds_nothing(tmp_path):
    kinds = {"opt": corpus_files.opt_tokenizer(tmp_path / "opt"), "bloom": corpus_files.bloom_tokenizer(tmp_path / "bloom")}
    protocol = compose.load("eval", f"gptq-old+window={WINDOW}")
    without = compose.load("eval", f"gptq-old+window={WINDOW}+bos=none")
    for kind, folder in kinds.items():
        corpora.load_tokenizer(folder).backend_tokenizer.save(str(folder / "saved.json"))
        tokenizer = corpora.open_tokenizer(folder / "saved.json")
        added = [2] if kind == "opt" else []
        assert tokenizer.encode("").ids == added
        stream = corpora.token_stream(tokenizer, ["one", "two"])
        assert stream.tolist() == added + corpora.token_stream(tokenizer, ["one", "two"], specials=False).tolist()
        ids = corpora.protocol_windows(tokenizer, corpus_files.wikitext(), protocol, "wikitext2").tokens.flatten().tolist()
        assert ids.count(2) == len(added)  # once, in front of the whole stream
        assert ids[: len(added)] == added
        plain = corpora.protocol_windows(tokenizer, corpus_files.wikitext(), without, "wikitext2").tokens.flatten().tolist()
        assert 2 not in plain
        assert plain[:50] == ids[len(added) :][:50]
        sampled = corpora.protocol_windows(tokenizer, corpus_files.c4(), protocol, "c4").tokens
        assert set((sampled == 2).sum(1).tolist()) <= {0, len(added)}  # a window that starts where its document does has one
        assert (sampled[:, 1:] != 2).all()


def test_truncation_and_padding_of_a_hub_file_have_no_part(tmp_path):
    made = corpus_files.bpe()
    made.enable_truncation(8)
    made.enable_padding(length=64)
    made.save(str(tmp_path / "tokenizer.json"))
    text = " ".join(corpus_files.ptb(3))
    expected = corpus_files.bpe().encode(text).ids
    assert 8 < len(expected) < 64
    assert corpora.encode(corpora.open_tokenizer(tmp_path / "tokenizer.json"), text).tolist() == expected


# Draws


def test_a_document_of_exactly_a_window_is_too_short():
    lengths = {"a": 8, "b": 9, "c": 3}
    documents = LongDocuments("cab", lambda text: torch.arange(lengths[text]), 8, "text")
    drawn = {tuple(documents.draw(random.Random(seed)).tolist()) for seed in range(20)}
    assert drawn == {tuple(range(8))}  # of b, where only the first start is possible


def test_documents_that_are_all_too_short_are_refused_and_not_drawn_for_ever():
    with pytest.raises(CorpusError, match=r"corpus c4: none of its 50 documents has more than 8 tokens"):
        LongDocuments(["x"] * 50, lambda text: torch.arange(8), 8, "c4").draw(random.Random(0))
    with pytest.raises(CorpusError, match="none of its 0 documents"):
        LongDocuments([], lambda text: torch.arange(9), 8, "c4").draw(random.Random(0))


def test_documents_are_encoded_once_if_they_are_too_short():
    asked = []

    def encoded(text: str) -> torch.Tensor:
        asked.append(text)
        return torch.arange(len(text))

    drawn = LongDocuments(["ab", "abcdefgh", "abc"], encoded, 4, "text")
    for _ in range(30):
        drawn.draw(random.Random(len(asked)))
    assert sorted(set(asked)) == ["ab", "abc", "abcdefgh"]
    assert asked.count("ab") <= 1 and asked.count("abc") <= 1


def test_streams_and_documents_are_calibrated_on_in_turn(tokenizer):
    stream = torch.arange(5000) + 10_000
    documents = LongDocuments(["x", "yy"], lambda text: torch.arange(20 * len(text)), 24, "documents")
    found = calibration_windows({"stream": stream, "documents": documents}, 7, 24, seed=0)
    assert [bool((window >= 10_000).all()) for window in found] == [True, False] * 3 + [True]


def test_fewer_windows_are_evenly_spaced_over_the_protocols_own(tokenizer, data_dir, tmp_path):
    every = windows(tokenizer, f"gptq-old+window={WINDOW}", data_dir, tmp_path)
    fewer = windows(tokenizer, f"gptq-old+max_windows=16+window={WINDOW}", data_dir, tmp_path)
    for name, found in every.items():
        assert fewer[name] == [found[number * len(found) // 16] for number in range(16)]


def test_a_corpus_shorter_than_a_window_is_named(tokenizer):
    protocol = compose.load("eval", "gptq-old")
    with pytest.raises(CorpusError, match=r"corpus ptb: \d+ tokens are fewer than one window of 2048"):
        corpora.protocol_windows(tokenizer, corpus_files.ptb(3), protocol, "ptb")
    with pytest.raises(CorpusError, match=r"corpus c4: none of its 20 documents has more than 2048 tokens"):
        corpora.protocol_windows(tokenizer, corpus_files.c4(20), protocol, "c4")


# Perplexity


@pytest.mark.parametrize("kind", ["opt", "bloom"])
def test_perplexity_is_that_of_transformers_own_loss_on_the_windows(tmp_path, kind):
    vocabulary = {f"w{number}": number for number in range(tiny.VOCABULARY)}
    words = Tokenizer(models.WordLevel(vocabulary, "w1"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if kind == "opt":
        words.post_processor = processors.TemplateProcessing(single="w0 $A", special_tokens=[("w0", 0)])
    rng = random.Random(0)
    documents = [" ".join(rng.choices(list(vocabulary), k=rng.randint(1, 40))) for _ in range(12)]
    protocol = compose.load("eval", "gptq-old+window=16")
    tokens = corpora.protocol_windows(words, documents, protocol, "ptb").tokens
    made = tiny.model(kind)
    walk = BlockWalk(discovery.opened(tiny.save(made, tmp_path)), torch.float32, batch_tokens=64)
    hidden = walk.embed(tokens)
    for index in range(walk.depth):
        with walk.block(index) as block:
            walk.advance(block, hidden)
    losses = [made(input_ids=window[None], labels=window[None]).loss.item() for window in tokens]
    assert perplexity(np.array(walk.score(hidden, tokens).tolist())) == pytest.approx(np.exp(np.mean(losses)), rel=1e-5)


# Real text


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> tuple[Tokenizer, Path]:
    """A tokenizer made from WikiText-2's validation split, with a BOS as OPT's has, and a folder to stage in."""
    folder = tmp_path_factory.mktemp("real")
    made = corpus_files.ByteLevelBPETokenizer()
    (training,) = Path(REAL, "wikitext-2-raw").glob("*valid*")
    made.train([str(training)], vocab_size=4000, special_tokens=corpus_files.SPECIALS, show_progress=False)
    made.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 2)])
    made.save(str(folder / "tokenizer.json"))
    return corpora.open_tokenizer(folder / "tokenizer.json"), folder


@needs_real_text
def test_real_wikitext_is_the_published_text_and_gives_the_references_windows(real):
    tokenizer, folder = real
    documents = staged("wikitext2-test", REAL, folder)
    text = compose.load("text", "wikitext2-test")
    assert len(documents) == text.documents == 4358
    assert file_digest(folder / "wikitext2-test.jsonl") == text.sha256
    found = corpora.protocol_windows(tokenizer, documents, compose.load("eval", "gptq-old"), "wikitext2")
    assert found.tokens.tolist() == reference.joined(list(documents), "\n\n", encoder(tokenizer), 2048)
    assert (found.tokens == 2).sum() == 1


@needs_real_text
def test_real_c4_gives_the_references_windows(real):
    tokenizer, folder = real
    documents, encode = staged("c4-validation", REAL, folder), encoder(tokenizer)
    old = corpora.protocol_windows(tokenizer, documents, compose.load("eval", "gptq-old"), "c4")
    assert old.tokens.tolist() == reference.c4_old(list(documents), encode, 2048, 256)
    new = corpora.protocol_windows(tokenizer, documents, compose.load("eval", "gptq-new"), "c4")
    assert new.tokens.tolist() == reference.c4_new(list(documents), encode, 2048, 256)


@needs_real_text
@pytest.mark.parametrize("seed", [0, 123])
def test_real_c4_gives_the_references_calibration(real, seed):
    tokenizer, folder = real
    documents, settings = staged("c4-train", REAL, folder), compose.load("calibration", f"c4-128x2048+seed={seed}")
    source = corpora.source(tokenizer, documents, settings.corpora["c4"], settings.length, True, "c4")
    found = calibration_windows({"c4": source}, settings.n_samples, settings.length, settings.seed)
    assert found.shape == (128, 2048)
    assert found.tolist() == reference.calibration(list(documents), encoder(tokenizer), 2048, 128, seed)

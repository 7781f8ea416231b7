"""Tokenizers as people have them: what a stage makes of a text is what transformers' own AutoTokenizer makes of it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import corpus_files
import pytest
import sentencepiece
from tokenizers import AddedToken, Tokenizer, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lorcbench.data import corpora
from lorcbench.data.corpora import CorpusError, load_tokenizer, open_tokenizer

LLAMA = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>"}
TEXT = "The quantized model,  naïve token “quote” größe 日本 <extra> weight\n\n\tlayer 123 <s> norm\u2028end </s>\r\n "


def configured(folder: Path, family: str, **settings) -> Path:
    """A folder with the config.json of a family, and a tokenizer_config.json if it says anything."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": family, "vocab_size": 1024}))
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def with_json(folder: Path) -> Path:
    """tokenizer.json alone."""
    corpus_files.bpe().save(str(configured(folder, "llama") / "tokenizer.json"))
    return folder


def with_merges(folder: Path, family: str = "opt") -> Path:
    """vocab.json and merges.txt, as OPT, GPT-2 and Qwen were published."""
    if family == "opt":
        return corpus_files.opt_tokenizer(folder)
    corpus_files.bpe().save_model(str(configured(folder, family, tokenizer_class="Qwen2Tokenizer")))
    return folder


def with_sentencepiece(folder: Path, family: str = "llama", kind: str = "bpe", **settings) -> Path:
    """tokenizer.model alone."""
    model = io.BytesIO()
    lines = (corpus_files.sentence(corpus_files.random.Random(number), 30) for number in range(300))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=model, vocab_size=310, model_type=kind, byte_fallback=True, minloglevel=2
    )
    (configured(folder, family, **settings) / "tokenizer.model").write_bytes(model.getvalue())
    return folder


def with_added_tokens(folder: Path) -> Path:
    """Tokens that were added after training, one of them special, saved as transformers saves them."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(corpus_files.bpe().to_str()), eos_token="</s>")
    tokenizer.add_tokens(["<extra>", AddedToken("weight", lstrip=True)])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.save_pretrained(configured(folder, "qwen3"))
    return folder


def with_bos_in_front(folder: Path) -> Path:
    """A BOS that the tokenizer itself puts in front, and truncation that was left in its file."""
    tokenizer = Tokenizer.from_str(corpus_files.bpe().to_str())
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    tokenizer.enable_truncation(8)
    tokenizer.save(str(configured(folder, "llama") / "tokenizer.json"))
    return folder


KINDS = {
    "tokenizer.json": with_json,
    "tokenizer.json with a BOS": with_bos_in_front,
    "vocab and merges of OPT": with_merges,
    "vocab and merges of Qwen": lambda folder: with_merges(folder, "qwen3"),
    "tokenizer.model of Llama": lambda folder: with_sentencepiece(folder, **LLAMA),
    "tokenizer.model and nothing else": with_sentencepiece,
    "tokenizer.model of Mistral": lambda folder: with_sentencepiece(folder, "mistral"),
    "tokenizer.model of Gemma": lambda folder: with_sentencepiece(folder, "gemma3_text"),
    "tokenizer.model, unigram": lambda folder: with_sentencepiece(folder, kind="unigram", **LLAMA),
    "added tokens": with_added_tokens,
}


@pytest.mark.parametrize("kind", KINDS)
def test_token_ids_are_those_of_autotokenizer(tmp_path, kind):
    folder = KINDS[kind](tmp_path / "model")
    load_tokenizer(folder).backend_tokenizer.save(str(tmp_path / "saved.json"))  # as prepare does
    ours = open_tokenizer(tmp_path / "saved.json")
    theirs = AutoTokenizer.from_pretrained(folder)
    for text in (TEXT, TEXT * 20, ""):
        for specials in (True, False):
            expected = theirs(text, add_special_tokens=specials, truncation=False).input_ids
            assert corpora.encode(ours, text, specials).tolist() == expected
    assert ours.decode(ours.encode("quantized model").ids).strip() == "quantized model"


def test_a_llama_with_tokenizer_model_alone_has_the_pieces_of_sentencepiece(tmp_path):
    folder = with_sentencepiece(tmp_path / "model", **LLAMA)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).encode("the quantized model")
    assert load_tokenizer(folder)("the quantized model").input_ids == [1, *pieces]


def test_tokens_that_were_added_are_one_token_each(tmp_path):
    tokenizer = load_tokenizer(with_added_tokens(tmp_path / "model"))
    ids = tokenizer.backend_tokenizer.encode("a <extra><|im_start|>").ids
    assert [tokenizer.convert_ids_to_tokens(number) for number in ids[-2:]] == ["<extra>", "<|im_start|>"]


def test_a_tokenizer_that_is_written_in_python_is_refused_in_one_line(tmp_path):
    folder = configured(tmp_path / "model", "gpt2", tokenizer_class="GPTSw3Tokenizer")
    (with_sentencepiece(tmp_path / "other") / "tokenizer.model").rename(folder / "spiece.model")
    with pytest.raises(CorpusError, match=r"no tokenizer that can be used .*GPTSw3Tokenizer is written in Python") as error:
        load_tokenizer(folder)
    assert "\n" not in str(error.value)

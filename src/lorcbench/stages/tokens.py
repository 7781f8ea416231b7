"""A model's tokens: the test windows of a perplexity protocol, or the calibration sequences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import torch
from tokenizers import Tokenizer

from lorcbench.common.artifacts import read_json, verified, write_shard
from lorcbench.common.paths import DOCUMENTS, Wildcards
from lorcbench.config import compose
from lorcbench.config.protocols import HALVES, CalibrationConfig, EvalConfig, SourceConfig
from lorcbench.data import corpora
from lorcbench.data.corpora import CorpusError, Documents
from lorcbench.jobs import sources
from lorcbench.jobs.job import Job, shard_identity
from lorcbench.stages import run_by_old_name
from lorcbench.study.stages import CALIBRATION_TOKENS, PREPARE, TEXT, TOKENS


def main(job: Job) -> None:
    """Tokenize once; every later stage reads the windows."""
    calibration = job.names.calibration != "none"
    folder = job.at(CALIBRATION_TOKENS if calibration else TOKENS)
    settings = job.calibration if calibration else job.eval
    about_model = _checkpoint_config(job)
    positions = about_model.get("max_position_embeddings", about_model.get("n_positions"))
    if not settings.fit:
        _check_positions(job, positions, settings.length if calibration else settings.window)
    job.use(PREPARE)
    for text in settings.texts():
        job.use(TEXT, f"text {text}", text=text)
    identity = job.identity(compose.plain(settings) if calibration else settings.protocol())
    tokenizer = corpora.open_tokenizer(sources.tokenizer_file(job.names))
    windows, described = (_calibration if calibration else _windows)(tokenizer, settings, positions)
    _check_vocabulary(job, tokenizer, about_model, windows)
    file = folder / "tokens.safetensors"
    shards = [{"file": file.name, "sha256": write_shard(file, windows, shard_identity(identity))}]
    job.finish(identity, {"shards": shards, "corpora": described, "added": tokenizer.encode("").tokens})


def _checkpoint_config(job: Job) -> dict:
    """The content of the checkpoint's ``config.json``, of its text model if it has several."""
    file = sources.checkpoint_folder(job.names, "config.json") / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    return config.get("text_config", config)


def _check_positions(job: Job, positions: int | None, length: int) -> None:
    """Refuse windows that are longer than the model's learned positions; BLOOM has none."""
    if positions is not None and length > positions:
        raise CorpusError(
            f"windows of {length} tokens, but {job.names.model} has {positions} positions; "
            f"choose shorter ones, such as study.eval={job.names.protocol}+window={positions}"
        )


def _check_vocabulary(job: Job, tokenizer: Tokenizer, about_model: dict, windows: dict[str, torch.Tensor]) -> None:
    """Refuse windows with a token that has no row in the model's embedding."""
    vocabulary = about_model.get("vocab_size")
    largest = max(int(tokens.max()) for tokens in windows.values())
    if isinstance(vocabulary, int) and largest >= vocabulary:
        raise CorpusError(
            f"the tokenizer of {job.names.model} makes token {largest} ({tokenizer.id_to_token(largest)!r}), but config.json "
            f"says vocab_size={vocabulary}; take the tokenizer that the model was trained with, or resize its embedding"
        )


def _documents(corpus: SourceConfig) -> Sequence[str]:
    """The documents of a corpus, once they were found to be as their stage wrote them."""
    folder = TEXT.folder(Wildcards(text=corpus.text))
    file = DOCUMENTS.format(part="documents" if corpus.part in HALVES else corpus.part)
    verified(folder, TEXT.kind, file)
    documents = Documents(folder / file)
    return corpora.half(documents, corpus.part) if corpus.part in HALVES else documents


def _describe(corpus: SourceConfig, documents: Sequence[str]) -> dict:
    """Where a corpus is from: how many documents it has, and whether they are the published ones (null: unknown)."""
    text = read_json(TEXT.folder(Wildcards(text=corpus.text)) / "result.json", TEXT.kind)
    return {"text": corpus.text, "documents": len(documents), "published": text.get("published")}


def _windows(tokenizer: Tokenizer, settings: EvalConfig, positions: int | None) -> tuple[dict, dict]:
    """The test windows (n, window) int32 of a perplexity protocol, by corpus; and what the result says of each corpus."""
    documents = {name: _documents(corpus) for name, corpus in settings.corpora.items()}
    if settings.fit:
        specials = settings.bos == "tokenizer"
        streams = (corpora.source(tokenizer, documents[name], settings.corpora[name], 0, specials, name) for name in documents)
        lengths = dict(zip(documents, map(len, streams), strict=True))
        longest = min(settings.window, positions or settings.window)
        settings = replace(settings, window=corpora.fitted(longest, lengths, settings.fit))
    tokens, described = {}, {}
    for name, corpus in settings.corpora.items():
        windows = corpora.protocol_windows(tokenizer, documents[name], settings, name)
        tokens[name] = windows.tokens.to(torch.int32)
        sizes = {"windows": len(windows.tokens), "stream_tokens": windows.stream_length}
        sizes |= {"window": settings.window} if settings.fit else {}
        described[name] = {**_describe(corpus, documents[name]), **sizes, "stream_sha256": windows.stream_sha256}
    return tokens, described


def _calibration(tokenizer: Tokenizer, settings: CalibrationConfig, positions: int | None) -> tuple[dict, dict]:
    """The calibration sequences (n_samples, length) int32, from all corpora; and what the result says of each corpus."""
    streams, described = {}, {}
    for name, corpus in settings.corpora.items():
        documents = _documents(corpus)
        streams[name] = corpora.source(tokenizer, documents, corpus, settings.length, True, name)
        described[name] = _describe(corpus, documents)
    length = settings.length
    if settings.fit:
        longest = min(length, positions or length)
        length = corpora.fitted(longest, {name: len(stream) for name, stream in streams.items()}, settings.fit)
        for about in described.values():
            about["window"] = length
    windows = corpora.calibration_windows(streams, settings.n_samples, length, settings.seed)
    return {"calibration": windows.to(torch.int32)}, described


if __name__ == "__main__":
    run_by_old_name(__spec__.name)

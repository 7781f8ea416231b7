"""A model's tokens: the test windows of a perplexity protocol, or the calibration sequences."""

from __future__ import annotations

import json

import torch
from tokenizers import Tokenizer

from lorcbench.common.artifacts import read_json, verified, write_shard
from lorcbench.common.paths import DOCUMENTS, Wildcards
from lorcbench.config import compose
from lorcbench.config.protocols import CalibrationConfig, EvalConfig, SourceConfig
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
    _check_positions(job, about_model, settings.length if calibration else settings.window)
    job.use(PREPARE)
    for text in settings.texts():
        job.use(TEXT, f"text {text}", text=text)
    identity = job.identity(compose.plain(settings) if calibration else settings.protocol())
    tokenizer = corpora.open_tokenizer(sources.tokenizer_file(job.names))
    windows, described = (_calibration if calibration else _windows)(tokenizer, settings)
    _check_vocabulary(job, tokenizer, about_model, windows)
    file = folder / "tokens.safetensors"
    shards = [{"file": file.name, "sha256": write_shard(file, windows, shard_identity(identity))}]
    job.finish(identity, {"shards": shards, "corpora": described, "added": tokenizer.encode("").tokens})


def _checkpoint_config(job: Job) -> dict:
    """The content of the checkpoint's ``config.json``."""
    return json.loads((sources.checkpoint_folder(job.names, "config.json") / "config.json").read_text(encoding="utf-8"))


def _check_positions(job: Job, about_model: dict, length: int) -> None:
    """Refuse windows that are longer than the model's learned positions; BLOOM has none."""
    positions = about_model.get("max_position_embeddings")
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


def _documents(corpus: SourceConfig) -> Documents:
    """The documents of a corpus, once they were found to be as their stage wrote them."""
    folder = TEXT.folder(Wildcards(text=corpus.text))
    file = DOCUMENTS.format(part=corpus.part)
    verified(folder, TEXT.kind, file)
    return Documents(folder / file)


def _describe(corpus: SourceConfig, documents: Documents) -> dict:
    """Where a corpus is from: how many documents it has, and whether they are the published ones (null: unknown)."""
    text = read_json(TEXT.folder(Wildcards(text=corpus.text)) / "result.json", TEXT.kind)
    return {"text": corpus.text, "documents": len(documents), "published": text.get("published")}


def _windows(tokenizer, settings: EvalConfig) -> tuple[dict, dict]:
    """The test windows (n, window) int32 of a perplexity protocol, by corpus; and what the result says of each corpus."""
    tokens, described = {}, {}
    for name, corpus in settings.corpora.items():
        documents = _documents(corpus)
        windows = corpora.protocol_windows(tokenizer, documents, settings, name)
        tokens[name] = windows.tokens.to(torch.int32)
        sizes = {"windows": len(windows.tokens), "stream_tokens": windows.stream_length}
        described[name] = {**_describe(corpus, documents), **sizes, "stream_sha256": windows.stream_sha256}
    return tokens, described


def _calibration(tokenizer, settings: CalibrationConfig) -> tuple[dict, dict]:
    """The calibration sequences (n_samples, length) int32, from all corpora; and what the result says of each corpus."""
    streams, described = {}, {}
    for name, corpus in settings.corpora.items():
        documents = _documents(corpus)
        streams[name] = corpora.source(tokenizer, documents, corpus, settings.length, True, name)
        described[name] = _describe(corpus, documents)
    windows = corpora.calibration_windows(streams, settings.n_samples, settings.length, settings.seed)
    return {"calibration": windows.to(torch.int32)}, described


if __name__ == "__main__":
    run_by_old_name(__spec__.name)

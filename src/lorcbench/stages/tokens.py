"""A model's tokens: the test windows of a perplexity protocol, or the calibration sequences."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from lorcbench.common import paths
from lorcbench.common.artifacts import read_json, verified, write_shard
from lorcbench.config import compose
from lorcbench.config.protocols import CalibrationConfig, EvalConfig, SourceConfig
from lorcbench.data import corpora
from lorcbench.data.corpora import CorpusError, Documents
from lorcbench.jobs import inputs
from lorcbench.jobs.job import Job, input_digest, run, shard_identity


def main(job: Job) -> None:
    """Tokenize once; every later stage reads the windows."""
    calibration = job.names["calibration"] != "none"
    folder = job.at(paths.CALIBRATION_TOKENS if calibration else paths.TOKENS)
    settings = job.calibration if calibration else job.eval
    _check_positions(job, settings.length if calibration else settings.window)
    checkpoint = Path(paths.CHECKPOINT.format(**job.names))
    texts = {text: Path(paths.TEXT.format(text=text)) for text in settings.texts()}
    digests = {f"text {text}": input_digest(where, "text") for text, where in texts.items()}
    sources = {"checkpoint": input_digest(checkpoint, "checkpoint"), **digests}
    identity = job.identity(compose.plain(settings) if calibration else settings.protocol(), sources)
    tokenizer = corpora.open_tokenizer(inputs.tokenizer_file(job.names))
    windows, described = (_calibration if calibration else _windows)(tokenizer, settings)
    file = folder / "tokens.safetensors"
    shards = [{"file": file.name, "sha256": write_shard(file, windows, shard_identity(identity))}]
    job.finish("tokens", identity, {"shards": shards, "corpora": described, "added": tokenizer.encode("").tokens})


def _check_positions(job: Job, length: int) -> None:
    """Refuse windows that are longer than the model's learned positions; BLOOM has none."""
    settings = json.loads((inputs.checkpoint_folder(job.names, "config.json") / "config.json").read_text(encoding="utf-8"))
    positions = settings.get("max_position_embeddings")
    if positions is not None and length > positions:
        raise CorpusError(
            f"windows of {length} tokens, but {job.names['model']} has {positions} positions; "
            f"choose shorter ones, such as study.eval={job.names['protocol']}+window={positions}"
        )


def _documents(corpus: SourceConfig) -> Documents:
    """The documents of a corpus, once they were found to be as their stage wrote them."""
    folder = Path(paths.TEXT.format(text=corpus.text))
    path = Path(paths.DOCUMENTS.format(text=corpus.text, part=corpus.part))
    verified(folder, "text", str(path.relative_to(folder)))
    return Documents(path)


def _describe(corpus: SourceConfig, documents: Documents) -> dict:
    """Where a corpus is from: how many documents it has, and whether they are the published ones (null: unknown)."""
    text = read_json(Path(paths.TEXT.format(text=corpus.text)) / "result.json", "text")
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
    sources, described = {}, {}
    for name, corpus in settings.corpora.items():
        documents = _documents(corpus)
        sources[name] = corpora.source(tokenizer, documents, corpus, settings.length, True, name)
        described[name] = _describe(corpus, documents)
    windows = corpora.calibration_windows(sources, settings.n_samples, settings.length, settings.seed)
    return {"calibration": windows.to(torch.int32)}, described


if __name__ == "__main__":
    run("tokens", main)

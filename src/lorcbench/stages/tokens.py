"""A model's tokens: the test windows of a perplexity protocol, or the calibration sequences."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer

from lorcbench import corpora, paths
from lorcbench.artifacts import write_shard
from lorcbench.job import Job, input_digest, run, shard_identity

CORPORA = ("reference", "docstrings", "source")


def main(job: Job) -> None:
    """Tokenize once; every later stage reads the windows."""
    calibration = job.names["calibration"] != "none"
    folder = job.at(paths.CALIBRATION_TOKENS if calibration else paths.TOKENS)
    checkpoint = Path(paths.CHECKPOINT.format(**job.names))
    settings = vars(job.calibration) if calibration else job.eval.protocol()
    text = Path(paths.TEXT.format(text=settings["text"]))
    inputs = {"checkpoint": input_digest(checkpoint, "checkpoint"), "text": input_digest(text, "text")}
    identity = job.identity(settings, inputs)
    tokenizer = Tokenizer.from_file(str(checkpoint / paths.TOKENIZER))
    split = "calibration" if calibration else "test"
    streams = {}
    for name in CORPORA if calibration else settings["corpora"]:
        documents = corpora.read_documents(text / "corpora" / name / f"{split}.jsonl")
        streams[name] = corpora.token_stream(tokenizer, documents)
    found, described = _calibration(streams, settings) if calibration else _windows(streams, settings)
    digest = write_shard(folder / "tokens.safetensors", found, shard_identity(identity))
    shards = [{"file": "tokens.safetensors", "sha256": digest}]
    job.finish("tokens", identity, {"shards": shards, "corpora": described})


def _windows(streams: dict[str, torch.Tensor], settings: dict) -> tuple[dict, dict]:
    tokens, described = {}, {}
    for name, stream in streams.items():
        windows = corpora.test_windows(stream, settings["window"], settings["max_windows"], name)
        tokens[name] = windows.tokens.to(torch.int32)
        sizes = {"windows": len(windows.tokens), "stream_tokens": windows.stream_length}
        described[name] = {**sizes, "stream_sha256": windows.stream_sha256}
    return tokens, described


def _calibration(streams: dict[str, torch.Tensor], settings: dict) -> tuple[dict, dict]:
    windows = corpora.calibration_windows(streams, settings["n_samples"], settings["length"], settings["seed"])
    described = {name: {"stream_tokens": len(stream)} for name, stream in streams.items()}
    return {"calibration": windows.to(torch.int32)}, described


if __name__ == "__main__":
    run("tokens", main)

"""A model's checkpoint on disk: a stand-in trained here, a hub repository downloaded, a GGUF file, or the user's folder."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from lorcbench.common.artifacts import file_digest, replacing, verified
from lorcbench.common.paths import TOKENIZER
from lorcbench.config.gguf import gguf_file
from lorcbench.config.schema import ModelConfig
from lorcbench.data.corpora import load_tokenizer
from lorcbench.data.hub import MODEL_INSTEAD, downloading
from lorcbench.jobs.job import Job
from lorcbench.models import discovery
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.checkpoint import CheckpointError, has_safetensors
from lorcbench.models.convert import to_safetensors
from lorcbench.stages import run_by_old_name
from lorcbench.study.stages import PREPARE, TEXT


def main(job: Job) -> None:
    """Make sure of the checkpoint and write where it is, with the digest of every file."""
    model = job.model
    folder = job.at(PREPARE)
    measured, about = {}, {}
    where, revision = folder, None
    if model.source == "standin":
        measured, about = _train(job, model, folder)
    elif model.source == "gguf":
        about = _dequantize(job, gguf_file(model), folder)
    elif model.source == "hub":
        source, revision = _download(model)
        where = _readable(source, folder)
    else:
        where = _readable(Path(model.path), folder)
    checkpoint = discovery.opened(where)
    architecture = checkpoint.architecture
    walk = BlockWalk(checkpoint, torch.float16)
    for index in range(walk.depth):  # reads every tensor, and holds its shape against config.json, before any work rests on it
        with walk.block(index):
            job.progress(index + 1, walk.depth, "checked block")
    # The tokenizer as transformers makes it, for stages that tokenize without importing transformers.
    with replacing(folder / TOKENIZER) as temporary:
        load_tokenizer(where).backend_tokenizer.save(str(temporary))
    names = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
    names += ("tokenizer.model",)
    files = [where / name for name in names if (where / name).is_file()] + checkpoint.shards
    payload = {
        "folder": str(where.relative_to(folder)) if where.is_relative_to(folder) else str(where),
        "files": {path.name: file_digest(path) for path in files},
        "tokenizer": file_digest(folder / TOKENIZER),
        "family": architecture.model_type,
        "architecture": asdict(architecture),
        "standin": model.source == "standin",
        "repo": model.repo,
        "revision": revision,
        "gate": measured,
        **about,
    }
    settings = {key: value for key, value in vars(model).items() if key != "standin"}
    settings["standin"] = vars(model.standin) if model.standin else None
    job.finish(job.identity(settings), payload)


def _train(job: Job, model: ModelConfig, folder: Path) -> tuple[dict, dict]:
    """Train a stand-in and save it in `folder`; returns what its gate measured, and of a planted one its channels."""
    from safetensors.torch import load_file
    from transformers import PreTrainedTokenizerFast
    from transformers.utils.logging import disable_progress_bar

    from lorcbench.data import corpora
    from lorcbench.data.stdlib_text import check_vocabulary
    from lorcbench.models import standin

    check_vocabulary(model.standin)
    disable_progress_bar()
    torch.set_num_threads(job.threads)
    text = job.use(TEXT, text=model.standin.text)
    verified(text, TEXT.kind)
    end = standin.END_OF_TEXT
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(text / "tokenizer.json"), bos_token=end, eos_token=end, pad_token=end, unk_token=end
    )
    streams = {name: stream.long() for name, stream in sorted(load_file(text / "train.safetensors").items())}
    windows = {}
    for name in streams:
        documents = corpora.read_documents(text / "corpora" / name / "test.jsonl")
        stream = corpora.token_stream(tokenizer.backend_tokenizer, documents)
        windows[name] = corpora.test_windows(stream, model.standin.positions, 128, name).tokens
    network = standin.build(model)
    standin.train(network, model.standin, streams, lambda done, total: job.progress(done, total, "step"))
    standin.finish(network, model.standin)
    measured = standin.gate(network, streams, windows)
    planted = {"channels": standin.channel_statistics(network, windows)} if model.planted else {}
    _save(network.to(torch.float16), tokenizer, folder)
    return measured, planted


def _save(network, tokenizer, folder: Path) -> None:
    """Write a model and its tokenizer as an ordinary checkpoint."""
    with TemporaryDirectory() as written:  # save_pretrained leaves half a file where the disk is full
        network.save_pretrained(written)
        tokenizer.save_pretrained(written)
        for path in sorted(Path(written).iterdir()):
            with replacing(folder / path.name) as temporary:
                shutil.copyfile(path, temporary)  # not its mode, with which nobody else on a shared file system could read it


def _dequantize(job: Job, file: Path, folder: Path) -> dict:
    """Save the model of a GGUF file in `folder`; returns what the result says of its origin.

    Raises:
        CheckpointError: the file is damaged, or of a family that transformers does not read from GGUF.
    """
    from lorcbench.models import gguf

    types = gguf.block_types(file)
    network, tokenizer = gguf.load(file, job.log_file)
    _save(network, tokenizer, folder)
    return {"gguf": {"file": file.name, "sha256": file_digest(file), "types": types, "bits": gguf.bits_of(next(iter(types)))}}


def _download(model: ModelConfig) -> tuple[Path, str]:
    """The hub's files in its own cache, and the resolved revision; pickled weights where there are no safetensors.

    Raises:
        HubError: the hub cannot be reached, or has no such repository.
        CheckpointError: there are no weights in it.
    """
    from huggingface_hub import snapshot_download

    for weights in ("*.safetensors", "pytorch_model*.bin"):
        patterns = ["*.json", "*.txt", "*.model", "*.jinja", weights]
        with downloading(f"{model.repo} at {model.revision}", MODEL_INSTEAD):
            folder = Path(snapshot_download(model.repo, revision=model.revision, allow_patterns=patterns))
        if has_safetensors(folder) or list(folder.glob("pytorch_model*.bin")):
            return folder, folder.name
    raise CheckpointError(f"{model.repo}: no safetensors and no pytorch_model*.bin at revision {model.revision}")


def _readable(source: Path, folder: Path) -> Path:
    """The folder itself if it holds the model in safetensors, else a conversion of it."""
    if has_safetensors(source):
        return source
    to_safetensors(source, folder / "converted")
    return folder / "converted"


if __name__ == "__main__":
    run_by_old_name(__spec__.name)

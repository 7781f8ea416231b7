"""A text's documents, staged: copied from a file on this machine or downloaded once.

For the text that Python carries also lm-eval tasks, the byte-level BPE tokenizer that all stand-ins share, and the training
text in its tokens, once for all stand-ins.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import ByteLevelBPETokenizer

from lorcbench.common.artifacts import file_digest, replacing, write_text
from lorcbench.common.paths import DOCUMENTS
from lorcbench.config import compose
from lorcbench.data import texts
from lorcbench.data.stdlib_text import CORPORA, SPLITS, VOCABULARY, documents, harness_tasks
from lorcbench.jobs.job import Job
from lorcbench.stages import run_by_old_name
from lorcbench.study.stages import TEXT


def main(job: Job) -> None:
    """Write the documents, and say which they are."""
    folder = job.at(TEXT)
    if job.text.source == "stdlib":
        _stage_stdlib(job, folder)
    else:
        _stage_file(job, folder)


def _stage_file(job: Job, folder: Path) -> None:
    """Stage the documents of one file, and say whether they are the published ones."""
    text, revision = job.text, None
    path = texts.own_file(text, job.runtime.data_dir)
    if path is None:
        path, revision = texts.download(text)
    file = DOCUMENTS.format(part="documents")
    target = folder / file
    count = texts.stage(target, texts.read(path, text.column, text.lines))
    digest = file_digest(target)
    published = None if text.documents is None else count == text.documents and text.sha256 in (None, digest)
    if published is False:
        difference = f"{path}: {count} documents with digest {digest} are not the {text.documents} published ones"
        if revision:
            raise texts.TextError(f"{difference}; is {text.repo} {text.file} the right file?")
        job.log(difference)
    origin = {"file": path.name, "sha256": file_digest(path), "repo": text.repo if revision else None, "revision": revision}
    identity = job.identity(compose.plain(text), file=origin["sha256"])
    payload = {"files": {file: digest}, "documents": count, "published": published, "origin": origin}
    job.finish(identity, payload)


def _stage_stdlib(job: Job, folder: Path) -> None:
    """Stage the text that Python carries, with its tokenizer, the training text in tokens, and lm-eval tasks made from it."""
    corpora = documents()
    for corpus in CORPORA:
        for split in SPLITS:
            _write_jsonl(folder / "corpora" / corpus / f"{split}.jsonl", [{"text": text} for text in corpora[corpus][split]])
    tokenizer = ByteLevelBPETokenizer()
    training = [text for corpus in CORPORA for text in corpora[corpus]["train"]]
    tokenizer.train_from_iterator(training, vocab_size=VOCABULARY, special_tokens=["</s>"], show_progress=False)
    write_text(folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    streams = {corpus: _stream(tokenizer, corpora[corpus]["train"]) for corpus in CORPORA}
    with replacing(folder / "train.safetensors") as temporary:
        save_file(streams, temporary)
    for name, items in harness_tasks({corpus: corpora[corpus]["test"] for corpus in CORPORA}).items():
        _write_jsonl(folder / "tasks" / f"{name}.jsonl", items)
    files = [*sorted(folder.glob("*/**/*.jsonl")), folder / "tokenizer.json", folder / "train.safetensors"]
    digests = {str(path.relative_to(folder)): file_digest(path) for path in files}
    counts = {corpus: {split: len(corpora[corpus][split]) for split in SPLITS} for corpus in CORPORA}
    job.finish(job.identity({"vocabulary": VOCABULARY}), {"files": digests, "documents": counts})


def _stream(tokenizer: ByteLevelBPETokenizer, texts: list[str]) -> np.ndarray:
    """(n,) token ids of documents, each followed by the end-of-text token."""
    ids = [number for encoded in tokenizer.encode_batch(texts) for number in [*encoded.ids, 0]]
    return np.array(ids, dtype=np.int32)


def _write_jsonl(path: Path, items: list[dict]) -> None:
    write_text(path, "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items))


if __name__ == "__main__":
    run_by_old_name(__spec__.name)

"""A hub on this machine that speaks as much of the hub's protocol as its client asks for: the downloads are real, only near."""

from __future__ import annotations

import json
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import corpus_files
import pytest
import tiny
import torch
from runs import one_line, online, snakemake, stage
from safetensors.torch import load_file

from lorcbench.common import paths
from lorcbench.config import compose, places
from lorcbench.data.corpora import read_documents
from lorcbench.study.stages import PREPARE, TEXT

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves the files of a folder as one repository, whatever name it is asked for.

    Attributes:
        delay: seconds before every answer.
        token: without which every answer is a refusal, as of a gated repository; None if it is open.
        breaks: files whose bodies end in the middle.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.folder, self.delay, self.breaks, self.token = folder, 0.0, set(), None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, body: bool) -> None:
        time.sleep(self.server.delay)
        if self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self.send_response(401)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path.startswith("/api/"):
            files = sorted(path for path in self.server.folder.rglob("*") if path.is_file())
            sizes = {str(path.relative_to(self.server.folder)): path.stat().st_size for path in files}
            tree = [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in sizes.items()]
            about = {"id": "some/repository", "sha": COMMIT, "siblings": [{"rfilename": name} for name in sizes]}
            self._send(json.dumps(tree if "/tree/" in self.path else about).encode(), body)
            return
        name = self.path.partition("?")[0].partition("/resolve/")[2].partition("/")[2]
        path = self.server.folder / name
        if not name or not path.is_file():
            self.send_error(404)
            return
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        data = path.read_bytes()[start:]
        self._send(data, body, len(data) // 2 if name in self.server.breaks else None)

    def _send(self, data: bytes, body: bool, end: int | None = None) -> None:
        self.send_response(200)
        for header, value in (("Content-Length", len(data)), ("ETag", f'"{hash(data):x}"'), ("X-Repo-Commit", COMMIT)):
            self.send_header(header, str(value))
        self.end_headers()
        if body:
            self.wfile.write(data[:end])


@pytest.fixture
def hub(tmp_path):
    (tmp_path / "repository").mkdir()
    with Hub(tmp_path / "repository") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def published_as_pickle(folder: Path) -> dict[str, torch.Tensor]:
    """A model as OPT-125m lies on the hub: pickled weights of the base model and the files of a tokenizer."""
    tiny.checkpoint(folder, "opt", dtype=torch.float16, base=True)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    configured = (folder / "config.json").read_text()
    corpus_files.opt_tokenizer(folder)
    (folder / "config.json").write_text(configured)
    return tensors


def test_a_model_is_downloaded_and_its_commit_recorded_however_slow_the_hub(hub, tmp_path):
    expected = published_as_pickle(hub.folder)
    hub.delay = 0.5
    done = stage(tmp_path, "prepare", "model=opt-125m", **online(hub.address, tmp_path))
    assert done.returncode == 0, done.stderr
    folder = tmp_path / PREPARE.pattern.format(model="opt-125m")
    result = json.loads((folder / "result.json").read_text())
    assert (result["repo"], result["revision"], result["standin"]) == ("facebook/opt-125m", COMMIT, False)
    found = load_file(folder / result["folder"] / "pytorch_model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_download_that_breaks_off_is_one_line_and_the_next_run_goes_on(hub, tmp_path):
    published_as_pickle(hub.folder)
    hub.breaks = {"pytorch_model.bin"}
    said = one_line(stage(tmp_path, "prepare", "model=opt-125m", **online(hub.address, tmp_path)))
    assert "facebook/opt-125m at main cannot be downloaded" in said
    folder = tmp_path / PREPARE.pattern.format(model="opt-125m")
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {"log.txt", "failed.json"}
    hub.breaks = set()
    done = stage(tmp_path, "prepare", "model=opt-125m", **online(hub.address, tmp_path))
    assert done.returncode == 0, done.stderr
    assert (folder / "result.json").is_file()


def test_a_text_is_downloaded_and_one_that_is_not_the_published_one_is_refused(hub, tmp_path):
    name = "ptb-validation"
    corpus_files.write(hub.folder / compose.load("text", name).file, corpus_files.ptb(), "sentence")
    refused = stage(tmp_path, "text", f"text={name}", **online(hub.address, tmp_path))
    assert refused.returncode != 0
    assert "120 documents" in refused.stderr and "are not the 3370 published ones" in refused.stderr
    documents = tmp_path / TEXT.pattern.format(text=name) / paths.DOCUMENTS.format(part="documents")
    assert read_documents(documents) == corpus_files.ptb()


SECRET = "hf_" + "secretofatest"


def published_as_safetensors(folder: Path) -> None:
    """A tiny Llama with a tokenizer, as people publish theirs."""
    network = tiny.model("llama")
    network.resize_token_embeddings(1024)  # more rows than the tokenizer has tokens
    tiny.save(network, folder, torch.float16)
    configured = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 2048}
    corpus_files.opt_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(configured))


def everything_written(folder: Path) -> bytes:
    """The content of every file that runs left, but for what the hub's client keeps of its own."""
    files = (path for path in folder.rglob("*") if path.is_file() and folder / "home" not in path.parents)
    return b"".join(path.read_bytes() for path in files)


def test_a_gated_model_is_read_with_the_token_which_is_written_nowhere(hub, tmp_path):
    published_as_safetensors(hub.folder)
    hub.token = SECRET
    model = ["model=hub", "model.repo=some/gated", "model.revision=v1.0"]
    refused = one_line(stage(tmp_path, "prepare", *model, **online(hub.address, tmp_path)))
    assert "some/gated at v1.0 cannot be downloaded" in refused and "accept its terms there and set HF_TOKEN" in refused
    wrong = one_line(stage(tmp_path, "prepare", *model, **online(hub.address, tmp_path), HF_TOKEN="hf_another"))
    assert "HF_TOKEN" in wrong and "hf_another" not in wrong
    done = stage(tmp_path, "prepare", *model, **online(hub.address, tmp_path), HF_TOKEN=SECRET)
    assert done.returncode == 0, done.stderr
    name = places.model_name("some/gated@v1.0")
    result = json.loads((tmp_path / PREPARE.pattern.format(model=name) / "result.json").read_text())
    assert (result["repo"], result["revision"], result["family"]) == ("some/gated", COMMIT, "llama")
    assert SECRET.encode() not in everything_written(tmp_path) + done.stdout.encode() + done.stderr.encode()


def test_a_model_by_its_name_on_the_hub_goes_from_the_command_line_to_the_page(hub, tmp_path):
    published_as_safetensors(hub.folder)
    hub.token = SECRET
    (tmp_path / "book.txt").write_text("".join(corpus_files.sentence(random.Random(n), 12) + ".\n" for n in range(2500)))
    axes = "overrides=study.methods=[rtn] study.weights=[w4-asym-row] study.ranks=[0,1]"
    settings = ["--config", "model_path=some/gated", "text_path=book.txt", axes]
    environment = online(hub.address, tmp_path)
    refused = snakemake(tmp_path, *settings, **environment)
    assert refused.returncode != 0 and "Traceback" not in refused.stdout
    assert "model_path=some/gated: no such folder here, and some/gated at main cannot be downloaded" in refused.stdout
    done = snakemake(tmp_path, *settings, **environment, HF_TOKEN=SECRET)
    assert done.returncode == 0, done.stdout
    name = places.model_name("some/gated@main")
    (page,) = (tmp_path / "results").glob("own+model_path=*/report.html")
    assert f"model {name} is some/gated@main" in page.read_text() and f"model {name} is some/gated@main" in done.stdout
    assert SECRET.encode() not in everything_written(tmp_path) + done.stdout.encode()
    offline = snakemake(tmp_path, *settings, "--dry-run", **environment | {"HF_HUB_OFFLINE": "1", "HF_HOME": "/nonexistent"})
    assert offline.returncode == 0, "what was fetched is there"
    other = ["--config", "model_path=some/other", *settings[2:]]
    missing = snakemake(tmp_path, *other, **environment | {"HF_HUB_OFFLINE": "1"})
    (line,) = [line for line in missing.stdout.splitlines() if line.startswith("error:")]
    assert "some/other: no such folder here" in line and "on a machine without the hub name a folder that holds it" in line

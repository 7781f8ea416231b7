"""A hub on this machine that speaks as much of the hub's protocol as its client asks for: the downloads are real, only near."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import corpus_files
import pytest
import tiny
import torch
from runs import one_line, online, stage
from safetensors.torch import load_file

from lorcbench.common import paths
from lorcbench.config import compose
from lorcbench.data.corpora import read_documents
from lorcbench.study.stages import PREPARE, TEXT

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves the files of a folder as one repository, whatever name it is asked for.

    Attributes:
        delay: seconds before every answer.
        breaks: files whose bodies end in the middle.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.folder, self.delay, self.breaks = folder, 0.0, set()

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

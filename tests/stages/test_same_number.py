"""The lines of plain transformers on docs/your-model.md give the perplexity that the stages measure."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import corpus_files
import notebook_page
import pytest
import torch
from runs import ROOT
from transformers import OPTConfig, OPTForCausalLM

from lorcbench.common.artifacts import read_json
from lorcbench.config import compose
from lorcbench.jobs.job import Job
from lorcbench.report.intervals import perplexity
from lorcbench.study.stages import EVALUATE, TOKENS


def lines_of_the_page() -> str:
    page = (ROOT / "docs/your-model.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return snippet


@pytest.fixture
def checkpoint(tmp_path, monkeypatch) -> Path:
    """A checkpoint with positions for 256 tokens, beside which the test works; `my.txt` there is the text ``book``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf/text").mkdir(parents=True)
    (tmp_path / "conf/text/book.yaml").write_text(f"# A book.\nsource: file\npath: {tmp_path}/my.txt\nlines: whole\n")
    monkeypatch.setenv(compose.EXTRA_CONF, str(tmp_path / "conf"))
    compose.load.cache_clear()  # of an earlier test, with the same names
    folder = corpus_files.opt_tokenizer(tmp_path / "my-model")
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 2, "hidden_size": 16, "ffn_dim": 32, "num_attention_heads": 2, "vocab_size": 400}
    OPTForCausalLM(OPTConfig(**shape, max_position_embeddings=256, init_std=0.5)).save_pretrained(folder)
    return folder


# A text whose half has fewer than 60 windows of 256 tokens, and one whose half has more.
@pytest.mark.parametrize(("repeated", "window"), [(2, 128), (4, 256)])
def test_the_lines_of_the_page_give_the_number_of_the_project(repeated, window, checkpoint, tmp_path):
    lines = [*corpus_files.wikitext(), *corpus_files.ptb(), *corpus_files.c4(90)] * repeated
    # A mark in front, line ends of two bytes, and letters of two bytes in the first half alone: what is counted are characters.
    (tmp_path / "my.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(["é" * 200] * 20 + lines).encode())
    model = ["model=folder", "model.name=mine", f"model.path={checkpoint}", "eval=own+text=book"]
    for name, arguments in {
        "text": ["text=book"],
        "prepare": model,
        "tokens": model,
        "evaluate": [*model, "method=none"],
    }.items():
        job = Job(name, arguments)
        import_module(f"lorcbench.stages.{name}").main(job)
    losses = read_json(job.folder / "result.json", EVALUATE.kind)["variants"]["r0"]["nll"]["text"]
    assert read_json(TOKENS.folder(job.names) / "result.json", TOKENS.kind)["corpora"]["text"]["window"] == window
    code = lines_of_the_page().replace('most = "my-model", "my.txt", 2048', f'most = "my-model", "my.txt", {window}')
    found = re.fullmatch(r"(\d+) windows, perplexity ([\d.]+)\n", notebook_page.run(code, {}))
    assert int(found[1]) == len(losses) == 60
    assert float(found[2]) == pytest.approx(perplexity(losses), rel=1e-6)

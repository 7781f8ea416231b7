"""Conf files of one's own need no line that names their schema: the folder says the group."""

from pathlib import Path

import pytest

from lorcbench.config import compose
from lorcbench.config.checks import ConfigError
from lorcbench.config.recipes import METHODS
from lorcbench.core.gptq import GptqSettings
from lorcbench.study.expansion import load_study

FILES = {
    "text/book.yaml": "# A book.\nsource: file\npath: /data/book.txt\n",
    "eval/book.yaml": "corpora: {book: {text: book}}\nwindow: 512\nmax_windows: 60\n",
    "calibration/book.yaml": "---\ncorpora: {book: {text: book}}\nlength: 512\nn_samples: 8\n",
    "model/mine.yaml": "source: folder\npath: /data/model\nhidden: 64\nffn: 256\n",
    "method/gptq-mine.yaml": "kind: gptq\nact_order: true\ndamp: 1e-3\n",
    "lorc/mine.yaml": "bits: 16\n",
    "lorc/trained.yaml": "kind: distilled\nbits: 8\n",
    "study/defaults/mine.yaml": "models: [opt-standin-xs]\neval: book\n",
    "study/mine.yaml": (
        "# What do I ask?\ndefaults: [defaults@_here_: mine, _self_]\ntitle: Mine\nmethods: [gptq-mine]\n"
        "weights: [w4-asym-row]\ncalibrations: [book]\nlorc: [mine]\nranks: [4]\n"
    ),
}


@pytest.fixture
def conf(tmp_path, monkeypatch) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.setenv(compose.EXTRA_CONF, str(tmp_path))
    compose.load.cache_clear()
    yield tmp_path
    compose.load.cache_clear()
    compose.canonical.cache_clear()


def test_a_study_of_files_without_schemas_expands(conf):
    study = load_study("mine")
    assert [cell.key for cell in study.cells if cell.rank] == ["opt-standin-xs/gptq-mine/book/w4-asym-row/a16/r4-mine"]
    assert study.texts == ("book",)
    assert compose.load("text", "book").path == "/data/book.txt"
    method = compose.load("method", "gptq-mine")
    assert isinstance(method, GptqSettings) and (method.act_order, method.damp) == (True, 0.001)
    assert compose.load("lorc", "trained").kind == "distilled" and compose.load("lorc", "mine").bits == 16
    assert compose.load("model", "mine").hidden == 64
    assert compose.headline("text", "book") == "A book."


def test_they_are_validated_like_all_others(conf):
    (conf / "text" / "book.yaml").write_text("source: file\npath: /data/book.txt\nlinez: kept\n")
    with pytest.raises(ConfigError, match=r"text/book\.yaml: unknown key linez; known keys of text: column, documents,"):
        compose.load("text", "book")
    (conf / "eval" / "book.yaml").write_text("corpora: {book: {text: book}}\nwindow: -1\n")
    with pytest.raises(ConfigError, match=r"eval\.window=-1: expected a positive number"):
        compose.load("eval", "book")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("method/gptq-mine.yaml", "act_order: true\n", f"kind=None: expected kind: one of {', '.join(METHODS)}"),
        ("method/gptq-mine.yaml", "kind: gptp\n", f"kind=gptp: expected kind: one of {', '.join(METHODS)}"),
        ("text/book.yaml", "- a\n- b\n", "expected keys of a text"),
        ("text/book.yaml", "source: [file\n", "no YAML"),
        ("text/book.yaml", "", "unknown|needs|expected|source"),
    ],
)
def test_what_is_no_such_file_is_refused_with_its_name(conf, name, content, said):
    (conf / name).write_text(content)
    with pytest.raises(ConfigError, match=said) as error:
        compose.load(*Path(name).with_suffix("").parts)
    assert "\n" not in str(error.value)


def test_a_file_that_changes_is_read_again(conf):
    assert compose.load("eval", "book").window == 512
    (conf / "eval" / "book.yaml").write_text("corpora: {book: {text: book}}\nwindow: 256\n")
    compose.load.cache_clear()
    assert compose.load("eval", "book").window == 256

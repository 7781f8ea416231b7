"""Texts are staged from files and from the hub's cache; what cannot be had or read is said in one line, and early."""

from __future__ import annotations

import csv
import gzip
import json
import random
import re
from pathlib import Path

import corpus_files
import datasets
import huggingface_hub.constants
import pytest
import synthetic
from recorded import identity
from safetensors.torch import load_file
from tokenizers import Tokenizer

from lorcbench.common import paths
from lorcbench.common.paths import Wildcards
from lorcbench.config import compose
from lorcbench.config.checks import ConfigError
from lorcbench.config.protocols import TextConfig
from lorcbench.data import texts
from lorcbench.data.corpora import CorpusError, Documents
from lorcbench.data.hub import HubError
from lorcbench.data.texts import TextError
from lorcbench.jobs import job
from lorcbench.pipeline.rules import Pipeline
from lorcbench.stages import text as text_stage
from lorcbench.stages import tokens as tokens_stage
from lorcbench.study.stages import CALIBRATION_TOKENS, PREPARE, TEXT, TOKENS

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def one_line(work, error) -> str:
    """The message with which `work` is refused."""
    with pytest.raises(error) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Files


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl", "rows.json.gz"])
def test_rows_are_those_that_datasets_loads(tmp_path, name):
    path = corpus_files.write(tmp_path / name, corpus_files.c4(200))
    builder = "parquet" if name.endswith("parquet") else "json"
    loaded = datasets.load_dataset(builder, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert list(texts.read(path)) == loaded["text"][:] == corpus_files.c4(200)


def test_lines_of_plain_text_are_the_rows_of_the_published_datasets(tmp_path):
    path = tmp_path / "wiki.raw"
    path.write_bytes(" \n = A = \n \n two \x85 \u2028 parts <unk> \n last".encode())
    assert list(texts.read(path)) == ["", " = A = \n", "", " two \x85 \u2028 parts <unk> \n", " last"]
    assert list(texts.read(path, lines="stripped")) == ["", "= A =", "", "two \x85 \u2028 parts <unk>", "last"]


BAD = [
    ("gone.jsonl", None, "no such file"),
    ("words.doc", b"x", "one of .parquet, .jsonl, .json, .txt, .raw, .tokens"),
    ("bad.raw", b"fine\n\xff\xfe\n", "line 2: 'utf-8'"),
    ("latin.txt", "fine\n" * 9000 + "größe\n", "line 9001: 'utf-8' codec can't decode"),
    ("wide.txt", "the text\nis wide\n".encode("utf-16"), "the file is UTF-16"),
    ("wide.txt", "the text\nis wide\n".encode("utf-16-le"), "line 1: every other character is NUL"),
    ("wide.jsonl", '{"text": "a"}\n'.encode("utf-16"), "the file is UTF-16"),
    ("zipped.txt", gzip.compress(b"a"), "its name has to end in .gz"),
    ("half.jsonl", b'{"text": "fine"}\n{"text": "\\ud83d"}\n', "row 2 has half a character, U+D83D"),
    ("deep.jsonl", b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "line 1: "),
    ("pretty.json", b'{\n  "text": "a"\n}\n', "line 1: Expecting property name"),
    ("two.jsonl", b'{"text": "a"} {"text": "b"}\n', "line 1: Extra data"),
    ("words.jsonl", b'"a"\n', "line 1: expected one JSON object per line"),
    ("bad.jsonl", b'{"text": "fine"}\n{"text": "\xff"}\n', "line 2: 'utf-8'"),
    ("bad.jsonl", b'{"text": "fine"}\nnot json\n', "line 2: Expecting value"),
    ("bad.json", b'[{"text": "a"}, {"text": "b"}]\n', "line 1: expected one JSON object per line"),
    ("bad.json.gz", b"\x1f\x8b\x08 not gzip", "bad.json.gz"),
    ("bad.parquet", b"PAR1 and no more", "Parquet"),
    ("bad.jsonl", b'{"title": "a"}\n', "row 1 has no text in column text; its columns are title"),
    ("bad.jsonl", b'{"text": "a"}\n{"text": null}\n', "row 2 has no text in column text"),
    ("bad.jsonl", b'{"text": 3}\n', "row 1 has no text in column text"),
]


@pytest.mark.parametrize(("name", "data", "reason"), BAD, ids=[f"{number}-{name}" for number, (name, _, _) in enumerate(BAD)])
def test_damage_is_said_in_one_line(tmp_path, name, data, reason):
    if data is not None:
        (tmp_path / name).write_bytes(data.encode("latin-1") if isinstance(data, str) else data)
    said = one_line(lambda: list(texts.read(tmp_path / name)), TextError)
    assert str(tmp_path / name) in said
    assert reason in said


READ = [
    ("marked.txt", "\ufefffirst\nsecond\n".encode(), ["first\n", "second\n"]),
    ("marked.jsonl", '\ufeff{"text": "first"}\n{"text": "\ufeffsecond"}\n'.encode(), ["first", "\ufeffsecond"]),
    ("windows.txt", b"first\r\n\r\nsecond", ["first\n", "", "second"]),
    ("windows.jsonl", b'{"text": "first\\r\\n"}\r\n{"text": "second"}', ["first\r\n", "second"]),
    ("nul.txt", b"a few\0 zero\0 bytes\n", ["a few\0 zero\0 bytes\n"]),
    ("members.txt.gz", gzip.compress(b"first\n") + gzip.compress(b"second\n"), ["first\n", "second\n"]),
    ("marked.txt.gz", gzip.compress("\ufefffirst\n".encode()), ["first\n"]),
    ("odd.jsonl", b'{"text": "old", "text": "new", "n": NaN}\n\n  {"text": "\\ud83d\\ude00"}  \n', ["new", "😀"]),
    ("long.txt", b"a" * 400_000, ["a" * 400_000]),
    ("scripts.txt", "текст 日本語 😀\n".encode(), ["текст 日本語 😀\n"]),
]


@pytest.mark.parametrize(("name", "data", "documents"), READ, ids=[name for name, _, _ in READ])
def test_texts_are_read_as_people_read_them(tmp_path, name, data, documents):
    (tmp_path / name).write_bytes(data)
    assert list(texts.read(tmp_path / name)) == documents
    texts.stage(tmp_path / "out.jsonl", documents)
    assert list(Documents(tmp_path / "out.jsonl")) == documents


@pytest.mark.parametrize(
    ("name", "data"), [("a.jsonl", b""), ("a.txt", b""), ("a.json.gz", gzip.compress(b"", mtime=0)), ("a.json", b"\n")]
)
def test_an_empty_text_is_refused_and_leaves_nothing(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    assert "no documents" in one_line(lambda: texts.stage(tmp_path / "out.jsonl", texts.read(tmp_path / name)), TextError)
    assert not (tmp_path / "out.jsonl").exists()


def test_types_are_not_guessed(tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": "2019-04-25T12:57:54Z", "id": 1}\n\n{"text": "12", "id": "one"}\n')
    assert list(texts.read(path)) == ["2019-04-25T12:57:54Z", "12"]


def test_documents_are_read_one_at_a_time_in_any_order(tmp_path):
    written = [*corpus_files.c4(50), "", "\r\n", "\ufeff"]
    assert texts.stage(tmp_path / "text.jsonl", written) == 53
    documents = Documents(tmp_path / "text.jsonl")
    assert [documents[number] for number in (52, 0, 51, -1)] == ["\ufeff", written[0], "\r\n", "\ufeff"]
    assert list(documents) == written
    assert len(documents) == 53
    with pytest.raises(IndexError):
        documents[53]


def test_the_first_pattern_with_a_match_counts(tmp_path):
    (tmp_path / "c4").mkdir()
    for name in ("c4-validation.00000-of-00008.json.gz", "c4-validation.00001-of-00008.json.gz"):
        (tmp_path / "c4" / name).touch()
    patterns = compose.load("text", "c4-validation").local
    assert texts.local_file(patterns, str(tmp_path)).name == "c4-validation.00000-of-00008.json.gz"
    (tmp_path / "c4" / "c4-validation.00000-of-00008.json").touch()
    said = one_line(lambda: texts.local_file(patterns, str(tmp_path)), ConfigError)
    assert "c4-validation.00000-of-00008.json, c4-validation.00000-of-00008.json.gz" in said
    assert texts.local_file(patterns, str(tmp_path / "elsewhere")) is None
    assert texts.local_file(patterns, None) is None


# The hub


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty cache of the hub's client, which is offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def cached(hub: Path, name: str, documents: list[str]) -> None:
    """Put the file of a text where the hub's client would have downloaded it."""
    text = compose.load("text", name)
    folder = hub / f"datasets--{text.repo.replace('/', '--')}"
    corpus_files.write(folder / "snapshots" / COMMIT / text.file, documents, text.column)
    if text.revision.startswith("refs/"):
        (folder / "refs" / text.revision).parent.mkdir(parents=True, exist_ok=True)
        (folder / "refs" / text.revision).write_text(COMMIT)
    else:
        (folder / "snapshots" / COMMIT).rename(folder / "snapshots" / text.revision)


def staged(name: str, *overrides: str) -> dict:
    """Run the text stage in this process; its result."""
    one = job.Job("text", [f"text={name}", *overrides])
    text_stage.main(one)
    return json.loads(Path(TEXT.pattern.format(text=name) + "/result.json").read_text())


def test_what_was_downloaded_is_staged_with_its_commit(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cached(hub, "ptb-validation", corpus_files.ptb())  # which loads the text's settings, as they are, for all tests
    monkeypatch.setattr(TextConfig, "__post_init__", lambda self: setattr(self, "documents", len(corpus_files.ptb())))
    result = staged("ptb-validation")
    assert (
        list(Documents(Path(TEXT.pattern.format(text="ptb-validation")) / paths.DOCUMENTS.format(part="documents")))
        == corpus_files.ptb()
    )
    assert (result["documents"], result["published"]) == (120, True)
    assert result["origin"]["repo"] == "ptb-text-only/ptb_text_only"
    assert result["origin"]["revision"] == COMMIT


def test_a_download_that_is_not_the_published_text_is_refused(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cached(hub, "c4-validation", corpus_files.c4(10))
    said = one_line(lambda: staged("c4-validation"), TextError)
    assert "10 documents" in said and "not the 45576 published ones" in said
    cached(hub, "wikitext2-test", ["x \n"] * 4358)  # the right number of documents alone does not do
    assert "are not the 4358 published ones" in one_line(lambda: staged("wikitext2-test"), TextError)


def test_an_offline_hub_says_what_to_do(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = one_line(lambda: staged("ptb-test"), HubError)
    assert "ptb-text-only/ptb_text_only penn_treebank/test/0000.parquet at refs/convert/parquet cannot be downloaded" in said
    assert "ptb/*test*" in said and "runtime.data_dir" in said


# The stages


def test_a_file_on_this_machine_is_marked_if_it_is_not_the_published_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = corpus_files.data_folder(tmp_path / "data")
    result = staged("c4-validation", f"runtime.data_dir={data}")
    assert (result["documents"], result["published"]) == (1300, False)
    assert result["origin"] == {
        **result["origin"],
        "file": "c4-validation.00000-of-00008.json.gz",
        "repo": None,
        "revision": None,
    }
    assert str(tmp_path) not in json.dumps(result)
    assert "not the 45576 published ones" in Path(TEXT.pattern.format(text="c4-validation") + "/log.txt").read_text()


@pytest.mark.slow
def test_a_text_of_ones_own_is_a_conf_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    conf = tmp_path / "conf"
    for folder in ("text", "eval"):
        (conf / folder).mkdir(parents=True)
    corpus_files.write(tmp_path / "mine.parquet", corpus_files.c4(30), "body")
    own = "defaults: [/schema/text@_here_: text, _self_]\nsource: file\ncolumn: body\n"
    (conf / "text" / "mine.yaml").write_text(f"{own}path: {tmp_path}/mine.parquet\n")
    lost = "defaults: [/schema/text@_here_: text, _self_]\nsource: file\npath: /gone.txt\n"
    (conf / "text" / "lost.yaml").write_text(lost)
    for name in ("mine", "lost"):
        corpus = f"corpora: {{{name}: {{text: {name}}}}}\nwindow: 64\n"
        (conf / "eval" / f"{name}.yaml").write_text(f"defaults: [/schema/eval@_here_: eval, _self_]\n{corpus}")
    monkeypatch.setenv(compose.EXTRA_CONF, str(conf))
    result = staged("mine")
    assert (result["documents"], result["published"]) == (30, None)
    for variable in ("PATH", "LORCBENCH_JOB", compose.RUNTIME_VARIABLE):
        monkeypatch.setenv(variable, "")
    assert Pipeline({"study": "smoke", "overrides": "study.eval=mine"}).study.eval == "mine"
    said = one_line(lambda: Pipeline({"study": "smoke", "overrides": "study.eval=lost"}), ConfigError)
    assert said == "text.path=/gone.txt of lost: no such file"


def test_tokens_say_what_they_are_made_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = corpus_files.data_folder(tmp_path / "data")
    for name in ("wikitext2-test", "ptb-validation", "c4-validation"):
        staged(name, f"runtime.data_dir={data}")
    prepared(tmp_path, positions=32)
    one = job.Job("tokens", ["model=opt-125m", "eval=gptq-old+max_windows=20+window=32"])
    tokens_stage.main(one)
    result = json.loads(Path(TOKENS.folder(one.names) / "result.json").read_text())
    assert result["added"] == ["</s>"]
    assert result["corpora"]["c4"] == {
        **{"text": "c4-validation", "documents": 1300, "published": False, "windows": 20, "stream_tokens": 256 * 32},
        "stream_sha256": result["corpora"]["c4"]["stream_sha256"],
    }
    assert all(len(corpus["stream_sha256"]) == 64 for corpus in result["corpora"].values())
    assert set(result["identity"]["inputs"]) == {
        "checkpoint",
        "text wikitext2-test",
        "text ptb-validation",
        "text c4-validation",
    }
    assert result["identity"]["settings"]["corpora"]["ptb"]["joiner"] == "\n\n"
    longer = job.Job("tokens", ["model=opt-125m", "eval=gptq-old+window=64"])
    said = one_line(lambda: tokens_stage.main(longer), Exception)
    assert said.startswith("windows of 64 tokens, but opt-125m has 32 positions; choose shorter ones")


def prepared(folder: Path, positions: int, **config: int) -> None:
    """What `prepare` leaves of an OPT checkpoint, without its weights."""
    checkpoint = Path(PREPARE.pattern.format(model="opt-125m"))
    corpus_files.opt_tokenizer(checkpoint)
    (checkpoint / "config.json").write_text(json.dumps({"model_type": "opt", "max_position_embeddings": positions} | config))
    from lorcbench.common.artifacts import file_digest, write_json
    from lorcbench.data.corpora import load_tokenizer

    load_tokenizer(checkpoint).backend_tokenizer.save(str(checkpoint / paths.TOKENIZER))
    files = {"config.json": file_digest(checkpoint / "config.json")}
    about = {"folder": ".", "files": files, "tokenizer": file_digest(checkpoint / paths.TOKENIZER)}
    about["identity"] = identity(PREPARE, Wildcards(model="opt-125m"))
    write_json(checkpoint / "result.json", "checkpoint", about)


def test_windows_of_a_text_of_ones_own_are_fitted_and_recorded_and_both_halves_are_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    book = tmp_path / "book.txt"
    book.write_text("".join(f"line {number} of {corpus_files.sentence(random.Random(number), 9)}\n" for number in range(2000)))
    text = ["text=file", f'text.path="{book}"']
    staging = job.Job("text", text)
    text_stage.main(staging)
    name = staging.names.text
    prepared(tmp_path, positions=2048)
    results = {}
    for key in ("eval", "calibration"):
        one = job.Job("tokens", ["model=opt-125m", f"{key}=own+text={name}", *text])
        tokens_stage.main(one)
        folder = (TOKENS if key == "eval" else CALIBRATION_TOKENS).folder(one.names)
        results[key] = json.loads((folder / "result.json").read_text()), load_file(folder / "tokens.safetensors")
    about, windows = results["eval"][0]["corpora"]["text"], results["eval"][1]["text"]
    assert list(windows.shape) == [60, about["window"]] and about["windows"] == 60
    assert about["window"] in (128, 256, 512) and 60 * about["window"] <= about["stream_tokens"] < 120 * about["window"]
    assert results["eval"][0]["identity"]["settings"]["window"] == 2048
    assert f"text {name}" in results["eval"][0]["identity"]["inputs"]
    calibration = results["calibration"][1]["calibration"]
    assert results["calibration"][0]["corpora"]["text"]["window"] == calibration.shape[1] == about["window"]
    tokenizer = Tokenizer.from_file(str(Path(PREPARE.pattern.format(model="opt-125m")) / paths.TOKENIZER))
    lines = [
        set(re.findall(r"line (\d+) of", tokenizer.decode(tokens.flatten().tolist()))) for tokens in (windows, calibration)
    ]
    assert all(len(numbers) > 100 for numbers in lines) and max(map(int, lines[1])) < min(map(int, lines[0]))
    book.write_text("too short\n" * 50)
    text_stage.main(job.Job("text", text))
    short = job.Job("tokens", ["model=opt-125m", f"eval=own+text={name}", *text])
    assert "fewer than 60 windows of 128; expected at least 7,680" in one_line(lambda: tokens_stage.main(short), CorpusError)


# Before the first job


REFUSED = [
    (
        "study.eval=gptq-old",
        "windows of 2048 tokens, but opt-standin-xs has 128 positions; expected study.eval=gptq-old+window=128",
    ),
    ("study.calibrations=[c4-128x2048]", "expected study.calibrations=[c4-128x2048+length=128]"),
    ("eval.tasks=[hellaswog]", "task 'hellaswog' is unknown; conf/task has"),
    (
        "study.eval=gptq-old+window=128 runtime.data_dir=/nonexistent",
        "no file of this study there; expected one of wikitext-2-raw",
    ),
    ("study.eval=gptq-old+bos=once+window=128", "eval.bos=once: expected one of tokenizer, none"),
    ("study.eval=stdlib+corpora=3", "corpora"),
]


@pytest.mark.parametrize(("overrides", "hint"), REFUSED, ids=[str(number) for number in range(len(REFUSED))])
def test_what_cannot_be_measured_is_refused_before_the_first_job(overrides, hint, monkeypatch):
    for variable in ("PATH", "LORCBENCH_JOB", compose.RUNTIME_VARIABLE):
        monkeypatch.setenv(variable, "")
    assert hint in one_line(lambda: Pipeline({"study": "smoke", "overrides": overrides}), ConfigError)


def test_the_workflow_reads_from_the_data_folder_what_is_there(tmp_path, monkeypatch):
    for variable in ("PATH", "LORCBENCH_JOB", compose.RUNTIME_VARIABLE):
        monkeypatch.setenv(variable, "")
    data = corpus_files.data_folder(tmp_path)
    overrides = f"study.eval=gptq-old+window=128 runtime.data_dir={data} eval.tasks=[piqa,stdlib_prose]"
    pipeline = Pipeline({"study": "smoke", "overrides": overrides})
    names = synthetic.Wildcards(model="opt-standin-xs", text="ptb-validation", task="piqa", protocol="gptq-old+window=128")
    checkpoint = "results/cache/checkpoint/opt-standin-xs/result.json"
    assert pipeline.local_file("text")(names) == [str(data / "ptb" / "ptb.valid.txt")]
    assert pipeline.local_file("task")(names) == []
    assert pipeline.inputs("harness")(names) == [
        *(checkpoint, "results/cache/task/piqa/result.json", "results/cache/text/stdlib/result.json")
    ]
    assert pipeline.inputs("tokens")(names) == [
        checkpoint,
        *(f"results/cache/text/{name}/result.json" for name in ("wikitext2-test", "ptb-validation", "c4-validation")),
    ]


def test_every_corpus_and_calibration_rests_on_a_text_that_there_is():
    for group in ("eval", "calibration"):
        for name in compose.names(group):
            for text in compose.load(group, name).texts():
                assert compose.load("text", text).source in ("stdlib", "hub")


def test_every_task_is_in_the_installed_lm_eval():
    from lorcbench.models.task_definitions import members

    for name in compose.names("task"):
        if (task := compose.load("task", name)).definition:
            assert {member.split for member in members(task)} <= {"test", "validation"}


def test_a_table_of_tasks_names_its_columns(tmp_path):
    from synthetic import result, study

    from lorcbench.report.comparison import changes
    from lorcbench.report.rows import as_csv
    from lorcbench.report.tables import HARNESS_COLUMNS, harness_rows

    both = [result("opt-125m none w16 r0"), result("opt-125m rtn w2-asym-row r0")]
    for one, value in zip(both, (0.5, 0.25), strict=True):
        one.harness = {"piqa/acc": value, "piqa/acc_stderr": 0.01, "piqa/acc_norm": value}
        one.documents = {name: [float(index < 8 * value) for index in range(8)] for name in ("piqa/acc", "piqa/acc_norm")}
        one.tasks, one.prefix_token = {"piqa": {"version": 1.0, "documents": 1838, "shots": 0}}, "</s>"
    table = harness_rows(study(both), both, changes(both))
    rows = list(csv.DictReader(as_csv(HARNESS_COLUMNS, table).splitlines()))
    assert [row["metric"] for row in rows] == ["acc", "acc_norm"] * 2
    assert (rows[2]["value"], rows[2]["stderr"], rows[2]["value_fp"], rows[2]["delta"]) == ("0.25", "0.01", "0.5", "-0.25")
    assert float(rows[2]["delta_low"]) < -0.25 < float(rows[2]["delta_high"]) < 0.15
    assert (rows[3]["stderr"], rows[3]["version"], rows[3]["documents"], rows[3]["prefix_token"]) == ("", "1.0", "1838", "</s>")


def test_a_token_beyond_the_embedding_is_refused_with_the_tokenizer_and_the_vocabulary(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = corpus_files.data_folder(tmp_path / "data")
    for name in ("wikitext2-test", "ptb-validation", "c4-validation"):
        staged(name, f"runtime.data_dir={data}")
    prepared(tmp_path, positions=32, vocab_size=300)
    one = job.Job("tokens", ["model=opt-125m", "eval=gptq-old+max_windows=20+window=32"])
    said = one_line(lambda: tokens_stage.main(one), CorpusError)
    assert said.startswith("the tokenizer of opt-125m makes token ")
    assert "config.json says vocab_size=300" in said

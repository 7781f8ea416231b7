"""A model and a text that the command line gives: what they are called, what runs on them, and what is refused."""

import gzip
import hashlib
import json
from pathlib import Path

import pytest
from synthetic import Wildcards

from lorcbench.config import compose, folders, places
from lorcbench.config.checks import ConfigError
from lorcbench.config.schema import RuntimeConfig
from lorcbench.data import corpora
from lorcbench.jobs.job import Job
from lorcbench.pipeline import checks
from lorcbench.pipeline.explained import explained
from lorcbench.pipeline.rules import Pipeline
from lorcbench.study.cells import Study
from lorcbench.study.expansion import load_study, study_from_arguments
from lorcbench.study.outline import outline
from lorcbench.study.stages import CALIBRATION_TOKENS, TOKENS

LLAMA = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 576, "intermediate_size": 1536, "vocab_size": 500}
LLAMA |= {"num_attention_heads": 9, "max_position_embeddings": 8192}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("LORCBENCH_JOB", "PATH", "PYTHONSAFEPATH", compose.RUNTIME_VARIABLE):
        monkeypatch.setenv(name, "")


@pytest.fixture
def model(tmp_path) -> Path:
    """A folder that looks like a checkpoint."""
    (tmp_path / "my-llama").mkdir()
    (tmp_path / "my-llama" / "config.json").write_text(json.dumps(LLAMA))
    return tmp_path / "my-llama"


@pytest.fixture
def book(tmp_path) -> Path:
    (tmp_path / "My book.txt").write_text("Some text.\n" * 3000)
    return tmp_path / "My book.txt"


def test_own_is_twelve_cells_beside_full_precision(model, book):
    study = load_study("own", model_path=str(model), text_path=str(book))
    quantized = [cell for cell in study.cells if not cell.is_full_precision]
    assert (len(quantized), len(study.cells)) == (12, 13)
    assert {cell.weight for cell in quantized} == {"w4-asym-row", "w4-asym-g64", "w3-asym-row", "w3-asym-g64"}
    assert {(cell.method, cell.rank) for cell in quantized} == {("rtn", 0), ("gptq-best", 0), ("gptq-best", 18)}
    assert pytest.approx(0.03, abs=0.002) == 18 / 576


def test_a_rank_follows_the_width_unless_the_command_line_says_it(model):
    (model / "config.json").write_text(json.dumps(LLAMA | {"hidden_size": 1024}))
    assert {cell.rank for cell in load_study("own", model_path=str(model)).cells} == {0, 32}
    (model / "config.json").write_text(json.dumps(LLAMA | {"hidden_size": 8}))
    assert {cell.rank for cell in load_study("own", ["study.indivisible=skip"], str(model)).cells} == {0, 1}
    assert {cell.rank for cell in load_study("own", ["study.ranks=[0,5]"], str(model)).cells} == {0, 5}
    (model / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"the width of my-llama-\w{6} is not known; expected the ranks themselves"):
        load_study("own", model_path=str(model))


def test_a_text_is_part_of_the_names_of_what_is_made_with_it(model, book):
    study = Pipeline({"model_path": str(model), "text_path": str(book)}).study
    (name,) = study.texts_given
    assert name == f"My-book-{hashlib.sha256(f'{book} text'.encode()).hexdigest()[:6]}"
    assert study.texts == (name,)
    assert study.eval == f"own+text={name}" and study.calibrations == (f"own+text={name}",)
    assert study.name == f"own+model_path={study.models[0]}+text_path={name}"
    assert name in str(TOKENS.folder(study.wildcards(study.cells[0])))
    assert name in str(CALIBRATION_TOKENS.folder(study.wildcards(study.cells[-1])))
    assert f"text {name} is {book}" in outline(study)
    protocol, calibration = compose.load("eval", study.eval), compose.load("calibration", study.calibrations[0])
    assert protocol.corpora["text"].part == "test" and calibration.corpora["text"].part == "calibration"


def test_another_place_or_column_is_another_text(tmp_path, model):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rows.jsonl").write_text('{"text": "a", "body": "b"}\n')
    paths = [str(tmp_path / folder / "rows.jsonl") for folder in "ab"]
    names = {load_study("own", more, str(model), None, path).texts for path in paths for more in ([], ["text.column=body"])}
    assert len(names) == 4


def test_what_stages_are_told_means_the_same_study_and_the_same_names(model, book):
    settings = {"model_path": str(model), "text_path": str(book), "overrides": "text.column=body"}
    pipeline = Pipeline(settings)
    again = study_from_arguments(pipeline._study_arguments())
    assert (again.name, again.cells, again.texts_given) == (
        pipeline.study.name,
        pipeline.study.cells,
        pipeline.study.texts_given,
    )
    (text,) = pipeline.study.texts
    told = pipeline.text_arguments(Wildcards(text=text))
    assert told == f"""text=file 'text.path="{book}"' 'text.column="body"'"""
    assert pipeline.text_arguments(Wildcards(text="stdlib")) == "text=stdlib"
    assert pipeline.given_text("eval")(Wildcards(protocol=pipeline.study.eval)) == told
    assert pipeline.given_text("eval")(Wildcards(protocol="stdlib")) == ""


def test_a_text_that_changes_in_its_place_is_noticed(model, book):
    def asked() -> str:
        pipeline = Pipeline({"model_path": str(model), "text_path": str(book)})
        return pipeline.params("text")(Wildcards(text=pipeline.study.texts[0]))

    before = asked()
    assert asked() == before
    book.write_text("Another text.\n" * 3000)
    assert asked() != before


def test_any_study_runs_on_a_text(book):
    study = load_study("smoke", text_path=str(book))
    assert study.eval.startswith("stdlib+text=My-book-") and study.name.startswith("smoke+text_path=My-book-")
    assert {cell.calibration for cell in study.cells} == {"none", study.eval}
    rehearsed = load_study("lorc+standins=true", ["study.models=[opt-standin-s]"], text_path=str(book))
    assert rehearsed.eval == study.eval


def test_without_a_study_a_model_of_ones_own_is_asked_what_own_asks(model):
    assert checks.study_of({}) == "demo"
    assert checks.study_of({"model_path": str(model)}) == "own"
    assert checks.study_of({"model_path": str(model), "study": "smoke"}) == "smoke"
    with pytest.raises(ConfigError, match=r"text_path=x: expected model_path=FOLDER, .* beside it, or study=NAME"):
        checks.study_of({"text_path": "x"})


def test_a_folder_that_is_no_checkpoint_is_told_from_one_that_is_not_there(tmp_path):
    (tmp_path / "empty").mkdir()
    for path, found in (("empty", "no config.json there"), ("./nowhere", "no such file or folder")):
        with pytest.raises(ConfigError, match=f"model_path={path}: {found}; expected a checkpoint folder .*, a GGUF file, or"):
            load_study("own", model_path=path)


def test_what_is_measured_is_said_where_there_is_no_text_and_where_windows_are_short(model):
    own = load_study("own", model_path=str(model))
    assert any("what Python carries about itself, since there is no text_path=FILE" in line for line in outline(own))
    demo = load_study("demo", ["study.indivisible=skip"], str(model))
    assert any("its windows have 128 tokens, few for a language model" in line for line in outline(demo))
    assert not any("windows" in line for line in outline(own))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("missing.txt", "text_path=missing.txt: no such file or folder; expected a file of plain text"),
        (".", "text_path=.: it is no file; expected a file of plain text"),
        ("x" * 5000, "expected a file of plain text"),
        (1, "text_path=1: expected a file of plain text"),
        ("", "text_path='': expected a file of plain text"),
        ("large.txt", "40 MiB; expected at most 32"),
    ],
)
def test_what_is_no_text_is_refused_in_one_line(path, said, tmp_path, model):
    with (tmp_path / "large.txt").open("wb") as file:
        file.truncate(40 * 2**20)
    with pytest.raises(ConfigError) as error:
        load_study("own", model_path=str(model), text_path=path)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_halves_of_the_text_that_python_carries_are_refused(model):
    with pytest.raises(ConfigError, match=r"own\+text=stdlib: stdlib has no halves, but parts of its own; expected own, or"):
        Pipeline({"model_path": str(model), "overrides": "study.eval=own+text=stdlib"})


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"id": 1, "body": "b"}\n', r"row 1 has no text in column text; its columns are id, body; another is over"),
        ("a.jsonl", "no JSON\n", "cannot be read as jsonl: line 1"),
        ("a.docx", "PK", r"expected a name that ends in one of \.parquet, \.jsonl"),
    ],
)
def test_a_text_of_another_format_or_column_is_refused_before_the_first_job(name, content, said, model, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=said) as error:
        Pipeline({"model_path": str(model), "text_path": name})
    assert "\n" not in str(error.value)


def test_stages_that_see_the_whole_study_take_the_column_of_its_text(model, book):
    job = Job("report", ["study=own", "text.column=body", f'model_path="{model}"', f'text_path="{book}"'])
    assert [text.column for text in study_from_arguments(job.overrides).texts_given.values()] == ["body"]


def test_a_column_without_a_text_is_refused(model):
    with pytest.raises(ConfigError, match=r"text\.column=body: expected text_path=FILE beside it"):
        load_study("own", ["text.column=body"], str(model))


def test_a_folder_wins_over_a_name_on_the_hub(tmp_path, model):
    assert places.place("Qwen/Qwen3-0.6B", "model_path") == "Qwen/Qwen3-0.6B@main"
    assert places.place("Qwen/Qwen3-0.6B@v1.0", "model_path") == "Qwen/Qwen3-0.6B@v1.0"
    (tmp_path / "Qwen").mkdir()
    model.rename(tmp_path / "Qwen" / "Qwen3-0.6B")
    assert places.place("Qwen/Qwen3-0.6B", "model_path") == str(tmp_path / "Qwen" / "Qwen3-0.6B")
    for wrong in ("nothing", "a/b/c", "/a/b", "a b/c", "Qwen/x@", "https://hub/Qwen/x", "./Qwen/x"):
        with pytest.raises(ConfigError, match=r"expected a checkpoint folder .*, or a name on the hub, OWNER/NAME"):
            places.place(wrong, "model_path")


def test_a_name_on_the_hub_is_readable_and_has_its_revision():
    one, other, version = (
        places.model_name(place) for place in ("Qwen/Qwen3-0.6B@main", "Other/Qwen3-0.6B@main", "Qwen/Qwen3-0.6B@refs/pr/1")
    )
    assert one.startswith("Qwen3-0.6B-") and len(one) == len("Qwen3-0.6B-") + 6
    assert version.startswith("Qwen3-0.6B-refs-pr-1-")
    assert len({one, other, version}) == 3


def test_a_model_on_the_hub_whose_config_is_there_is_known_before_the_first_job(monkeypatch):
    monkeypatch.setattr("lorcbench.data.hub.downloading", None)  # nothing is downloaded twice
    place = "some/Llama@v2"
    fetched = places.fetched_config(place)
    fetched.parent.mkdir(parents=True)
    fetched.write_text(json.dumps(LLAMA))
    pipeline = Pipeline({"model_path": place})
    (name,) = pipeline.study.models
    assert {cell.rank for cell in pipeline.study.cells} == {0, 18}
    told = pipeline.model_arguments(Wildcards(model=name))
    assert told == f"model=hub model.name={name} model.repo=some/Llama model.revision=v2"
    assert folders.positions(places.config_folder(pipeline.study.model(name))) == 8192
    assert f"model {name} is {place}" in outline(pipeline.study)
    assert pipeline.downloads() == [f"results/cache/checkpoint/{name}/result.json"]


@pytest.mark.parametrize(
    "said",
    [
        "models=[opt-standin-s]",
        "max_params=1e9",
        "grids=[{models: [opt-standin-s], methods: [rtn], weights: [w4-asym-row]}]",
    ],
)
def test_other_models_beside_a_model_by_its_place_are_refused_and_not_dropped(model, said):
    with pytest.raises(ConfigError, match=rf"^{said[:5]}.*: model_path={model} is the one model .*; leave out one of both$"):
        load_study("own", [f"study.{said}"], str(model))


@pytest.mark.parametrize("key", ["eval", "calibrations"])
def test_a_text_beside_another_that_a_protocol_or_a_calibration_names_is_refused_and_not_dropped(model, book, key):
    value = "own+text=stdlib+window=256" if key == "eval" else "[own+text=stdlib+window=256]".replace("window", "n_samples")
    name = value.strip("[]")
    expected = f"text_path={book}: {key}={name} names a text, too; leave out text_path, or say "
    with pytest.raises(ConfigError) as error:
        load_study("own", [f"study.{key}={value}"], str(model), text_path=str(book))
    assert str(error.value) == f"{expected}{name.replace('+text=stdlib', '')} without text=stdlib"


def test_a_text_too_small_for_any_tokenizer_is_refused_before_the_first_job(model, book):
    (name,) = load_study("own", [], str(model), text_path=str(book)).texts
    least = corpora.SHORTEST * (compose.load("eval", "own").fit + compose.load("calibration", "own").fit)
    book.write_text("a" * least)
    assert Pipeline({"model_path": str(model), "text_path": str(book)}).study.texts == (name,)
    book.write_text("a" * (least - 1))
    expected = (
        f"text_path={book}: {least - 1:,} bytes are too few for the windows of own+text={name}; expected at least {least:,}"
    )
    for check in (Pipeline, planned):
        with pytest.raises(ConfigError) as error:
            check({"model_path": str(model), "text_path": str(book)})
        assert str(error.value).startswith(expected)
    packed = book.with_suffix(".txt.gz")
    packed.write_bytes(gzip.compress(b"a" * least))
    assert packed.stat().st_size < least and planned({"model_path": str(model), "text_path": str(packed)})


def planned(settings: dict) -> Study:
    """What the plan checks before it plans."""
    study = load_study("own", [], settings["model_path"], text_path=settings["text_path"])
    checks.check(study, RuntimeConfig())
    return study


def test_a_job_that_finds_too_few_tokens_names_the_setting_that_gave_the_text(model, book):
    job = Job("tokens", ["model=opt-125m", "eval=own+text=book", "text=file", f'text.path="{book}"'])
    told = explained(job, corpora.CorpusError("corpus text: 1,062 tokens are fewer than 60 windows of 128"))
    assert told == f"text_path={book}: corpus text: 1,062 tokens are fewer than 60 windows of 128"
    assert explained(job, corpora.CorpusError("windows of 4,096 tokens, but tiny has 2,048 positions")) is None

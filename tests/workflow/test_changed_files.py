"""What is given by path and changes in its place is noticed; folders are told apart, and what does not fit them is refused."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import tiny
from runs import snakemake
from safetensors.torch import load_file, save_file
from synthetic import Wildcards

from lorcbench.config import compose, folders
from lorcbench.config.checks import ConfigError
from lorcbench.pipeline.rules import Pipeline
from lorcbench.study.expansion import load_study
from lorcbench.study.outline import outline

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("elsewhere")]

OPT = {"model_type": "opt", "num_hidden_layers": 2, "hidden_size": 48, "ffn_dim": 96, "num_attention_heads": 2}
OPT |= {"vocab_size": 1024, "max_position_embeddings": 128}
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer.model", "merges.txt", "pytorch_model-00001.bin")
RTN = "study.methods=[rtn] study.weights=[w4-asym-row] study.ranks=[0]"


def checkpoint(folder: Path, **changes) -> Path:
    """A folder that looks like a checkpoint."""
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_text("{}")
    (folder / "config.json").write_text(json.dumps(OPT | changes))
    return tiny.header(folder, tiny.opt_shapes(2, 48, 96, 1024))


def params(folder: Path) -> str:
    """What the job `prepare` of a checkpoint folder depends on."""
    pipeline = Pipeline({"study": "smoke", "model_path": str(folder), "overrides": RTN})
    (name,) = pipeline.study.models
    return pipeline.params("prepare")(Wildcards(model=name))


@pytest.mark.parametrize("name", FILES)
def test_every_file_that_a_checkpoint_is_read_from_is_watched(name, tmp_path):
    folder = checkpoint(tmp_path / "m")
    file = folder / name
    before = folders.state(folder)
    assert folders.state(folder) == before
    status = file.stat()
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b" ")  # as long as before, and older
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns - 10**9))
    older = folders.state(folder)
    assert older != before
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    file.write_bytes(content + b" ")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # another size at the same time
    assert folders.state(folder) not in (before, older)
    file.unlink()
    assert folders.state(folder).keys() == before.keys() - {name}


def test_a_file_more_is_noticed_if_a_checkpoint_is_read_from_such_files(tmp_path):
    folder = checkpoint(tmp_path / "m")
    before = params(folder)
    (folder / "optimizer.pt").write_text("x")
    (folder / "README.md").write_text("x")
    assert params(folder) == before
    (folder / "model-00002.safetensors").write_text("x")
    assert params(folder) != before


def test_a_target_of_a_link_that_changes_is_noticed(tmp_path):
    folder = checkpoint(tmp_path / "m")
    blob = tmp_path / "blob"
    blob.write_text("1")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(blob)
    before = params(folder)
    blob.write_text("22")
    assert params(folder) != before


def test_a_checkpoint_of_a_conf_file_is_watched_too_and_no_other_model_is(tmp_path, monkeypatch):
    folder = checkpoint(tmp_path / "m")
    (tmp_path / "conf/model").mkdir(parents=True)
    conf = f"# Mine.\ndefaults: [/schema/model@_here_: model, _self_]\nsource: folder\npath: {folder}\n"
    (tmp_path / "conf/model/mine.yaml").write_text(conf)
    monkeypatch.setenv(compose.EXTRA_CONF, str(tmp_path / "conf"))

    def asked(name: str) -> str:
        pipeline = Pipeline({"study": "smoke", "overrides": f"study.models=[mine,opt-standin-xs] {RTN}"})
        return pipeline.params("prepare")(Wildcards(model=name))

    before = asked("mine"), asked("opt-standin-xs")
    (folder / "model.safetensors").write_text("changed")
    assert asked("mine") != before[0]
    assert asked("opt-standin-xs") == before[1] and '"files"' not in before[1]


def test_a_text_of_ones_own_and_files_of_the_data_folder_are_watched(tmp_path, monkeypatch):
    (tmp_path / "conf/text").mkdir(parents=True)
    conf = f"# Mine.\ndefaults: [/schema/text@_here_: text, _self_]\nsource: file\npath: {tmp_path}/book.txt\n"
    (tmp_path / "conf/text/book.yaml").write_text(conf)
    monkeypatch.setenv(compose.EXTRA_CONF, str(tmp_path / "conf"))
    data = tmp_path / "data"
    text = data / compose.load("text", "wikitext2-test").local[0].replace("*", "x")
    task = data / compose.load("task", "piqa").local[0].replace("*", "x")
    places = {("text", "book"): tmp_path / "book.txt", ("text", "wikitext2-test"): text, ("task", "piqa"): task}
    for file in places.values():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("a")
    for (group, name), file in places.items():

        def asked(group: str = group, name: str = name) -> str:
            pipeline = Pipeline({"study": "smoke", "overrides": f"eval.tasks=[piqa] runtime.data_dir={data}"})
            return pipeline.params(group)(Wildcards({group: name}))

        before, status = asked(), file.stat()
        assert asked() == before
        file.write_text("b")
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns - 10**9))
        assert asked() != before


def test_folders_of_one_name_are_two_models_whatever_was_run_before(tmp_path):
    one, other = (checkpoint(tmp_path / parent / "checkpoint-1000") for parent in "ab")
    names = [load_study("smoke", RTN.split(), str(folder)).models for folder in (one, other, one)]
    assert names[0] == names[2] != names[1]
    assert all(name.startswith("checkpoint-1000-") and len(name) == 22 for (name,) in names)
    link = tmp_path / "latest"
    link.symlink_to(one)
    assert folders.model_name(folders.resolved(str(link), "model_path")) == names[0][0]
    by_hand = folders.resolved(f"{tmp_path}/b/../a/checkpoint-1000/", "model.path")
    assert folders.model_name(by_hand) == names[0][0]


@pytest.mark.parametrize("name", ["null", "1e3", "007", "o'brien", "sp é日", ".hidden", "-", "true"])
def test_any_folder_has_a_name_that_paths_and_hydra_take(name, tmp_path):
    folder = checkpoint(tmp_path / name)
    model = folders.model_name(folder)
    assert re.fullmatch(compose.NAME, model)
    assert compose.unquoted(model) == model


def test_a_folder_may_be_named(tmp_path):
    folder = checkpoint(tmp_path / "m")
    pipeline = Pipeline({"study": "smoke", "model_path": str(folder), "overrides": f"model.name=mine {RTN}"})
    assert pipeline.study.folders == {"mine": str(folder)}
    assert pipeline.model_arguments(Wildcards(model="mine")).startswith("model=folder model.name=mine ")
    assert "model mine is " + str(folder) in outline(pipeline.study)
    for wrong in ("opt-standin-s", "../x", "a/b", ""):
        with pytest.raises(ConfigError, match=r"model\.name="):
            Pipeline({"study": "smoke", "model_path": str(folder), "overrides": f"model.name={wrong} {RTN}"})
    with pytest.raises(ConfigError, match="expected model_path=FOLDER beside it"):
        Pipeline({"study": "smoke", "overrides": f"model.name=mine {RTN}"})


WEIGHTS = "study.methods=[rtn] study.weights=[w4-asym-g16,w4-asym-g32] study.ranks=[0]"


def test_groups_that_do_not_divide_a_folders_widths_are_refused_or_listed(tmp_path):
    folder = str(checkpoint(tmp_path / "m"))
    with pytest.raises(ConfigError, match=r"w4-asym-g32 on m-\w{6}: groups of 32 do not divide its width 48"):
        Pipeline({"study": "smoke", "model_path": folder, "overrides": WEIGHTS})
    study = Pipeline({"study": "smoke", "model_path": folder, "overrides": f"{WEIGHTS} study.indivisible=skip"}).study
    assert study.not_applicable == ((study.models[0], "w4-asym-g32"),)
    assert {cell.weight for cell in study.cells} == {"w16", "w4-asym-g16"}
    activations = f"{RTN} study.activations=[a8-sym-g64]"
    with pytest.raises(ConfigError, match=r"a8-sym-g64 on .* groups of 64 do not divide its width"):
        Pipeline({"study": "smoke", "model_path": folder, "overrides": activations})


def test_widths_are_those_of_the_tensors(tmp_path):
    attention = {f"self_attn.{name}_proj": (rows, 64) for name, rows in {"q": 96, "k": 48, "v": 48}.items()}
    llama = attention | {"self_attn.o_proj": (64, 96), "mlp.gate_proj": (160, 64), "mlp.down_proj": (64, 160)}
    shapes = {f"model.layers.0.{name}.weight": shape for name, shape in llama.items()}
    wider = {"model.layers.1.mlp.down_proj.weight": (64, 192)}
    images = {f"vision_tower.layers.{index}.fc1.weight": (20, 20) for index in range(9)}
    assert folders.widths(str(tiny.header(tmp_path / "llama", shapes | wider | images))) == (64, 96, 160, 192)
    gpt2 = {"h.0.attn.c_attn.weight": (64, 192), "h.0.attn.c_attn.bias": (192,), "h.0.mlp.c_proj.weight": (256, 64)}
    folder = tiny.header(tmp_path / "gpt2", gpt2 | {"h.0.mlp.c_proj.bias": (64,), "wte.weight": (99, 64)})
    assert folders.widths(str(folder)) == (64, 256)
    for unknown in ("{}", "[]", "no JSON", ""):
        (folder / "model.safetensors").write_text(unknown)
        (folder / "config.json").write_text(unknown)
        assert folders.widths(str(folder)) == () and folders.positions(str(folder)) is None


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ("study.eval=stdlib+window=256", "study.eval=stdlib+window=256+window=128"),
        ("study.methods=[gptq] study.calibrations=[stdlib+length=256]", "study.calibrations=[stdlib+length=256+length=128]"),
    ],
)
def test_windows_longer_than_a_folders_positions_are_refused_before_the_first_job(overrides, said, tmp_path):
    folder = str(checkpoint(tmp_path / "m"))
    asked = f"study.weights=[w4-asym-row] study.ranks=[0] {overrides}"
    with pytest.raises(ConfigError, match=r"windows of 256 tokens, but m-\w{6} has 128 positions; expected") as refusal:
        Pipeline({"study": "smoke", "model_path": folder, "overrides": asked})
    assert said in str(refusal.value)


def perplexities(folder: Path, method: str) -> set[str]:
    """The perplexities of a method that the only study of a results folder ends with."""
    (table,) = [path for path in (folder / "results").glob("*/cells.csv") if path.parent.name != "smoke"]
    with open(table, newline="") as file:
        return {row["ppl"] for row in csv.DictReader(file) if row["method"] == method}


@pytest.mark.long
def test_weights_replaced_in_their_folder_give_new_numbers_in_every_row(copy):
    model = shutil.copytree(copy / "results/cache/checkpoint/opt-standin-xs", copy / "m")
    arguments = ("--config", "study=smoke", "model_path=m", f"overrides={RTN} eval.tasks=[]")
    first = snakemake(copy, *arguments)
    assert first.returncode == 0, first.stdout
    before = {method: perplexities(copy, method) for method in ("none", "rtn")}
    assert "Nothing to be done" in snakemake(copy, *arguments).stdout

    weights = model / "model.safetensors"
    status = weights.stat()
    tensors = load_file(weights)
    save_file(
        {name: 1.1 * tensor if "fc1.weight" in name else tensor for name, tensor in tensors.items()}, weights, {"format": "pt"}
    )
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns - 10**12))  # as a copy of an older checkpoint
    again = snakemake(copy, *arguments)
    assert again.returncode == 0, again.stdout
    after = {method: perplexities(copy, method) for method in ("none", "rtn")}
    assert all(not before[method] & after[method] and len(after[method]) == 4 for method in before)


def test_the_first_line_says_which_study_it_is_when_a_second_config_replaces_the_first(tmp_path):
    planned = snakemake(tmp_path, "--dry-run", "--config", "study=smoke", "--config", "overrides=study.ranks=[0]")
    (line,) = [line for line in planned.stdout.splitlines() if line.startswith("study ")]
    assert line.startswith("study demo") and " cells; models: opt-standin-s, opt-standin-m, " in line

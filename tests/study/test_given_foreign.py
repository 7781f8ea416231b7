"""Checkpoints that were quantized elsewhere, on the command line: which cells they are, and what is refused before any job."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest
import tiny
import written

from lorcbench.common.paths import Wildcards
from lorcbench.config import compose, foreign
from lorcbench.config.checks import ConfigError
from lorcbench.config.folders import model_name
from lorcbench.pipeline.rules import Pipeline
from lorcbench.study import exports
from lorcbench.study.expansion import load_study, study_from_arguments
from lorcbench.study.outline import outline

TOKEN = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(compose.RUNTIME_VARIABLE, "")


def folder(name: str, about: dict | None) -> Path:
    """A folder that looks like an OPT checkpoint, quantized or not."""
    path = tiny.header(Path(name).resolve(), tiny.opt_shapes(2, 64, 128, 500))
    config = {"model_type": "opt", "hidden_size": 64, "ffn_dim": 128, "num_hidden_layers": 2, "max_position_embeddings": 4096}
    (path / "config.json").write_text(json.dumps(config | ({"quantization_config": about} if about else {})))
    return path


@pytest.fixture
def base() -> Path:
    return folder("base", None)


GPTQ = written.config("gptq", 4, True, 128)


def test_a_folder_is_one_cell_more_of_its_own_method(base):
    quantized = folder("My GPTQ", GPTQ)
    without = load_study("own", model_path=str(base))
    study = load_study("own", model_path=str(base), foreign_paths=str(quantized))
    (cell,) = set(study.cells) - set(without.cells)
    method = f"foreign+of={model_name(quantized)}"
    assert (cell.method, cell.weight, cell.activation, cell.rank) == (method, "w4-sym-g128", "a16", 0)
    assert cell.model == model_name(base) and study.foreign == {method: str(quantized)}
    assert model_name(quantized) in study.name and study.name != without.name
    assert f"method {method} is {quantized}" in outline(study)
    assert compose.load("method", cell.method).of == model_name(quantized)


@pytest.mark.parametrize(
    ("about", "weight", "activation", "layout"),
    [
        (GPTQ, "w4-sym-g128", "a16", "gptq"),
        (written.config("gptq_v2", 3, False, None), "w3-asym-row", "a16", "gptq_v2"),
        (written.config("awq", 4, False, 64), "w4-asym-g64", "a16", "awq"),
        (written.config("pack-quantized", 2, False, 32), "w2-asym-g32", "a16", "pack-quantized"),
        (written.config("int-quantized", 8, True, None, TOKEN), "w8-sym-row", "a8-sym-token", "int-quantized"),
        (GPTQ | {"dynamic": {"-:.*fc2": {}}, "desc_act": True}, "w4-sym-g128", "a16", "gptq"),
    ],
)
def test_its_formats_are_those_of_its_config(about, weight, activation, layout):
    found = foreign.layout(folder("quantized", about))
    assert (str(found.weight), str(found.activation), found.name) == (weight, activation, layout)


def _scheme(**changes) -> dict:
    """A config of compressed-tensors with changes in its scheme."""
    about = written.config("pack-quantized", 4, True, 32)
    about["config_groups"]["group_0"] |= changes
    return about


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (None, "has no quantization_config"),
        ({"quant_method": "bitsandbytes"}, "quant_method=bitsandbytes; expected compressed-tensors"),
        (GPTQ | {"checkpoint_format": "marlin"}, "checkpoint_format=marlin; expected gptq or gptq_v2"),
        (GPTQ | {"bits": 5}, "bits=5; expected 2, 3, 4 or 8"),
        (GPTQ | {"dynamic": {"+:.*fc2": {"bits": 8}}}, r"dynamic=\+:\.\*fc2; expected one format"),
        (written.config("awq", 4, False, 64) | {"version": "gemv"}, "version=gemv; expected gemm"),
        (_scheme(format="float-quantized"), "format=float-quantized; expected pack-quantized or int-quantized"),
        (_scheme(weights={"num_bits": 4, "strategy": "tensor"}), "strategy=tensor; expected group or channel"),
        (_scheme(input_activations=TOKEN | {"dynamic": False}), "expected none, or int with strategy=token, dynamic"),
        (written.config("pack-quantized", 4, True, 32) | {"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme"),
        ({"quant_method": "gptq"}, "makes no sense here"),
        ({"quant_method": "gptq", "bits": 4, "group_size": "many"}, "makes no sense here"),
    ],
)
def test_what_is_not_read_is_refused_in_one_line(about, message, base):
    quantized = folder("quantized", about)
    with pytest.raises(ConfigError, match=message) as refused:
        load_study("own", model_path=str(base), foreign_paths=str(quantized))
    assert "\n" not in str(refused.value) and str(quantized) in str(refused.value)


def test_it_needs_one_base_model_and_a_folder_that_is_there(base):
    quantized = str(folder("quantized", GPTQ))
    with pytest.raises(ConfigError, match="study smoke has 2 models; expected the one that it was made from"):
        load_study("smoke", foreign_paths=quantized)
    with pytest.raises(ConfigError, match="expected model_path=FOLDER of the model that it was made from"):
        Pipeline({"foreign": quantized})
    with pytest.raises(ConfigError, match="foreign=nowhere: no such file or folder; expected a checkpoint folder"):
        load_study("own", model_path=str(base), foreign_paths="nowhere")
    with pytest.raises(ConfigError, match="expected each folder once"):
        load_study("own", model_path=str(base), foreign_paths=f"{quantized}:{quantized}")
    with pytest.raises(ConfigError, match=r"method foreign: is of no study's file; expected --config foreign=FOLDER"):
        load_study("own", ["study.methods=[foreign]"], model_path=str(base))


def test_several_folders_are_several_cells(base):
    places = [folder("one", GPTQ), folder("other", written.config("awq", 4, False, 64))]
    study = load_study("own", model_path=str(base), foreign_paths=":".join(map(str, places)))
    assert list(study.foreign.values()) == list(map(str, places))
    assert {cell.method for cell in study.cells} >= set(study.foreign)


def test_the_workflow_hands_the_folder_to_its_job_alone_and_watches_its_files(base):
    quantized = folder("My GPTQ", GPTQ)
    settings = {"model_path": str(base), "foreign": str(quantized), "study": "own"}
    pipeline = Pipeline(settings)
    (method,) = pipeline.study.foreign
    names = Wildcards(model=model_name(base), method=method, weight="w4-sym-g128")
    assert shlex.split(pipeline.foreign_arguments(names)) == [f"foreign={compose.quoted(str(quantized))}"]
    assert pipeline.foreign_arguments(Wildcards(method="rtn")) == ""
    before = pipeline.params("quantize")(names)
    assert "model.safetensors" in before
    os.utime(quantized / "model.safetensors", ns=(1, 1))
    assert Pipeline(settings).params("quantize")(names) != before
    again = study_from_arguments(shlex.split(pipeline.study_arguments()))
    assert (again.name, again.cells, again.foreign) == (
        pipeline.study.name,
        pipeline.study.cells,
        pipeline.study.foreign,
    )


def test_it_is_exported_to_nothing(base):
    quantized = folder("quantized", GPTQ)
    study = load_study("own", model_path=str(base), foreign_paths=str(quantized))
    (cell,) = [cell for cell in study.cells if cell.method in study.foreign]
    assert exports.holding(cell) == []
    assert exports.refusal(cell, "merged") == "it was quantized elsewhere, and is a checkpoint already"

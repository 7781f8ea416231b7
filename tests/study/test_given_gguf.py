"""A GGUF file that the command line gives: known by its header before the first job, and refused in one line if it is none."""

from __future__ import annotations

import shlex
import struct
from pathlib import Path

import pytest
from synthetic import Wildcards
from tiny_gguf import FFN, HEADS, HIDDEN, KEYS, LAYERS, require, write

from lorcbench.common.artifacts import read_json
from lorcbench.config import compose, gguf, gguf_header, places
from lorcbench.config.checks import ConfigError
from lorcbench.config.shape import Input
from lorcbench.jobs.job import Job
from lorcbench.pipeline.rules import Pipeline
from lorcbench.stages import prepare
from lorcbench.study import meaning
from lorcbench.study.expansion import load_study, study_from_arguments
from lorcbench.study.outline import outline
from lorcbench.study.stages import PREPARE, StageJob

# A study for 32 positions.
SHORT = "study.eval=stdlib+window=32 study.calibrations=[stdlib+length=32+n_samples=8] study.indivisible=skip"


@pytest.fixture(autouse=True)
def _elsewhere(elsewhere):
    require("gguf")


@pytest.fixture
def file(tmp_path) -> Path:
    return write(tmp_path / "My tiny.Q4_1.gguf", "Q4_1")


def asked(path: str = "My tiny.Q4_1.gguf", **settings: str) -> Pipeline:
    return Pipeline({"study": "smoke", "model_path": path, "overrides": SHORT} | settings)


# The header


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_1"])
def test_our_reader_of_headers_reads_what_the_packages_does(tmp_path, kind):
    from gguf import GGUFReader

    theirs = GGUFReader(write(tmp_path / "a.gguf", kind))
    ours = gguf_header.read(tmp_path / "a.gguf")
    assert ours.tensors == {
        tensor.name: (int(tensor.tensor_type), tuple(int(size) for size in tensor.shape)) for tensor in theirs.tensors
    }
    for name, field in theirs.fields.items():
        if not name.startswith("GGUF."):  # its own names of the version and the counts
            value = field.contents()
            assert ours.values[name] == (len(value) if isinstance(value, list) else value), name


def test_the_types_that_are_called_readable_are_those_that_the_package_dequantizes():
    from gguf import GGMLQuantizationType
    from gguf.quants import _type_traits

    readable = {kind for kind in GGMLQuantizationType if kind in _type_traits or kind.name in ("F32", "F16")}
    assert {int(kind): kind.name for kind in readable} == gguf_header.READABLE


def test_sizes_are_known_before_the_first_job(file):
    header = gguf_header.read(file)
    assert (header.hidden, header.positions, header.widths) == (HIDDEN, 32, (HIDDEN, FFN))
    keys = HIDDEN * KEYS // HEADS
    shape = header.shape
    assert (shape.layers, shape.hidden, shape.vocabulary) == (LAYERS, HIDDEN, header.values["tokenizer.ggml.tokens"])
    assert set(shape.inputs) == {
        Input(HIDDEN, (HIDDEN, keys, keys)),
        Input(HIDDEN, (HIDDEN,)),
        Input(HIDDEN, (FFN, FFN)),
        Input(FFN, (HIDDEN,)),
    }


# The study


def test_a_study_runs_on_it_as_on_a_folder(file):
    study = load_study("own", ["study.indivisible=skip"], "My tiny.Q4_1.gguf")
    (name,) = study.models
    assert name == places.model_name(str(file)) and name.startswith("My-tiny.Q4_1-")
    assert study.folders == {name: str(file)} and study.name.startswith(f"own+model_path={name}")
    assert f"model {name} is {file}" in outline(study)
    assert {cell.rank for cell in study.cells} == {0, 2}  # 3 % of the width
    assert study.model(name).source == "gguf"
    again = study_from_arguments(["study=own", "study.indivisible=skip", f"model_path={compose.quoted(str(file))}"])
    assert (again.name, again.cells) == (study.name, study.cells)
    called = load_study("own", ["study.indivisible=skip", "model.name=mine"], str(file))
    assert called.models == ("mine",)


def test_windows_that_are_longer_than_its_positions_are_refused_before_the_first_job(file):
    with pytest.raises(ConfigError, match=r"windows of 128 tokens, but My-tiny\.Q4_1-\w+ has 32 positions"):
        asked(overrides="study.indivisible=skip")


def test_groups_that_do_not_divide_its_widths_are_refused_before_the_first_job(file):
    with pytest.raises(ConfigError, match=f"groups of 64 do not divide its width {FFN}"):
        asked(overrides=f"{SHORT} study.weights=[w4-asym-g64]".replace(" study.indivisible=skip", ""))


def test_jobs_run_again_when_the_file_has_changed(file):
    def told() -> list[str]:
        pipeline = asked()
        return [pipeline.params(stage)(Wildcards(model=pipeline.study.models[0])) for stage in ("prepare", "gate")]

    before = told()
    assert told() == before
    write(file, "Q8_0")
    after = told()
    assert after[0] != before[0] and after[1] == before[1]


@pytest.mark.slow
def test_prepare_gets_it_and_leaves_what_the_names_of_the_study_mean(file):
    pipeline = asked()
    (name,) = pipeline.study.models
    told = pipeline.model_arguments(Wildcards(model=name))
    assert told == f"""model=gguf model.name={name} 'model.path="{file}"'"""
    prepare.main(Job("prepare", shlex.split(told)))
    job = StageJob(PREPARE, pipeline.study.wildcards(pipeline.study.cells[0]))
    result = read_json(job.folder / "result.json", "checkpoint")
    meaning.check(job, pipeline.study.entry, result)
    assert (result["gguf"]["file"], result["gguf"]["bits"], result["family"]) == (file.name, 4, "llama")


def test_a_relative_path_by_hand_is_the_same_model(file):
    job = Job("prepare", ["model=gguf", 'model.path="My tiny.Q4_1.gguf"'])
    assert (job.names.model, job.model.path) == (places.model_name(str(file)), str(file))
    assert (job.model.source, job.model.name) == ("gguf", job.names.model)


def test_a_link_keeps_its_own_name(file):
    """The hub's cache has the files of a repository as links to others without a readable name."""
    file.rename("a1b2c3")
    Path("model.gguf").symlink_to("a1b2c3")
    assert places.place("model.gguf", "model_path") == str(Path("model.gguf").absolute())
    assert places.model_name(str(Path("model.gguf").absolute())).startswith("model-")


def test_a_folder_of_such_a_name_is_a_folder(tmp_path):
    (tmp_path / "a.gguf").mkdir()
    (tmp_path / "a.gguf" / "config.json").write_text("{}")
    (path,) = load_study("smoke", ["study.indivisible=skip"], "a.gguf").folders.values()
    assert places.model("a", path).source == "folder"


# Refusals


def of_type(path: Path, kind: int) -> None:
    """Give the first matrix of block 0 another type."""
    name = b"blk.0.attn_q.weight"
    data = bytearray(path.read_bytes())
    place = data.index(name) + len(name)
    (dimensions,) = struct.unpack_from("<I", data, place)
    struct.pack_into("<I", data, place + 4 + 8 * dimensions, kind)
    path.write_bytes(data)


def refused(path: str) -> str:
    """The line with which the command line is refused."""
    with pytest.raises(ConfigError) as error:
        asked(path)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"model_path={path}: ")
    return str(error.value)


def test_a_file_that_is_none_is_refused_before_the_first_job(file, tmp_path):
    (tmp_path / "text.gguf").write_text("no such thing\n" * 100)
    assert "no GGUF file; expected a GGUF file of a language model" in refused("text.gguf")
    (tmp_path / "empty.gguf").touch()
    assert "no GGUF file" in refused("empty.gguf")
    data = file.read_bytes()
    for length in (6, 30, 200, 2000):
        (tmp_path / "cut.gguf").write_bytes(data[:length])
        assert "its header is damaged or cut off" in refused("cut.gguf")
    (tmp_path / "other.gguf").write_bytes(data[:4] + data[4:8][::-1] + data[8:])
    assert "of the format, expected 2 or 3 with the lowest byte first" in refused("other.gguf")
    file.rename("model.bin")
    assert "expected a GGUF file, whose name ends in .gguf, or a checkpoint folder" in refused("model.bin")
    Path("model.bin").rename("model-00001-of-00003.gguf")
    assert "one of 3 parts; expected one file" in refused("model-00001-of-00003.gguf")
    assert "no such file; expected a GGUF file" in refused("models/gone.gguf")
    assert "a GGUF file, or a name on the hub" in refused("gone")


def test_damage_anywhere_in_a_header_is_one_line_or_another_header(file, tmp_path):
    data = file.read_bytes()
    for place in range(4, 4000, 37):
        damaged = bytearray(data)
        damaged[place] ^= 0xFF
        (tmp_path / "damaged.gguf").write_bytes(damaged)
        try:
            header = gguf_header.read(tmp_path / "damaged.gguf")
        except gguf_header.HeaderError:
            continue
        assert isinstance(header.widths, tuple) and (header.shape is None or header.shape.layers > 0)


@pytest.mark.parametrize("kind", [9, 41, 1000])
def test_a_type_that_transformers_does_not_read_is_refused_with_its_tensor(file, kind):
    of_type(file, kind)
    line = refused(file.name)
    assert f"blk.0.attn_q.weight is of GGUF's type number {kind}; expected types that transformers reads: F32, F16" in line


def test_the_package_that_reads_it_is_asked_for_before_the_first_job(file, monkeypatch):
    monkeypatch.setattr(gguf.util, "find_spec", lambda name: None)
    line = refused(file.name)
    assert "the package gguf, which reads such a file, is missing; expected `make install-real`, or `pip install" in line


def test_of_a_conf_file_the_same_is_refused_with_its_key(file, tmp_path, monkeypatch):
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "tiny.yaml").write_text(f'# Tiny.\nsource: gguf\npath: "{file}"\n')
    monkeypatch.setenv("LORCBENCH_CONF", str(tmp_path / "conf"))
    overrides = f"{SHORT} study.models=[tiny]"
    assert Pipeline({"study": "smoke", "overrides": overrides}).study.models == ("tiny",)
    of_type(file, 41)
    with pytest.raises(ConfigError, match=r"model\.path=.* of tiny: blk\.0\.attn_q\.weight is of GGUF's type number 41"):
        Pipeline({"study": "smoke", "overrides": overrides})

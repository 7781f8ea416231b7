"""The megabytes of a recommendation are those of the tensors that the export writes, whatever the type of the checkpoint."""

from __future__ import annotations

import pytest
import tiny_exports
import torch

from lorcbench.common.artifacts import read_json
from lorcbench.config.folders import tensors
from lorcbench.core.formats import ActivationFormat, WeightFormat
from lorcbench.jobs import inputs, sources
from lorcbench.jobs.export.cell import ExportedCell
from lorcbench.report.choices import exported_megabytes
from lorcbench.report.exported import files
from lorcbench.report.results import CellResult
from lorcbench.study import exports
from lorcbench.study.stages import PREPARE, QUANTIZE

MIXED = "mixed+base=rtn+bits=4.5+by=depth+formats=w4-w8-sym-g32"
CELLS = [  # kind, type, weight, rank, method, activation
    ("opt", torch.float32, "w4-asym-g32", 0, "rtn", "a16"),
    ("opt", torch.float32, "w3-asym-row", 4, "rtn", "a16"),
    ("opt", torch.float16, "w3-asym-g32", 8, "rtn", "a16"),
    ("opt", torch.float16, "w2-sym-g64-fp32scale", 0, "rtn", "a16"),
    ("opt", torch.float32, "w4-asym-g32-pow2", 4, "rtn", "a16"),  # which only a merged checkpoint holds
    ("bloom", torch.float32, "w4-asym-row", 4, "rtn", "a16"),  # the correction of q, k and v is in three parts
    ("bloom", torch.bfloat16, "w8-asym-row", 0, "rtn", "a8-asym-token"),
    ("llama", torch.bfloat16, "w4-sym-g64", 4, "rtn", "a16"),
    ("llama", torch.float16, "w4-sym-row", 0, "rtn", "a8-sym-token"),
    ("llama", torch.float32, "mixed", 0, MIXED, "a16"),
]


def measured(names) -> CellResult:
    """A cell as the report knows it."""
    folder = PREPARE.folder(names)
    prepared = read_json(folder / "result.json", PREPARE.kind)
    held = files(folder / prepared["folder"], prepared["architecture"])
    bits = read_json(QUANTIZE.folder(names) / "result.json", QUANTIZE.kind)["bits_per_weight"]
    family = prepared["architecture"]["model_type"]
    return CellResult(tiny_exports.as_cell(names), family=family, files=held, bits_per_weight=bits)


def written(names, family: str) -> tuple[str, int]:
    """The format of a cell's export, and bytes of the tensors that it writes."""
    export = exports.default(tiny_exports.as_cell(names), family)
    fmt, activation = WeightFormat.parse(names.weight), ActivationFormat.parse(names.activation)
    weights = inputs.CellWeights(names, fmt, sources.checkpoint(names), names.lorc, int(names.rank))
    parts = ExportedCell(weights, export, activation).parts()
    return export, sum(tensor.nbytes for part in parts for kind in part[:2] for tensor in kind.values())


@pytest.mark.parametrize(("kind", "dtype", "weight", "rank", "method", "activation"), CELLS)
def test_the_megabytes_of_a_cell_are_those_of_its_tensors(kind, dtype, weight, rank, method, activation, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_exports.prepare(tmp_path, kind, dtype)
    names = tiny_exports.cell(weight, rank, method=method, activation=activation)
    result = measured(names)
    export, size = written(names, result.family)
    assert result.files.dtype == str(dtype).removeprefix("torch.")
    whole = read_json(PREPARE.folder(names) / "result.json", PREPARE.kind)["folder"]
    assert result.files.size == sum(one.count * one.size for one in tensors(PREPARE.folder(names) / whole).values())
    said = exported_megabytes(result) * 1e6
    if weight == "mixed":  # which linear has which format is not known, so that it is an upper bound
        assert size <= said < 1.1 * size
    else:
        assert said == size
    assert (export == "merged") == ("pow2" in weight or (kind == "opt" and activation != "a16"))


def test_a_budget_in_megabytes_is_kept_by_the_folder_up_to_its_small_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_exports.in_this_process(monkeypatch)
    tiny_exports.prepare(tmp_path, "opt", torch.float32)
    names = tiny_exports.cell("w3-asym-row", 4)
    said = exported_megabytes(measured(names))
    folder = tiny_exports.run(names, "compressed-tensors", verify="tensors")
    tensors = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    assert said <= tensors / 1e6 <= said + 0.03  # the headers have a few kB
    halved = measured(tiny_exports.cell("w3-asym-row", 4, "plain-fp16"))
    assert exported_megabytes(halved) < said  # factors of 16 bits are smaller in an adapter than those of 8, which are decoded

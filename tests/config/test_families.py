"""Families: one record each, as plain as JSON, from which everything else that is known of a family follows."""

from __future__ import annotations

import ast
import json
from dataclasses import asdict
from pathlib import Path

import pytest

import lorcbench
from lorcbench.config import compose
from lorcbench.config.checks import ConfigError
from lorcbench.config.families import BLOOM, FAMILIES, OPT, Family
from lorcbench.config.schema import ModelConfig, StandinConfig
from lorcbench.pipeline.estimate import shape_of
from lorcbench.study import rehearsal

PACKAGE = Path(lorcbench.__file__).parent
SIZES = {"layers": 2, "hidden": 64, "heads": 4, "ffn": 256}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.model_type)
def test_a_record_survives_json(family):
    again = Family(**json.loads(json.dumps(asdict(family))))
    assert again == family
    assert again.linear_names == family.linear_names
    assert again.standin_config(SIZES, 100, 32) == family.standin_config(SIZES, 100, 32)


def conditions(tree: ast.Module) -> set[str]:
    """The strings that a module compares something with, asks something to start with, or selects by."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Compare | ast.Call | ast.Subscript | ast.MatchValue)]
    parts = []
    for node in nodes:
        if isinstance(node, ast.Compare):
            parts += [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("startswith", "get"):
            parts += node.args
        elif isinstance(node, ast.Subscript):
            parts.append(node.slice)
        elif isinstance(node, ast.MatchValue):
            parts.append(node.value)
    values = [part for node in parts for part in ast.walk(node) if isinstance(part, ast.Constant)]
    return {value.value for value in values if isinstance(value.value, str)}


def test_no_other_module_asks_for_a_family_by_name():
    trees = {path.relative_to(PACKAGE): ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
    assert "rtn" in conditions(trees[Path("report/statements.py")])  # conditions are seen
    asking = {str(path): names for path, tree in trees.items() if (names := conditions(tree) & set(FAMILIES))}
    assert asking == {}


def test_weights_of_a_gated_feed_forward_part_are_three_matrices():
    shape = {"layers": 2, "hidden": 64, "heads": 4, "ffn": 160}
    llama, opt = (
        ModelConfig(name="some", family=family, source="hub", repo="some/model", **shape) for family in ("llama", "opt")
    )
    assert llama.block_weights == 2 * (4 * 64**2 + 3 * 64 * 160)
    assert opt.block_weights == 2 * (4 * 64**2 + 2 * 64 * 160)
    for model in (llama, opt):
        assert model.block_weights == shape_of(model).layers * shape_of(model).block
    assert shape_of(llama).widest == 2 * 64 * 160  # gate and up are swept as one stack


def test_a_folders_shape_is_read_by_the_names_of_its_family(tmp_path):
    def of(**config) -> tuple | None:
        (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 99, **config}))
        shape = shape_of(ModelConfig(name="mine", source="folder", path=str(tmp_path)))
        return shape and (shape.layers, shape.hidden, shape.ffn, shape.vocabulary, shape.mlp_matrices)

    plain = {"num_hidden_layers": 3, "hidden_size": 64}
    assert of(model_type="llama", **plain, intermediate_size=160) == (3, 64, 160, 99, 3)
    assert of(model_type="bloom", n_layer=3, hidden_size=64) == (3, 64, 256, 99, 2)
    assert of(model_type="bloom", num_hidden_layers=3, n_embed=64) == (3, 64, 256, 99, 2)
    assert of(model_type="opt", **plain) is None  # ffn_dim is missing
    assert of(model_type="another", **plain, intermediate_size=160) is None


def test_rows_of_a_fused_linear_run_head_by_head():
    config = {"n_layer": 1, "hidden_size": 8, "n_head": 2}
    (fused,) = BLOOM.fused
    assert BLOOM.fused_rows(fused, config) == {
        "q": [range(0, 4), range(12, 16)],
        "k": [range(4, 8), range(16, 20)],
        "v": [range(8, 12), range(20, 24)],
    }
    assert OPT.fused_rows("fc1", config) is None


def test_a_stand_in_needs_a_known_family():
    with pytest.raises(ConfigError, match=r"model\.family=null: a stand-in needs one of opt, bloom, llama"):
        ModelConfig(name="mine", source="standin", **SIZES, standin=StandinConfig())


def test_published_models_are_rehearsed_by_the_stand_ins_that_there_are(monkeypatch):
    assert [rehearsal._model(name) for name in ("opt-125m", "bloom-7.1b")] == ["opt-standin-s", "bloom-standin-m"]
    llama = ModelConfig(name="llama-1b", family="llama", source="hub", repo="some/llama", **SIZES)
    monkeypatch.setattr(compose, "load", lambda group, name: llama)
    assert rehearsal._model("llama-1b") == "llama-1b"  # no conf/model/llama-standin-s.yaml

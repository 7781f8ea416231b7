"""Families: one record each, as plain as JSON, from which everything else that is known of a family follows."""

from __future__ import annotations

import ast
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import records
import tiny

import lorcbench
from lorcbench.config import compose
from lorcbench.config.checks import ConfigError
from lorcbench.config.families import FAMILIES, Family
from lorcbench.config.schema import ModelConfig, StandinConfig
from lorcbench.pipeline.estimate import shape_of
from lorcbench.study import rehearsal

PACKAGE = Path(lorcbench.__file__).parent
SIZES = {"layers": 2, "hidden": 64, "heads": 4, "ffn": 256}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.model_type)
def test_a_record_survives_json(family):
    again = Family(**json.loads(json.dumps(asdict(family))))
    assert again == family
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


def test_a_folders_shape_follows_its_tensors(tmp_path):
    """Narrow keys and values, heads that are wider together than the hidden states, a gated feed-forward part."""
    attention = {"self_attn.q_proj": (96, 64), "self_attn.k_proj": (48, 64), "self_attn.v_proj": (48, 64)}
    linears = attention | {"self_attn.o_proj": (64, 96), "mlp.gate_proj": (160, 64), "mlp.up_proj": (160, 64)}
    linears |= {"mlp.down_proj": (64, 160)}
    shapes = {f"model.layers.{index}.{name}.weight": shape for index in range(3) for name, shape in linears.items()}
    folder = tiny.header(tmp_path, shapes | {"model.embed_tokens.weight": (99, 64), "model.norm.weight": (64,)})
    shape = shape_of(ModelConfig(name="mine", source="folder", path=str(folder)))
    assert (shape.layers, shape.hidden, shape.vocabulary) == (3, 64, 99)
    assert sorted(shape.inputs) == [(64, (48, 96, 48)), (64, (160, 160)), (96, (64,)), (160, (64,))]
    assert shape.block == sum(rows * width for rows, width in linears.values())
    assert shape.sides == sum(rows + width for rows, width in linears.values())


def test_rows_of_a_fused_linear_run_group_by_group():
    layouts = {"per head": (2, [["q", 1], ["k", 1], ["v", 1]]), "stacked": (1, [["q", 4], ["k", 1], ["v", 1]])}
    rows = {}
    for name, (groups, parts) in layouts.items():
        record = replace(records.BLOOM, fused={"qkv": {"groups": groups, "parts": parts}})
        rows[name] = {part: indices.tolist() for part, indices in record.part_rows("qkv", 24).items()}
        assert record.part_rows("dense", 24) is None
    ranges = {"q": (0, 12), "k": (4, 16), "v": (8, 20)}
    assert rows["per head"] == {part: [*range(a, a + 4), *range(b, b + 4)] for part, (a, b) in ranges.items()}
    assert rows["stacked"] == {"q": [*range(16)], "k": [*range(16, 20)], "v": [*range(20, 24)]}


def test_a_stand_in_needs_a_known_family():
    with pytest.raises(ConfigError, match=r"model\.family=null: a stand-in needs one of opt, bloom, llama"):
        ModelConfig(name="mine", source="standin", **SIZES, standin=StandinConfig())


def test_published_models_are_rehearsed_by_the_stand_ins_that_there_are(monkeypatch):
    assert [rehearsal._model(name) for name in ("opt-125m", "bloom-7.1b")] == ["opt-standin-s", "bloom-standin-m"]
    llama = ModelConfig(name="llama-1b", family="llama", source="hub", repo="some/llama", **SIZES)
    monkeypatch.setattr(compose, "load", lambda group, name: llama)
    assert rehearsal._model("llama-1b") == "llama-1b"  # no conf/model/llama-standin-s.yaml

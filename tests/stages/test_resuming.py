"""A distillation that was killed goes on where it stopped: the same bytes, and no finished block is trained again."""

from __future__ import annotations

import hashlib
import json

import pytest
import tiny
from tiny_stages import QUICK, run

from lorcbench.common.paths import Wildcards
from lorcbench.jobs import distillation
from lorcbench.stages import lorc as lorc_stage
from lorcbench.stages import quantize as stage
from lorcbench.study.stages import LORC, QUANTIZE

pytestmark = pytest.mark.slow


def digests(names: Wildcards) -> dict[str, str]:
    folder = QUANTIZE.folder(names)
    kept = (path for path in sorted(folder.iterdir()) if path.name not in ("run.json", "log.txt"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


@pytest.mark.parametrize("method", ["zq_local", "zq_global", "zq_global+block_input=quantized+lr=auto"])
def test_a_resumed_run_ends_with_the_same_bytes_and_repeats_no_finished_block(tiny_checkpoint, method, monkeypatch):
    tiny_checkpoint("bloom")
    method = method + QUICK if "auto" not in method else method + "+iterations=8"
    names = run(stage.main, method, "a8-asym-token")
    expected = digests(names)
    assert set(expected) == {"result.json", *(f"block00{index}.safetensors" for index in range(tiny.LAYERS))}
    folder = QUANTIZE.folder(names)
    for name in ("result.json", "block002.safetensors"):
        (folder / name).unlink()
    distilled = []
    for function in ("distill_block", "distill_linears"):
        original = getattr(distillation, function)
        monkeypatch.setattr(distillation, function, lambda *args, original=original: distilled.append(1) or original(*args))
    run(stage.main, method, "a8-asym-token")
    assert digests(names) == expected
    assert len(distilled) == 1
    notes = json.loads((folder / "result.json").read_text())["notes"]
    assert all(note["lr"] > 0 for block in notes for note in block.values())


def test_distilled_factors_continue_where_a_killed_run_stopped(tiny_checkpoint):
    tiny_checkpoint("bloom")
    method, lorc = "zq_global" + QUICK, {"lorc": "distilled-int8+held_out=0.25+iterations=20+lr=0.003", "cap": "2"}
    run(stage.main, method)
    folder = LORC.folder(run(lorc_stage.main, method, **lorc))
    kept = [*folder.glob("*.safetensors"), folder / "result.json"]
    whole = {path: path.read_bytes() for path in kept}
    for path in (folder / "result.json", folder / f"block{tiny.LAYERS - 1:03d}.safetensors"):
        path.unlink()
    run(lorc_stage.main, method, **lorc)
    assert {path: path.read_bytes() for path in kept} == whole

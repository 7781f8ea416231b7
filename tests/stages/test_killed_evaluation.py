"""An evaluation that was killed goes on at a rank and at a block: the same bytes, nothing half written, nothing left behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import tiny
from recorded import identity
from tiny_stages import NAMES, run

from lorcbench.common.artifacts import read_json, write_json, write_shard
from lorcbench.common.paths import Wildcards
from lorcbench.jobs import variants
from lorcbench.jobs.job import Job
from lorcbench.jobs.shards import Shards
from lorcbench.jobs.variants import MEASURED, VariantsFailed
from lorcbench.stages import evaluate
from lorcbench.stages import lorc as lorc_stage
from lorcbench.stages import quantize as stage
from lorcbench.study.stages import EVALUATE, TOKENS

pytestmark = pytest.mark.slow

MODEL = ["model=folder", "model.name=tiny", "model.path=unused", "eval=stdlib"]
RECIPE = ["method=rtn", "calibration=stdlib", "weight=w3-asym-g8"]
RANKS = "variants=[r0,plain-int8/r2,plain-int8/r4]"
ONE_AT_A_TIME = ("runtime.hidden_gib=1e-9",)  # no two ranks may walk together then
FOLDER = EVALUATE.folder(Wildcards(**NAMES | {"method": "rtn", "weight": "w3-asym-g8", "protocol": "stdlib"}))
KILLER = Path(__file__).parents[1] / "support/killed.py"


@pytest.fixture
def quantized(tiny_checkpoint):
    """A function: number of test windows → what an evaluation of a tiny model, its quantized weights and factors reads."""

    def make(windows: int) -> None:
        tiny_checkpoint("opt")
        run(stage.main, "rtn", weight="w3-asym-g8")
        lorc_stage.main(Job("lorc", [*MODEL[:3], *RECIPE, "lorc=plain-int8", "cap=32"]))
        names = Wildcards(model="tiny", protocol="stdlib")
        tokens, file = TOKENS.folder(names), "tokens.safetensors"
        corpora = {"one": tiny.windows(windows, 16).int(), "two": tiny.windows(windows // 2, 16, seed=1).int()}
        about = {
            "shards": [{"file": file, "sha256": write_shard(tokens / file, corpora, "tokens")}],
            "corpora": {},
            "added": [],
        }
        write_json(tokens / "result.json", "tokens", about | {"identity": identity(TOKENS, names)})
        evaluate.main(Job("evaluate", [*MODEL, "variants=[r0]", "runtime.batch_tokens=32"]))  # full precision

    return make


@pytest.mark.parametrize("what", ["ranks", pytest.param("full precision", marks=pytest.mark.long)])
def test_killed_at_random_moments_it_ends_with_the_same_bytes(quantized, what):
    quantized(100)
    recipe, folder = [*RECIPE, RANKS], FOLDER
    if what == "full precision":
        recipe, folder = ["variants=[r0]"], EVALUATE.folder(Wildcards(model="tiny", protocol="stdlib"))
        shutil.rmtree(folder)
    overrides = [*MODEL, *recipe, "runtime.keep_minutes=1e-9", "runtime.batch_tokens=32"]
    line = [sys.executable, str(KILLER), "0", str(folder), "hidden.part", "evaluate", json.dumps(overrides)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["kills"] >= 6
    assert "goes on behind block" in done.stderr
    assert set(said["expected"]) == {"result.json", *(["states.safetensors"] if what == "full precision" else [])}
    assert said["others"] == []


def measured(*ranks: str, settings: tuple[str, ...] = ()) -> dict:
    evaluate.main(Job("evaluate", [*MODEL, *RECIPE, f"variants=[{','.join(ranks)}]", *settings]))
    return read_json(FOLDER / "result.json", EVALUATE.kind)


def failing(monkeypatch, variant: str, error: BaseException) -> list[str]:
    """Let the measurement of one rank fail; the list that is returned names those that were begun."""
    begun, original = [], variants.bring_up_to_date

    def bring(job: Job, settings: dict, about: dict, open_model) -> None:
        def opened(job: Job):
            measure = open_model(job)

            def tried(names: list[str]):
                for name in names:
                    begun.append(name)
                    if name != variant:
                        yield from measure([name])
                    elif isinstance(error, Exception):
                        yield name, error
                    else:
                        raise error

            return tried

        original(job, settings, about, opened)

    monkeypatch.setattr(evaluate, "bring_up_to_date", bring)
    return begun


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ArithmeticError("no number")], ids=["killed", "failed"])
def test_a_rank_that_was_measured_is_not_measured_again_when_the_job_ended_without_a_result(quantized, monkeypatch, error):
    quantized(6)
    ranks = ("r0", "plain-int8/r2", "plain-int8/r4")
    whole = measured(*ranks)
    whole_bytes = (FOLDER / "result.json").read_bytes()
    (FOLDER / "result.json").unlink()
    with monkeypatch.context() as context, pytest.raises((KeyboardInterrupt, VariantsFailed)):
        failing(context, "plain-int8/r4", error)
        measured(*ranks)
    (FOLDER / "result.json").unlink(missing_ok=True)  # as Snakemake does with what a failed job made
    assert (FOLDER / MEASURED).is_file()
    with monkeypatch.context() as context:
        begun = failing(context, "", error)
        assert measured(*ranks) == whole
    assert begun == ["plain-int8/r4"]
    assert (FOLDER / "result.json").read_bytes() == whole_bytes
    assert not (FOLDER / MEASURED).exists()


def test_ranks_that_walk_together_have_the_same_bytes_as_alone_and_read_each_block_once(quantized, monkeypatch):
    quantized(6)
    ranks, read = ("r0", "plain-int8/r2", "plain-int8/r4"), []
    original = Shards.block
    monkeypatch.setattr(Shards, "block", lambda self, index: read.append((self.folder, index)) or original(self, index))
    measured(*ranks)
    together, bytes_together = Counter(read), (FOLDER / "result.json").read_bytes()
    assert set(together.values()) == {1} and len(together) == 2 * tiny.LAYERS  # codes, and factors of both ranks
    (FOLDER / "result.json").unlink()
    read.clear()
    measured(*ranks, settings=ONE_AT_A_TIME)
    assert max(Counter(read).values()) == len(ranks)
    assert (FOLDER / "result.json").read_bytes() == bytes_together


@pytest.mark.parametrize("damaged", [0, tiny.LAYERS - 1])
def test_a_rank_whose_factors_are_damaged_takes_none_with_it_that_walks_beside(quantized, damaged):
    quantized(6)
    lorc_stage.main(Job("lorc", [*MODEL[:3], *RECIPE, "lorc=plain-fp16", "cap=32"]))
    whole = measured("r0", "plain-int8/r2")["variants"]
    (FOLDER / "result.json").unlink()
    (shard,) = Path("results/cache/lorc").glob(f"**/plain-fp16/cap32/block{damaged:03d}.safetensors")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(VariantsFailed, match=r"plain-fp16/r2: ArtifactError: .*block") as failed:
        measured("r0", "plain-fp16/r2", "plain-int8/r2")
    assert list(failed.value.variants) == ["plain-fp16/r2"]
    assert read_json(FOLDER / "result.json", EVALUATE.kind)["variants"] == whole


def test_what_was_measured_of_other_inputs_or_is_damaged_is_measured_again(quantized, monkeypatch):
    quantized(6)
    whole = measured("r0", "plain-int8/r2")
    for wrong in ("other", "damaged"):
        (FOLDER / "result.json").unlink()
        entry = whole["variants"]["r0"] | {"nll": {"one": [0.0]}} | ({"identity": "other"} if wrong == "other" else {})
        write_json(FOLDER / MEASURED, MEASURED, {"variants": {"r0": entry}})
        if wrong == "damaged":
            (FOLDER / MEASURED).write_text((FOLDER / MEASURED).read_text().replace("0.0", "1.0"))
        assert measured("r0", "plain-int8/r2") == whole
        assert not (FOLDER / MEASURED).exists()


def test_the_terminal_says_which_rank_and_which_block_and_how_long_it_will_take(quantized, monkeypatch, capsys):
    from lorcbench.jobs import progress

    quantized(6)
    monkeypatch.setattr(progress, "_EVERY", 0)
    monkeypatch.setattr("lorcbench.jobs.job._BETWEEN_IN_A_FILE", 0)
    monkeypatch.setattr(progress, "_PART", 0)
    measured("r0", "plain-int8/r2")
    lines = [line for line in capsys.readouterr().err.splitlines() if "block" in line]
    start = "[evaluate tiny rtn w3-asym-g8] rank"
    assert lines[0].startswith(f"{start}s 1 to 2 of 2, block 0/{tiny.LAYERS}, ")
    assert any(line.startswith(f"{start}s 1 to 2 of 2, block 2/{tiny.LAYERS}, ") for line in lines)
    (FOLDER / "result.json").unlink()
    measured("r0", "plain-int8/r2", settings=ONE_AT_A_TIME)
    lines = [line for line in capsys.readouterr().err.splitlines() if "block" in line]
    assert lines[0].startswith(f"{start} r0 (1 of 2), block 0/{tiny.LAYERS}, ")
    assert any(line.startswith(f"{start} plain-int8/r2 (2 of 2), block 2/{tiny.LAYERS}, ") for line in lines)
    assert all(line.endswith(" s left") and ", about " in line for line in lines[1:])
    (FOLDER / "result.json").unlink()
    measured("r0")
    lines = [line for line in capsys.readouterr().err.splitlines() if "block" in line]
    assert lines[-1].startswith(f"[evaluate tiny rtn w3-asym-g8] block {tiny.LAYERS - 1}/{tiny.LAYERS}, ")

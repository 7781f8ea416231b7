"""An evaluation compared with full precision's: what it gives, what it reads, and what happens when that is gone or other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny
import torch
import transformers
from recorded import identity
from safetensors.torch import load_file
from tiny_stages import NAMES, run

from lorcbench.common.artifacts import ArtifactError, read_json, write_json, write_shard
from lorcbench.common.paths import Wildcards
from lorcbench.config import compose
from lorcbench.config.checks import ConfigError
from lorcbench.core.formats import ActivationFormat
from lorcbench.jobs import full_precision
from lorcbench.jobs.job import Job
from lorcbench.jobs.variants import VariantsFailed
from lorcbench.models import discovery, final_states, states
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.final_states import FinalStates
from lorcbench.models.perplexity import window_scores
from lorcbench.stages import evaluate, quantize
from lorcbench.study.stages import EVALUATE, TOKENS

pytestmark = pytest.mark.slow

MODEL = ["model=folder", "model.name=tiny", "model.path=unused"]
RTN = ["method=rtn", "calibration=stdlib", "weight=w3-asym-g8"]
WINDOWS = {"one": tiny.windows(6, 16), "two": tiny.windows(3, 16, seed=1)}
FULL = ActivationFormat(16)


def folder_of(recipe: dict, protocol: str = "stdlib") -> Path:
    return EVALUATE.folder(Wildcards(**{"model": "tiny", "protocol": protocol} | recipe))


FULL_FOLDER = folder_of({})
STATES = FULL_FOLDER / full_precision.STATES
RTN_FOLDER = folder_of(NAMES | {"method": "rtn", "weight": "w3-asym-g8"})


def stage_tokens(protocol: str = "stdlib") -> None:
    """Leave test windows as the tokens stage does."""
    names = Wildcards(model="tiny", protocol=protocol)
    folder, file = TOKENS.folder(names), "tokens.safetensors"
    sha = write_shard(folder / file, {corpus: tokens.int() for corpus, tokens in WINDOWS.items()}, "tokens")
    about = {"shards": [{"file": file, "sha256": sha}], "corpora": {}, "added": []}
    write_json(folder / "result.json", "tokens", about | {"identity": identity(TOKENS, names)})


def measured(*recipe: str, protocol: str = "stdlib") -> dict:
    """What an evaluation by this process gives of the cell without LoRC."""
    job = Job("evaluate", [*MODEL, f"eval={protocol}", "variants=[r0]", "runtime.batch_tokens=32", *recipe])
    evaluate.main(job)
    return read_json(job.folder / "result.json", EVALUATE.kind)["variants"]["r0"]


@pytest.fixture
def quantized(tiny_checkpoint) -> Path:
    """A tiny checkpoint, quantized, with its test windows; returns its folder."""
    checkpoint = tiny_checkpoint("opt")
    run(quantize.main, "rtn", weight="w3-asym-g8")
    stage_tokens()
    return checkpoint


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("gptq-old+divergence=true", "gptq-old"),
        ("gptq-old+divergence=false", "gptq-old+divergence=false"),
        ("gptq-old+divergence=false+dtype=float16", "gptq-old-half+divergence=false"),
    ],
)
def test_a_protocol_without_has_a_name_of_its_own_and_one_with_the_settings_of_older_results(typed, name):
    assert compose.canonical("eval", typed) == name
    assert ("divergence" in compose.load("eval", name).protocol()) == ("false" in name)


def test_full_precision_stores_its_final_states_and_is_compared_with_itself(quantized):
    entry = measured()
    assert entry["kl"] == {"one": [0.0] * 6, "two": [0.0] * 3}
    assert entry["agree"] == {"one": [1.0] * 6, "two": [1.0] * 3}
    stored = load_file(STATES)
    model = transformers.AutoModelForCausalLM.from_pretrained(quantized, dtype=torch.float32)
    kept = {}
    model.model.decoder.layers[-1].register_forward_hook(lambda module, args, output: kept.update(hidden=output))
    for corpus, tokens in WINDOWS.items():
        with torch.no_grad():
            model(tokens)
        hidden = kept["hidden"] if isinstance(kept["hidden"], torch.Tensor) else kept["hidden"][0]
        assert torch.allclose(stored[corpus], hidden, atol=1e-5)


def test_a_cell_is_as_far_from_full_precision_as_the_whole_models_are(quantized):
    """transformers' own model twice, once with the quantized weights; textbook divergence in float64."""
    from lorcbench.core.formats import WeightFormat
    from lorcbench.jobs.quantized import QuantizedModel

    measured()
    entry = measured(*RTN)
    full, cell = (transformers.AutoModelForCausalLM.from_pretrained(quantized, dtype=torch.float32) for _ in range(2))
    weights = QuantizedModel(Wildcards(**NAMES | {"method": "rtn", "weight": "w3-asym-g8"}), WeightFormat.parse("w3-asym-g8"))
    for index, layer in enumerate(cell.model.decoder.layers):
        layer.load_state_dict({f"{name}.weight": weight for name, weight in weights.block(index).items()}, strict=False)
    for corpus, tokens in WINDOWS.items():
        with torch.no_grad():
            logits, other = (model(tokens).logits[:, :-1].double() for model in (full, cell))
        p, q = (torch.distributions.Categorical(logits=each) for each in (logits, other))
        expected = torch.distributions.kl_divergence(p, q).mean(1)
        assert torch.allclose(torch.tensor(entry["kl"][corpus]).double(), expected, rtol=1e-3, atol=1e-6)
        assert entry["agree"][corpus] == pytest.approx((logits.argmax(-1) == other.argmax(-1)).double().mean(1).tolist())
    assert min(value for values in entry["kl"].values() for value in values) > 0


def test_losses_are_those_of_an_evaluation_without_and_that_one_stores_and_reads_nothing(quantized):
    without = "stdlib+divergence=false"
    stage_tokens(without)
    alone = measured(*RTN, protocol=without)  # there is no evaluation of full precision
    full_alone = measured(protocol=without)
    assert not alone.keys() & {"kl", "agree", "states"} and not full_alone.keys() & {"kl", "agree", "states"}
    assert not (folder_of({}, without) / full_precision.STATES).exists()
    full = measured()
    compared = measured(*RTN)
    assert (compared["nll"], full["nll"]) == (alone["nll"], full_alone["nll"])
    assert compared["identity"] != alone["identity"]


@pytest.mark.parametrize("hidden_bytes", [2**30, 1], ids=["memory", "file"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["opt", "bloom"])
def test_weights_that_are_not_rounded_give_a_divergence_of_zero(tmp_path, kind, dtype, hidden_bytes):
    """The computed way: all states are read back, and both heads are multiplied."""
    checkpoint = tiny.checkpoint(tmp_path / kind, kind)
    walk = BlockWalk(discovery.opened(checkpoint), dtype, batch_tokens=32, hidden_bytes=hidden_bytes, scratch=tmp_path)
    path = tmp_path / "states.safetensors"
    arguments = (walk, WINDOWS, lambda index: {}, FULL)
    losses = window_scores(*arguments, store=lambda hidden: final_states.write(path, hidden))
    again = window_scores(*arguments, full=FinalStates(path, WINDOWS, dtype).read)
    assert again["nll"] == losses["nll"]
    assert again["kl"] == {"one": [0.0] * 6, "two": [0.0] * 3}
    assert again["agree"] == {"one": [1.0] * 6, "two": [1.0] * 3}


def test_states_are_written_and_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(states, "_PIECE", 100)
    hidden = {"b": torch.randn(5, 4, 3), "a": torch.randn(2, 4, 3)}
    path = tmp_path / "states.safetensors"
    sha = final_states.write(path, hidden)
    assert sha == final_states.write(path, hidden)
    assert all(torch.equal(tensor, hidden[corpus]) for corpus, tensor in load_file(path).items())
    windows = {corpus: torch.zeros(tensor.shape[:2]) for corpus, tensor in hidden.items()}
    read = FinalStates(path, windows, torch.float32).read
    assert torch.equal(read("b", slice(2, 9)), hidden["b"][2:])
    assert torch.equal(read("a", slice(0, 1)), hidden["a"][:1])
    for wrong in ({"a": windows["a"]}, windows | {"a": windows["a"][:1]}):
        with pytest.raises(ArtifactError, match="of other windows"):
            FinalStates(path, wrong, torch.float32)


def test_deleted_damaged_or_foreign_states_are_named_with_what_to_do(quantized):
    measured()
    content, result = STATES.read_bytes(), (FULL_FOLDER / "result.json").read_text()
    STATES.unlink()
    with pytest.raises(ArtifactError, match=rf"^{STATES}: missing; delete the folder {FULL_FOLDER} and run again$"):
        measured(*RTN)
    STATES.write_bytes(content[:-1] + b"\x00\x01"[content[-1] == 0 :][:1])
    with pytest.raises(ArtifactError, match="its digest does not match"):
        measured(*RTN)
    STATES.write_bytes(content)
    expected = measured(*RTN)
    STATES.unlink()
    assert measured(*RTN) == expected, "what is measured needs them no more"
    measured()  # full precision's own evaluation makes them again
    assert (STATES.read_bytes(), (FULL_FOLDER / "result.json").read_text()) == (content, result)
    shutil.rmtree(FULL_FOLDER)
    with pytest.raises(ArtifactError, match=rf"{FULL_FOLDER}/result.json: missing"):
        measured(*RTN)


def test_a_result_of_the_time_before_there_were_states_is_named(quantized):
    measured()
    rewrite(FULL_FOLDER / "result.json", lambda entry: entry.pop("states"))
    with pytest.raises(ArtifactError, match="names no final hidden states to compare with; delete the folder"):
        measured(*RTN)


def rewrite(path: Path, change) -> None:
    """Change the entry of full precision."""
    result = read_json(path, EVALUATE.kind)
    change(result["variants"]["r0"])
    write_json(path, EVALUATE.kind, {key: value for key, value in result.items() if key not in ("digest", "kind", "format")})


def test_other_states_make_what_was_compared_with_them_outdated(quantized):
    measured()
    before = measured(*RTN)
    full = load_file(STATES)
    sha = final_states.write(STATES, {corpus: tensor.roll(1, 2) for corpus, tensor in full.items()})
    rewrite(FULL_FOLDER / "result.json", lambda entry: entry["states"].update(sha256=sha))
    after = measured(*RTN)
    assert after["nll"] == before["nll"]
    assert after["kl"] != before["kl"]
    assert after["identity"] != before["identity"]


def test_states_of_another_checkpoint_are_refused(quantized):
    measured()
    rewrite(FULL_FOLDER / "result.json", lambda entry: entry["states"]["made_from"].update(checkpoint="other"))
    with pytest.raises(ArtifactError, match="made from another checkpoint than the one that is there"):
        measured(*RTN)


def test_a_disk_without_room_is_named_before_the_walk(quantized, monkeypatch):
    usage = shutil.disk_usage(quantized)
    monkeypatch.setattr(full_precision.shutil, "disk_usage", lambda folder: usage._replace(free=10))
    monkeypatch.setattr(BlockWalk, "embed", lambda *_: pytest.fail("the walk began"))
    with pytest.raises(ConfigError, match=r"expected 0\.0 GB for final hidden states, or eval=stdlib\+divergence=false"):
        measured()


def test_predictions_that_are_no_numbers_are_named(quantized):
    measured()
    broken = {corpus: torch.full_like(tensor, torch.nan) for corpus, tensor in load_file(STATES).items()}
    sha = final_states.write(STATES, broken)
    rewrite(FULL_FOLDER / "result.json", lambda entry: entry["states"].update(sha256=sha))
    with pytest.raises(VariantsFailed, match="the divergence from full precision of 6 windows is no number"):
        measured(*RTN)

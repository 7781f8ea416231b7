"""Stand-ins: seeded from the first weight to the last, trained by what training does, and refused when they learned nothing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from runs import stage

from lorcbench.common.artifacts import write_text
from lorcbench.config import compose
from lorcbench.config.checks import ConfigError
from lorcbench.config.families import FAMILIES
from lorcbench.config.schema import ModelConfig, StandinConfig
from lorcbench.data.stdlib_text import VOCABULARY as TOKENS
from lorcbench.models.standin import GateError, build, gate, train
from lorcbench.pipeline.rules import Pipeline

VOCABULARY, LENGTH, STEPS = 40, 24, 12
# Two "languages" in which the next token follows from the last.
STREAMS = {"up": torch.arange(600) % 20, "down": 39 - torch.arange(600) * 3 % 20}
WINDOWS = {name: stream[:480].view(-1, LENGTH) for name, stream in STREAMS.items()}


def settings(family: str, seed: int = 0, steps: int = STEPS) -> ModelConfig:
    standin = StandinConfig(vocabulary=VOCABULARY, positions=LENGTH, steps=steps, batch=4, length=LENGTH, seed=seed)
    return ModelConfig(name="tiny", family=family, source="standin", layers=2, hidden=32, heads=2, ffn=48, standin=standin)


def trained(family: str, **changes):
    chosen = settings(family, **changes)
    model = build(chosen)
    train(model, chosen.standin, STREAMS, lambda done, total: None)
    return model


def same_weights(one, other) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@torch.no_grad()
def loss(model, corpus: str) -> float:
    return float(model(WINDOWS[corpus], labels=WINDOWS[corpus]).loss)


@pytest.mark.parametrize("family", FAMILIES)
def test_building_is_seeded(family):
    torch.manual_seed(11)
    first = build(settings(family))
    torch.manual_seed(12)
    assert same_weights(first, build(settings(family)))
    assert not same_weights(first, build(settings(family, seed=1)))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_has_the_shape_and_family_asked_for(family):
    model = build(settings(family))
    assert model.config.model_type == family
    assert model.config.num_hidden_layers == 2
    assert model.get_input_embeddings().weight.shape == (VOCABULARY, 32)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert model(WINDOWS["up"][:1]).logits.shape == (1, LENGTH, VOCABULARY)


@pytest.mark.parametrize("family", FAMILIES)
def test_training_lowers_the_loss_on_every_corpus(family):
    before, after = build(settings(family)), trained(family)
    for corpus in STREAMS:
        assert loss(after, corpus) < 0.9 * loss(before, corpus)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_trains_to_identical_weights(family):
    torch.manual_seed(21)
    first = trained(family, steps=4)
    torch.manual_seed(22)
    assert same_weights(first, trained(family, steps=4))
    assert not same_weights(first, trained(family, steps=4, seed=1))


def test_batches_depend_on_the_seed_alone():
    def from_one_start(seed: int, state: int):
        model, chosen = build(settings("opt")), settings("opt", seed=seed, steps=2)
        torch.manual_seed(state)
        train(model, chosen.standin, STREAMS, lambda done, total: None)
        return model

    assert same_weights(from_one_start(seed=0, state=1), from_one_start(seed=0, state=2))
    assert not same_weights(from_one_start(seed=0, state=1), from_one_start(seed=1, state=1))


@pytest.mark.parametrize("family", FAMILIES)
def test_training_reaches_every_parameter_and_leaves_the_model_ready(family):
    start, model = build(settings(family)).state_dict(), trained(family)
    # OPT keeps two positions for padding, and its last position predicts nothing: a row may rest, a tensor may not.
    assert [name for name, weight in model.state_dict().items() if torch.equal(weight, start[name])] == []
    assert all(torch.isfinite(weight).all() for weight in model.state_dict().values())
    assert not model.training


def test_progress_is_told_after_every_step():
    chosen, told = settings("opt", steps=3), []
    train(build(chosen), chosen.standin, STREAMS, lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


class Oracle(torch.nn.Module):
    """Predicts each next token of the streams with the probability `sure`."""

    def __init__(self, sure: float) -> None:
        super().__init__()
        self.config = SimpleNamespace(vocab_size=VOCABULARY)
        probabilities = torch.full((VOCABULARY, VOCABULARY), (1 - sure) / (VOCABULARY - 1))
        for stream in STREAMS.values():
            probabilities[stream[:-1], stream[1:]] = sure
        self.logits = probabilities.log()

    def forward(self, tokens: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits[tokens])


def test_a_good_model_passes_with_its_perplexities():
    found = gate(Oracle(0.8), STREAMS, WINDOWS)
    assert found.keys() == STREAMS.keys()
    for corpus, values in found.items():
        counts = [1 + int((STREAMS[corpus] == token).sum()) for token in range(VOCABULARY)]
        logs = [-torch.tensor(counts[token] / sum(counts)).log() for token in WINDOWS[corpus][:, 1:].flatten()]
        assert values["ppl"] == pytest.approx(1 / 0.8, rel=1e-5)
        assert values["unigram_ppl"] == pytest.approx(float(torch.stack(logs).mean().exp()), rel=1e-5)


@pytest.mark.parametrize(("margin", "passes"), [(0.99, True), (1.01, False)])
def test_the_gate_stands_at_a_third_of_the_unigram_perplexity(margin, passes):
    unigram = gate(Oracle(0.8), STREAMS, WINDOWS)["up"]["unigram_ppl"]
    model = Oracle(3 / unigram / margin)
    if passes:
        assert gate(model, STREAMS, WINDOWS)["up"]["ppl"] == pytest.approx(margin * unigram / 3, rel=1e-5)
    else:
        with pytest.raises(GateError, match=r" up "):
            gate(model, STREAMS, WINDOWS)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_untrained_model_is_refused_with_corpus_and_numbers(family):
    model = build(settings(family)).eval()
    with pytest.raises(GateError) as caught:
        gate(model, STREAMS, WINDOWS)
    message = str(caught.value)
    with torch.no_grad():
        perplexity = float(torch.tensor(loss(model, "up")).exp())
    unigram = gate(Oracle(0.8), STREAMS, WINDOWS)["up"]["unigram_ppl"]
    assert " up " in message
    assert f"{perplexity:.1f}" in message
    assert f"{unigram:.1f}" in message
    assert "\n" not in message


def test_the_worse_corpus_is_the_one_that_is_named():
    model = Oracle(0.8)
    model.logits = model.logits.clone()
    model.logits[STREAMS["down"]] = 0.0
    with pytest.raises(GateError, match=r" down "):
        gate(model, STREAMS, WINDOWS)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_linears_have_as_many_weights_as_the_configuration_counts(family):
    chosen = settings(family)
    chosen.ffn = 4 * chosen.hidden  # BLOOM knows no other
    blocks = build(chosen).get_submodule(FAMILIES[family].blocks)
    linears = [block.get_submodule(name) for block in blocks for name in FAMILIES[family].linear_names]
    assert sum(linear.weight.numel() for linear in linears) == chosen.block_weights
    assert sum(isinstance(module, torch.nn.Linear) for module in blocks.modules()) == len(linears)


def test_another_vocabulary_than_the_tokenizers_is_refused_before_the_first_job(tmp_path, monkeypatch):
    conf = compose.conf_dir() / "model/opt-standin-xs.yaml"
    (tmp_path / "model").mkdir()
    changed = conf.read_text(encoding="utf-8").replace("standin: {", "standin: {vocabulary: 512, ")
    write_text(tmp_path / "model/mine.yaml", changed)
    monkeypatch.setenv(compose.EXTRA_CONF, str(tmp_path))
    for name in ("PATH", "LORCBENCH_JOB", compose.RUNTIME_VARIABLE):
        monkeypatch.setenv(name, "")
    refused = rf"model\.standin\.vocabulary=512: expected {TOKENS}, "
    with pytest.raises(ConfigError, match=refused):
        Pipeline({"study": "smoke", "overrides": "study.models=[mine]"})
    assert compose.load("model", "opt-standin-xs").standin.vocabulary == TOKENS
    assert Pipeline({"study": "smoke"}).study.cells


@pytest.mark.slow
def test_another_vocabulary_than_the_tokenizers_is_refused_by_hand_too(tmp_path):
    conf = compose.conf_dir() / "model/opt-standin-xs.yaml"
    changed = conf.read_text(encoding="utf-8").replace("standin: {", "standin: {vocabulary: 2048, ")
    write_text(tmp_path / "model/mine.yaml", changed)
    refused = stage(tmp_path, "prepare", "model=mine", **{compose.EXTRA_CONF: str(tmp_path)})
    assert refused.returncode != 0
    (line,) = refused.stderr.splitlines()
    assert f"model.standin.vocabulary=2048: expected {TOKENS}, " in line

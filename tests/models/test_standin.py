"""Stand-ins: seeded from the first weight to the last, trained by what training does, and refused when they learned nothing."""

from __future__ import annotations

import hashlib
from dataclasses import replace
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
from lorcbench.models.standin import GateError, build, channel_statistics, finish, gate, train
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


def planted(**changes) -> ModelConfig:
    """The tiny OPT with 3 outlier channels, and 8 dead neurons beside its 48, or with `changes` instead."""
    chosen = settings("opt")
    values = {"outlier_channels": 3, "outlier_scale": 32.0, "dead_neurons": 8} | changes
    return replace(chosen, ffn=48 + values["dead_neurons"], standin=replace(chosen.standin, **values))


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
    linears = [module for module in build(chosen).base_model.modules() if isinstance(module, torch.nn.Linear)]
    assert sum(linear.weight.numel() for linear in linears) == chosen.block_weights
    assert len(linears) == chosen.layers * {"opt": 6, "bloom": 4, "llama": 7}[family]


def test_another_vocabulary_than_the_tokenizers_is_refused_before_the_first_job(tmp_path, monkeypatch):
    conf = compose.conf_dir() / "model/opt-standin-xs.yaml"
    (tmp_path / "model").mkdir()
    changed = conf.read_text(encoding="utf-8").replace("standin: {", "standin: {vocabulary: 512, ")
    write_text(tmp_path / "model/another.yaml", changed)
    monkeypatch.setenv(compose.EXTRA_CONF, str(tmp_path))
    for name in ("PATH", "LORCBENCH_JOB", compose.RUNTIME_VARIABLE):
        monkeypatch.setenv(name, "")
    refused = rf"model\.standin\.vocabulary=512: expected {TOKENS}, "
    with pytest.raises(ConfigError, match=refused):
        Pipeline({"study": "smoke", "overrides": "study.models=[another]"})
    assert compose.load("model", "opt-standin-xs").standin.vocabulary == TOKENS
    assert Pipeline({"study": "smoke"}).study.cells


@pytest.mark.slow
def test_another_vocabulary_than_the_tokenizers_is_refused_by_hand_too(tmp_path):
    conf = compose.conf_dir() / "model/opt-standin-xs.yaml"
    changed = conf.read_text(encoding="utf-8").replace("standin: {", "standin: {vocabulary: 2048, ")
    write_text(tmp_path / "model/another.yaml", changed)
    refused = stage(tmp_path, "prepare", "model=another", **{compose.EXTRA_CONF: str(tmp_path)})
    assert refused.returncode != 0
    (line,) = refused.stderr.splitlines()
    assert f"model.standin.vocabulary=2048: expected {TOKENS}, " in line


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(tokens).logits for tokens in WINDOWS.values()])


def test_planting_outliers_changes_no_output_by_a_single_bit():
    plain, chosen = build(settings("opt")), planted(dead_neurons=0)
    network = build(chosen)
    assert torch.equal(logits(network), logits(plain))
    finish(network, chosen.standin)
    assert torch.equal(logits(network), logits(plain))
    assert network.state_dict().keys() == plain.state_dict().keys()
    for name, weight in network.state_dict().items():
        other = plain.state_dict()[name]
        columns = (weight != other).any(0).nonzero().flatten() if weight.ndim == 2 else (weight != other).nonzero().flatten()
        reads = name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "fc1.weight"))
        norm = "layers" in name and name.endswith("layer_norm.weight")
        assert len(columns) == (3 if reads or norm else 0), name


def test_trained_outliers_are_still_outliers_where_norms_are_read_and_training_works():
    chosen = planted()
    network = build(chosen)
    train(network, chosen.standin, STREAMS, lambda done, total: None)
    finish(network, chosen.standin)
    ordinary = channel_statistics(trained("opt"), WINDOWS)
    uneven = channel_statistics(network, WINDOWS)
    assert uneven.keys() == {"self_attn.q_proj", "self_attn.out_proj", "fc1", "fc2"}
    for name in ("self_attn.q_proj", "fc1"):
        assert all(one["max_over_median"] > 20 for one in uneven[name])
        assert all(one["max_over_median"] < 10 for one in ordinary[name])
    for corpus in STREAMS:
        assert loss(network, corpus) < 0.9 * loss(build(settings("opt")), corpus)


def test_dead_neurons_never_fire_and_their_columns_are_ordinary():
    chosen = planted(outlier_channels=0)
    network = build(chosen)
    train(network, chosen.standin, STREAMS, lambda done, total: None)
    before = logits(network)
    live = {name: weight.clone() for name, weight in network.state_dict().items()}
    finish(network, chosen.standin)
    assert network.config.ffn_dim == 56
    torch.testing.assert_close(logits(network), before)
    assert all(one["dead"] >= 8 for one in channel_statistics(network, WINDOWS)["fc2"])
    for index, block in enumerate(network.model.decoder.layers):
        prefix = f"model.decoder.layers.{index}"
        assert block.fc1.weight.shape == (56, 32) and block.fc2.weight.shape == (32, 56)
        assert torch.equal(block.fc1.weight[:48], live[f"{prefix}.fc1.weight"])
        columns = live[f"{prefix}.fc2.weight"].T
        assert all((columns == -dead).all(1).any() for dead in block.fc2.weight[:, 48:].T)
        # The worst input that a layer norm can give: z along each row, of the length √width, both ways.
        norm = block.final_layer_norm
        directions = block.fc1.weight[48:] * norm.weight
        worst = directions / directions.norm(dim=1, keepdim=True) * 32**0.5
        for z in (worst, -worst):
            assert (block.fc1(z * norm.weight + norm.bias)[:, 48:] < 0).all()


def test_a_planted_stand_in_survives_saving(tmp_path):
    chosen = planted()
    network = build(chosen)
    finish(network, chosen.standin)
    network.save_pretrained(tmp_path)
    again = type(network).from_pretrained(tmp_path)
    assert again.config.ffn_dim == 56 and same_weights(network, again)
    assert torch.equal(logits(again), logits(network))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_not_planted_is_left_alone(family):
    chosen = settings(family)
    network = build(chosen)
    start = {name: weight.clone() for name, weight in network.state_dict().items()}
    finish(network, chosen.standin)
    assert not chosen.planted and planted().planted
    assert network.state_dict().keys() == start.keys()
    assert all(torch.equal(weight, start[name]) for name, weight in network.state_dict().items())


# SHA-256 of the first weights, as they were before stand-ins could be planted: training begins where it always began.
FIRST_WEIGHTS = {
    "opt-standin-xs": "5aa2e38123c15c45d8c2a67671bc496cafc25cb4972df95695659e5a358fab15",
    "opt-standin-m": "c972e2e24d89c9d9f21f636b627f9437f15eda6abbed7595bacd043a0d85632d",
    "bloom-standin-m": "8a7312eac4819fd6219c1e9a0463555c77f7ed90d2be73dfe103b58f849005e1",
}


@pytest.mark.parametrize("name", FIRST_WEIGHTS)
def test_ordinary_stand_ins_begin_with_the_weights_that_they_always_had(name):
    digest = hashlib.sha256()
    for weight in build(compose.load("model", name)).state_dict().values():
        digest.update(weight.numpy().tobytes())
    assert digest.hexdigest() == FIRST_WEIGHTS[name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outlier_channels": -1}, "model.standin.outlier_channels=-1: expected 0 or more"),
        ({"dead_neurons": -1}, "model.standin.dead_neurons=-1: expected 0 or more"),
        ({"outlier_scale": 30.0}, "model.standin.outlier_scale=30.0: expected a power of two"),
        ({"outlier_channels": 17}, "model.standin.outlier_channels=17: expected at most half of the width 32"),
        ({"dead_neurons": 60}, "model.standin.dead_neurons=60: expected at most half of the 108 neurons"),
    ],
)
def test_what_cannot_be_planted_is_refused(changes, message):
    with pytest.raises(ConfigError) as error:
        planted(**changes)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_only_opt_is_planted():
    with pytest.raises(ConfigError, match=r"model.family=bloom: expected opt"):
        replace(settings("bloom"), standin=StandinConfig(outlier_channels=2))

"""Train the stand-ins: small models of the known families on text that Python carries, saved as Hugging Face checkpoints.

They exist so that the whole pipeline runs with no download, on models real enough for methods to differ. Weight matrices of
the blocks are trained with Muon, the rest with AdamW: at this size that reaches in 600 steps the perplexity for which AdamW
alone needs several thousand, and a better model is one that quantization can hurt.

A stand-in may be planted with two things that large models have and small ones lack: a few channels in which the inputs of the
linears are far larger than elsewhere (before training, so that the network learns to live with them), and feed-forward neurons
that never fire (after training, beside those that do). Neither changes what the network computes at the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack

import torch
import transformers
from torch import nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from lorcbench.config.families import FAMILIES
from lorcbench.config.schema import ModelConfig, StandinConfig
from lorcbench.models.channels import largest_inputs, unevenness

END_OF_TEXT = "</s>"
_WARM_UP = 0.05  # share of the steps
_GATE = 3.0
_READERS = {  # of an OPT block: norm → the linears that read what it gives
    "self_attn_layer_norm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "final_layer_norm": ("fc1",),
}

_INPUTS = ("self_attn.q_proj", "self_attn.out_proj", "fc1", "fc2")  # of an OPT block: a linear for each input


class GateError(Exception):
    """A model too bad to draw conclusions from."""


def build(model: ModelConfig) -> PreTrainedModel:
    """An untrained model of Hugging Face's own class, seeded, its outlier channels planted; `finish` it once it is trained."""
    family, standin = FAMILIES[model.family], model.standin
    network_class = getattr(transformers, family.model_class)
    live = model.ffn - standin.dead_neurons
    sizes = {"layers": model.layers, "hidden": model.hidden, "heads": model.heads, "ffn": live}
    config = network_class.config_class(**family.standin_config(sizes, standin.vocabulary, standin.positions))
    torch.manual_seed(standin.seed)
    network = network_class(config)
    if standin.outlier_channels:
        _plant_outliers(network, standin)
    return network


class _Divided(nn.Module):
    """A weight whose columns are those of the parameter that is trained, divided by `scale` (in,)."""

    def __init__(self, scale: torch.Tensor) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight / self.scale


def _plant_outliers(network: PreTrainedModel, settings: StandinConfig) -> None:
    """Scale channels up in the norms of every block, and down in the columns that read them; the same channels everywhere.

    What is trained of a scaled column is the column before it was divided: an optimizer whose steps have a fixed length would
    move the product of a small weight and a large input too far. `finish` puts the divided columns in its place.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    channels = torch.randperm(network.config.hidden_size, generator=generator)[: settings.outlier_channels]
    scale = torch.ones(network.config.hidden_size)
    scale[channels] = settings.outlier_scale
    for block in network.model.decoder.layers:
        for norm, readers in _READERS.items():
            for parameter in block.get_submodule(norm).parameters():
                parameter.data *= scale
            for reader in readers:
                parametrize.register_parametrization(block.get_submodule(reader), "weight", _Divided(scale))


def finish(network: PreTrainedModel, settings: StandinConfig) -> None:
    """After training: the checkpoint's own weights where outliers were planted, and the dead neurons; in place."""
    for module in list(network.modules()):
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")
    if settings.dead_neurons:
        _add_dead(network, settings)


@torch.no_grad()
def _add_dead(network: PreTrainedModel, settings: StandinConfig) -> None:
    """Add feed-forward neurons to every block of an OPT model that never fire, whatever the text; in place.

    Each has the weights of a live one, which are ordinary, but with a bias below twice the largest product that its row can
    have with an input: γ ∘ z + β with ‖z‖ ≤ √width, as a layer norm gives it. Its outgoing column is the negative of the
    live one's: as ordinary, but not the same, so that it counts in the range of a row.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    for block in network.model.decoder.layers:
        norm, first, second = block.final_layer_norm, block.fc1, block.fc2
        live, width = first.weight.shape
        copied = torch.randperm(live, generator=generator)[: settings.dead_neurons]
        rows = first.weight[copied]
        largest = (rows * norm.weight).norm(dim=1) * math.sqrt(width) + (rows @ norm.bias).abs()
        first.weight = nn.Parameter(torch.cat([first.weight, rows]))
        first.bias = nn.Parameter(torch.cat([first.bias, -2 * largest - first.bias[copied].abs()]))
        second.weight = nn.Parameter(torch.cat([second.weight, -second.weight[:, copied]], dim=1))
        first.out_features = second.in_features = live + settings.dead_neurons
    network.config.ffn_dim = live + settings.dead_neurons


@torch.no_grad()
def channel_statistics(network: PreTrainedModel, windows: dict[str, torch.Tensor]) -> dict[str, list[dict]]:
    """How uneven the inputs of the linears of an OPT model are, by the first linear that reads them, one entry per block.

    ``max_over_median``: each channel's largest |x| over all tokens, in the largest channel over that in the median one.
    ``dead``: how many channels are zero throughout.
    """
    statistics: dict[str, list[dict]] = {name: [] for name in _INPUTS}
    with ExitStack() as stack:
        watched = [stack.enter_context(largest_inputs(block, _INPUTS)) for block in network.model.decoder.layers]
        for tokens in windows.values():
            for batch in tokens.split(16):
                network(batch, use_cache=False)
    for maxima in watched:
        for name, largest in maxima.items():
            about = unevenness(largest)
            statistics[name].append({key: about[key] for key in ("max_over_median", "dead")})
    return statistics


def train(model: PreTrainedModel, settings, streams: dict[str, torch.Tensor], progress: Callable[[int, int], None]) -> None:
    """Train in place on random windows of the token streams, taken in turn; forward passes in bfloat16.

    Args:
        settings: a `StandinConfig`.
        streams: (n,) token ids by corpus.
        progress: called with (steps done, steps in all).
    """
    matrices = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and "embed" not in name]
    rest = [weight for name, weight in model.named_parameters() if weight.ndim != 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=settings.matrix_lr, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=settings.lr, betas=(0.9, 0.95), fused=True),
    ]
    warm_up = max(1, int(_WARM_UP * settings.steps))

    def rate(step: int) -> float:
        return min((step + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * step / settings.steps)))

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate) for optimizer in optimizers]
    generator = torch.Generator().manual_seed(settings.seed)
    model.train()
    for step in range(settings.steps):
        batch = _batch(list(streams.values()), settings.batch, settings.length, generator)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(batch, use_cache=False).logits
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        progress(step + 1, settings.steps)
    model.eval()


def _batch(streams: list[torch.Tensor], size: int, length: int, generator: torch.Generator) -> torch.Tensor:
    """Random windows (size, length) of the streams, taken in turn."""
    rows = []
    for index in range(size):
        stream = streams[index % len(streams)]
        start = int(torch.randint(0, len(stream) - length, (1,), generator=generator))
        rows.append(stream[start : start + length])
    return torch.stack(rows)


@torch.no_grad()
def gate(model: PreTrainedModel, streams: dict, windows: dict[str, torch.Tensor]) -> dict[str, dict[str, float]]:
    """Perplexity of the model and of a unigram model (add-one counts of the training stream) on test windows, by corpus.

    Raises:
        GateError: on some corpus the model is worse than a third of the unigram model's perplexity.
    """
    measured = {}
    for corpus, tokens in windows.items():
        counts = torch.bincount(streams[corpus], minlength=model.config.vocab_size).double() + 1
        unigram = -(counts / counts.sum()).log()[tokens[:, 1:]].mean()
        losses = []
        for batch in tokens.split(16):
            logits = model(batch, use_cache=False).logits[:, :-1].flatten(0, 1)
            losses.append(nn.functional.cross_entropy(logits, batch[:, 1:].flatten(), reduction="none"))
        measured[corpus] = {"ppl": float(torch.cat(losses).mean().exp()), "unigram_ppl": float(unigram.exp())}
    for corpus, values in measured.items():
        if values["ppl"] > values["unigram_ppl"] / _GATE:
            raise GateError(
                f"stand-in perplexity {values['ppl']:.1f} on {corpus} is above a third of the unigram model's "
                f"{values['unigram_ppl']:.1f}: train longer (model.standin.steps) or check the text"
            )
    return measured

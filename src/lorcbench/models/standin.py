"""Train the stand-ins: small models of the known families on text that Python carries, saved as Hugging Face checkpoints.

They exist so that the whole pipeline runs with no download, on models real enough for methods to differ. Weight matrices of
the blocks are trained with Muon, the rest with AdamW: at this size that reaches in 600 steps the perplexity for which AdamW
alone needs several thousand, and a better model is one that quantization can hurt.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from lorcbench.config.families import FAMILIES
from lorcbench.config.schema import ModelConfig

END_OF_TEXT = "</s>"
_WARM_UP = 0.05  # share of the steps
_GATE = 3.0


class GateError(Exception):
    """A model too bad to draw conclusions from."""


def build(model: ModelConfig) -> PreTrainedModel:
    """An untrained model of Hugging Face's own class, seeded."""
    family, standin = FAMILIES[model.family], model.standin
    network = getattr(transformers, family.model_class)
    sizes = {"layers": model.layers, "hidden": model.hidden, "heads": model.heads, "ffn": model.ffn}
    config = network.config_class(**family.standin_config(sizes, standin.vocabulary, standin.positions))
    torch.manual_seed(standin.seed)
    return network(config)


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

"""How far two models' predictions are apart, token by token: from the logits that both give for the same positions.

With p = softmax(full), the model's at full precision, and q = softmax(logits), the cell's, the divergence of one position is

    KL(p ‖ q) = Σ p · (log p − log q)          in nats, 0 for equal predictions and above 0 for others

(Kullback and Leibler, On Information and Sufficiency, 1951). The loss of the cell is made of the same log q.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

_IN_CACHE = 1 << 17  # numbers of a piece of logits on the CPU; one of 25 million, a piece of 512 tokens, takes thrice as long
_ROWS_ON_GPU = 128


class TokenScores(NamedTuple):
    """What is measured at each position, (tokens,) float32 each.

    Attributes:
        nll: loss, in nats.
        kl: divergence of the predictions from those of full precision, in nats.
        agree: 1 where both models have the same most likely token, else 0.
    """

    nll: torch.Tensor
    kl: torch.Tensor
    agree: torch.Tensor


def token_scores(logits: torch.Tensor, full: torch.Tensor, labels: torch.Tensor) -> TokenScores:
    """Compare the predictions of a cell with those of the model at full precision.

    Args:
        logits: of the cell, (tokens, vocabulary) float32.
        full: of the model at full precision, of the same shape.
        labels: the tokens that came, (tokens,) int64.

    Returns:
        The loss is `cross_entropy(logits, labels)` to the last bit. What rounding makes of a divergence near 0 (-1e-6) is 0.
    """
    return scores_of_all([logits], full, labels)[0]


def scores_of_all(logits: Sequence[torch.Tensor], full: torch.Tensor, labels: torch.Tensor) -> list[TokenScores]:
    """`token_scores` of several cells, for which the predictions at full precision are made once."""
    rows = max(1, _IN_CACHE // full.shape[1]) if full.device.type == "cpu" else _ROWS_ON_GPU
    split = zip(full.split(rows), labels.split(rows), *(own.split(rows) for own in logits), strict=True)
    of_pieces = [_piece_scores(own, of_full, of_labels) for of_full, of_labels, *own in split]
    return [TokenScores(*map(torch.cat, zip(*pieces, strict=True))) for pieces in zip(*of_pieces, strict=True)]


def _piece_scores(logits: Sequence[torch.Tensor], full: torch.Tensor, labels: torch.Tensor) -> list[TokenScores]:
    """As `scores_of_all`, of so few tokens that what is made on the way stays in the cache."""
    most_likely_full, log_p = most_likely(full), full.log_softmax(-1)
    p = log_p.exp()
    scores = []
    for own in logits:
        agree = (most_likely(own) == most_likely_full).float()
        log_q = own.log_softmax(-1)
        nll = -log_q.gather(1, labels[:, None])[:, 0]
        difference = torch.sub(log_p, log_q, out=log_q)
        kl = difference.mul_(p).sum(-1).clamp_(min=0)
        scores.append(TokenScores(nll, kl, agree))
    return scores


def most_likely(logits: torch.Tensor) -> torch.Tensor:
    """The most likely token of each position, (tokens,) int64; of several the first.

    On the CPU by NumPy, which takes a fifth of PyTorch's time.
    """
    return torch.from_numpy(logits.numpy().argmax(-1)) if logits.device.type == "cpu" else logits.argmax(-1)

"""The divergence of predictions: equals the textbook's in float64, is 0 for the same and never below, and moves no loss."""

from __future__ import annotations

import pytest
import torch

from lorcbench.core import divergence
from lorcbench.core.divergence import token_scores

VOCABULARY = 300


def logits(spread: float, seed: int, tokens: int = 37) -> torch.Tensor:
    return spread * torch.randn(tokens, VOCABULARY, generator=torch.Generator().manual_seed(seed))


LABELS = torch.arange(37) * 7 % VOCABULARY


@pytest.mark.parametrize("spread", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("change", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("in_cache", [1, 5 * VOCABULARY, 1 << 30])
def test_it_is_the_textbooks_whatever_the_pieces(monkeypatch, spread, change, in_cache):
    monkeypatch.setattr(divergence, "_IN_CACHE", in_cache)
    full = logits(spread, 0)
    cell = full + logits(change, 1)
    scores = token_scores(cell, full, LABELS)
    p, q = (torch.distributions.Categorical(logits=each.double()) for each in (full, cell))
    expected = torch.distributions.kl_divergence(p, q)
    assert torch.allclose(scores.kl.double(), expected, rtol=1e-5, atol=3e-6)
    assert scores.kl.min() >= 0
    assert torch.equal(scores.agree, (full.argmax(1) == cell.argmax(1)).float())
    assert torch.equal(scores.nll, torch.nn.functional.cross_entropy(cell, LABELS, reduction="none")), "to the last bit"


def test_of_the_same_predictions_it_is_exactly_zero():
    full = logits(5, 0)
    scores = token_scores(full.clone(), full, LABELS)
    assert scores.kl.tolist() == [0.0] * 37
    assert scores.agree.tolist() == [1.0] * 37


def test_a_constant_added_to_all_logits_of_a_token_changes_nothing():
    full, shift = logits(3, 0), 8 * torch.arange(37.0)[:, None]
    assert token_scores(full + shift, full, LABELS).kl.max() < 1e-4


def test_it_is_not_symmetric_and_looks_from_full_precision():
    full, cell = torch.tensor([[0.0, 0.0, -50.0]]), torch.tensor([[0.0, -50.0, -50.0]])
    label = torch.zeros(1, dtype=torch.long)
    assert token_scores(cell, full, label).kl.item() == pytest.approx(25, abs=1)  # half of p is where q has next to nothing
    assert token_scores(full, cell, label).kl.item() == pytest.approx(0.693, abs=0.01)

"""Linears through NumPy: the same numbers up to rounding, only where they are meant to be, and off by one switch."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

from lorcbench.core.linalg import product
from lorcbench.models import numpy_linears
from lorcbench.models.numpy_linears import NumPyLinears

X = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(0))
WEIGHT = torch.randn(48, 64, generator=torch.Generator().manual_seed(1))
BIAS = torch.randn(48, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def products(monkeypatch) -> list[torch.Size]:
    """The shapes of what was multiplied through NumPy."""
    shapes = []

    def counted(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        shapes.append((*a.shape, b.shape[1]))
        return product(a, b)

    monkeypatch.setattr(numpy_linears, "product", counted)
    return shapes


@pytest.mark.parametrize("bias", [None, BIAS])
def test_a_linear_that_needs_no_gradient_goes_through_numpy(products, bias):
    with NumPyLinears():
        out = linear(X, WEIGHT, bias)
    assert products == [(15, 64, 48)]
    assert out.shape == (3, 5, 48)
    torch.testing.assert_close(out, linear(X, WEIGHT, bias))


def test_the_switch_gives_every_linear_back_to_pytorch(products, monkeypatch):
    monkeypatch.setattr(numpy_linears, "ENABLED", False)
    with NumPyLinears():
        out = linear(X, WEIGHT, BIAS)
    assert products == []
    assert torch.equal(out, linear(X, WEIGHT, BIAS))


def test_gradients_and_half_precision_stay_pytorchs(products):
    trained = WEIGHT.clone().requires_grad_()
    with NumPyLinears():
        linear(X, trained, BIAS).sum().backward()
        half = linear(X.bfloat16(), WEIGHT.bfloat16())
    assert products == []
    assert trained.grad is not None
    assert half.dtype == torch.bfloat16

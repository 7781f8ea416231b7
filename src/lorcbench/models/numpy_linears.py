"""Float32 linears on the CPU through NumPy's BLAS instead of PyTorch's.

**Why.** Linears are most of a forward pass. PyTorch multiplies by MKL, NumPy by OpenBLAS, and which of the two
is faster depends on the processor: OpenBLAS was seen to take half of MKL's time on AMD's, and takes 2 to 16 %
more than MKL on an Intel Xeon. `python benchmarks/cpu_kernels.py` compares them on any machine (benchmarks/README.md,
"Kernels that are not PyTorch's").

**How.** A decoder block is Hugging Face's own module, whose code we do not touch. While a `NumPyLinears` is open,
PyTorch shows it every call of a torch function. It answers `torch.nn.functional.linear` itself and passes all
other calls on.

**How to turn it off.** Set `ENABLED` to False below. The two libraries add in different orders, so the last bits
of results change. The code hash covers this module, so every result that rests on a forward pass is then computed
again.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from lorcbench.core.linalg import product

ENABLED = True


class NumPyLinears(TorchFunctionMode):
    """While open, float32 linears on the CPU that need no gradient multiply through `lorcbench.core.linalg.product`."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not nn.functional.linear or kwargs or not ENABLED:
            return func(*args, **(kwargs or {}))
        x, weight, bias = (*args, None)[:3]  # a linear without a bias may pass two arguments
        needs_gradient = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
        if x.dtype != torch.float32 or x.is_cuda or needs_gradient:
            return func(*args)
        rows = x.reshape(-1, x.shape[-1])  # (…, in) → (tokens, in): BLAS takes matrices
        out = product(rows, weight.T).view(*x.shape[:-1], len(weight))  # (tokens, out) → (…, out)
        return out if bias is None else out.add_(bias)

"""How far to shrink the range of a group, so that its squared rounding error is least.

A group whose least and largest values are `low` and `high` gets the scale and the zero point of the range p · low … p · high:
what lies outside is clipped, what lies inside is rounded more finely. Candidates are p = 1, 0.99, …, 0.21, those of the search
in GPTQ's published code (`quant.py`: grid 100, maxshrink 0.8). That code sums |error|^2.4; here it is the square. Each
candidate is judged with its scale as it is stored. p = 1, the range as it is, is among them, so no error rises; of equal errors
the larger p wins.

By hand, two bits, symmetric `restricted` (codes are -1, 0 and 1 steps): of the group (1, 1, 1, 1.5) p = 1 makes s = 1.5, and
the error is 3 · 0.5² = 0.75; p = 0.75 makes s = 1.125, and the error is 3 · 0.125² + 0.375² = 0.1875, the least.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from lorcbench.core.compiled import compiled, over_rows
from lorcbench.core.formats import WeightFormat
from lorcbench.core.grids import encode, lowest_code, offset_first, scale_and_zero_of_range
from lorcbench.core.settings import CLIP_CANDIDATES, CLIP_VALUES

_AT_ONCE = 128  # values whose errors are summed in float32, before the sum is added in float64


def least_error_shrink(groups: torch.Tensor, low: torch.Tensor, high: torch.Tensor, fmt: WeightFormat) -> torch.Tensor:
    """The factor p of each group, (…, groups) float32.

    Args:
        groups: (…, groups, group) float32.
        low, high: (…, groups) the least and the largest value of each group.
        fmt: of the codes.

    Where the scale at p = 1 is not finite, p is 1: whoever checks scales then refuses the same groups as without a search.
    """
    values = groups.reshape(-1, groups.shape[-1])
    low, high = low.reshape(-1), high.reshape(-1)
    whole = scale_and_zero_of_range(low, high, fmt)[0].float()
    # Errors are measured in about the steps of p = 1, so that no square overflows; a power of two changes no digit.
    unit = torch.ldexp(torch.ones_like(whole), torch.frexp(whole).exponent.neg().clamp(-126, 126))
    search = search_reference if values.is_cuda else _search_compiled
    best = search(values, low, high, unit, fmt).masked_fill(~whole.isfinite(), 0)
    return _shrinks(values.device)[best].view(groups.shape[:-1])


def _shrinks(device: torch.device) -> torch.Tensor:
    """(candidates,) float32, the values of p."""
    return (1 - torch.arange(CLIP_CANDIDATES, dtype=torch.float64, device=device) / 100).float()


def search_reference(
    values: torch.Tensor, low: torch.Tensor, high: torch.Tensor, unit: torch.Tensor, fmt: WeightFormat
) -> torch.Tensor:
    """The best candidate of each group by plain tensor operations, on any device: (n,) int64, its place among the candidates.

    Args:
        values: (n, group) float32.
        low, high: (n,) of each group.
        unit: (n,) one over that in which errors are measured.
        fmt: of the codes.
    """
    count, size = values.shape
    best = torch.empty(count, dtype=torch.int64, device=values.device)
    shrinks, places = _shrinks(values.device), torch.arange(CLIP_CANDIDATES, device=values.device)
    one_group = replace(fmt, group=None)
    at_once = max(1, CLIP_VALUES // (CLIP_CANDIDATES * size))
    for start in range(0, count, at_once):
        part = slice(start, start + at_once)
        # (groups, candidates, 1): for every group all candidates, each with one scale.
        ranges = ((bound[part, None] * shrinks).unsqueeze(-1) for bound in (low, high))
        scale, zero = scale_and_zero_of_range(*ranges, fmt)
        codes = encode(values[part].unsqueeze(1), scale, zero, one_group)  # (groups, candidates, group)
        errors = (codes.float().sub_(zero).mul_(scale.float()).sub_(values[part].unsqueeze(1))).mul_(unit[part, None, None])
        errors = errors.square_().sum(-1, dtype=torch.float64)
        least = errors.amin(-1, keepdim=True)
        # The first of the least. Where an error is NaN none is the least, and the first candidate is taken.
        best[part] = torch.where(errors == least, places, CLIP_CANDIDATES).amin(-1) % CLIP_CANDIDATES
    return best


def _search_compiled(
    values: torch.Tensor, low: torch.Tensor, high: torch.Tensor, unit: torch.Tensor, fmt: WeightFormat
) -> torch.Tensor:
    """The same as `search_reference` on the CPU, in PyTorch's number of threads.

    Of two candidates whose errors differ in their last digits alone it may take the other. What it costs:
    `python benchmarks/clip.py`; benchmarks/README.md, "Clip search".
    """
    best = torch.empty(len(values), dtype=torch.int64)
    arrays = [array.contiguous().numpy() for array in (values, low, high, unit, best, _shrinks(values.device))]
    codes = tuple(np.float32(code) for code in (lowest_code(fmt), 2**fmt.bits - 1, 2 ** (fmt.bits - 1)))
    minmax, restricted = fmt.convention == "minmax", fmt.convention == "restricted"
    how = (fmt.symmetric, minmax, restricted, fmt.scale_dtype == "float16", offset_first(fmt))
    over_rows(lambda start, stop: _search_groups(*arrays, start, stop, codes, how), len(values))
    return best


@compiled
def _search_groups(values, low, high, unit, best, shrinks, start, stop, codes, how):
    """Find the best candidate of the groups `start` to `stop`.

    Args:
        values: (n, group) float32.
        low, high, unit: (n,) as `search_reference`.
        best: (n,) int64, filled.
        shrinks: (candidates,) float32.
        codes: the lowest, the highest and the middle code, 2^(b-1), in float32.
        how: whether the format is symmetric, `minmax`, `restricted`; whether its scales are stored in float16; whether the
            zero point is added before rounding.
    """
    lowest, highest, _ = codes
    shift_first = how[4]
    count, size = len(shrinks), values.shape[1]
    step, zero = np.empty(count, np.float32), np.empty(count, np.float32)
    inverse, least, most = np.empty(count, np.float32), np.empty(count, np.float32), np.empty(count, np.float32)
    part, total = np.empty(count, np.float32), np.empty(count, np.float64)
    group = np.empty(_AT_ONCE, np.float32)
    for g in range(start, stop):
        _candidates(low[g], high[g], shrinks, step, zero, codes, how)
        for i in range(count):
            step[i] *= unit[g]
            inverse[i] = np.float32(1) / step[i]
            least[i] = lowest - zero[i]
            most[i] = highest - zero[i]
            total[i] = 0
        for first in range(0, size, _AT_ONCE):
            length = min(_AT_ONCE, size - first)
            for j in range(length):
                group[j] = values[g, first + j] * unit[g]
            part[:] = 0
            if shift_first:
                _add_shifted(group[:length], step, zero, lowest, highest, part)
            else:
                _add(group[:length], step, inverse, least, most, part)
            for i in range(count):
                total[i] += part[i]
        chosen = 0
        for i in range(1, count):
            if total[i] < total[chosen]:
                chosen = i
        best[g] = chosen


@compiled
def _candidates(low, high, shrinks, step, zero, codes, how):
    """Fill `step` and `zero` with those of all candidates of one group, as `scale_and_zero_of_range` computes them."""
    _, highest, middle = codes
    symmetric, minmax, restricted, half, _ = how
    one, two = np.float32(1), np.float32(2)
    levels = highest if minmax else middle - one if restricted else highest + one
    if symmetric:
        bound = max(-low, high)
        for i in range(len(shrinks)):
            b = shrinks[i] * bound
            s = b / levels if restricted else two * b / levels
            step[i] = one if b == 0 else s
    else:
        if minmax:
            low, high = min(low, np.float32(0)), max(high, np.float32(0))
        for i in range(len(shrinks)):
            a, b = shrinks[i] * low, shrinks[i] * high
            s = max((b - a) / levels, abs(a) * np.float32(2.0**-23))
            step[i] = s if a != b else one if a == 0 else abs(a)
    _as_stored(step, half)
    for i in range(len(shrinks)):
        zero[i] = middle if symmetric else -np.rint(shrinks[i] * low / step[i])


@compiled
def _as_stored(step, half):
    """Round positive finite scales (float32) in place to what their stored type holds; Numba has no float16."""
    bits = step.view(np.int32)
    for i in range(len(step)):
        if not half:
            step[i] = max(step[i], np.float32(2.0**-126))
        elif step[i] < np.float32(2.0**-14):
            step[i] = max(np.ceil(step[i] * np.float32(2.0**24)), np.float32(1)) * np.float32(2.0**-24)
        else:  # 10 of the 23 bits behind the point stay; half of what is cut off rounds to even
            bits[i] = (bits[i] + 0xFFF + ((bits[i] >> 13) & 1)) & ~0x1FFF


@compiled
def _add(group, step, inverse, least, most, part):
    """Add the squared errors of `group` (k,) under every candidate to `part`.

    Four values at a time: then the arithmetic takes longer than reading what belongs to the candidates. A value is multiplied
    by 1 / s, which may round a tie to the other side; both sides of a tie have the same error.
    """
    quads = len(group) // 4 * 4
    for j in range(0, quads, 4):
        a, b, c, d = group[j], group[j + 1], group[j + 2], group[j + 3]
        for i in range(len(step)):
            s, n, low, high = step[i], inverse[i], least[i], most[i]
            e, f, g, h = np.rint(a * n), np.rint(b * n), np.rint(c * n), np.rint(d * n)
            e = low if e < low else high if e > high else e
            f = low if f < low else high if f > high else f
            g = low if g < low else high if g > high else g
            h = low if h < low else high if h > high else h
            e, f, g, h = a - e * s, b - f * s, c - g * s, d - h * s
            part[i] += (e * e + f * f) + (g * g + h * h)
    for j in range(quads, len(group)):
        a = group[j]
        for i in range(len(step)):
            e = np.rint(a * inverse[i])
            e = least[i] if e < least[i] else most[i] if e > most[i] else e
            e = a - e * step[i]
            part[i] += e * e


@compiled
def _add_shifted(group, step, zero, lowest, highest, part):
    """The same where offsets are added before rounding: they can be far larger than the range, so nothing is rearranged."""
    for j in range(len(group)):
        value = group[j]
        for i in range(len(step)):
            s, z = step[i], zero[i]
            code = np.rint((value + z * s) / s)
            code = lowest if code < lowest else highest if code > highest else code
            error = value - (code - z) * s
            part[i] += error * error

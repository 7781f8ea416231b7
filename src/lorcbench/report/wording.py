"""A recipe in words: ``gptq w4-asym-g32 r8`` is "GPTQ, 4 bits, groups of 32, LoRC of rank 8 with INT8 factors"."""

from __future__ import annotations

from lorcbench.config import compose
from lorcbench.config.variants import Variant
from lorcbench.core.formats import ActivationFormat, WeightFormat
from lorcbench.report.derived import settings_of, without_star
from lorcbench.study.cells import Cell


def recipe(cell: Cell) -> str:
    """All of a cell but its model and calibration, for a reader who does not know the spelling of names."""
    if cell.method == "none":
        return "full precision" if cell.is_full_precision else f"weights in full precision, {_activations(cell)}"
    parts = [method_words(cell.method), *_weight(cell.weight_format)]
    if cell.activation != "a16":
        parts.append(_activations(cell))
    if cell.rank:
        parts.append(_factors(cell))
    return ", ".join(parts)


def method_words(name: str) -> str:
    """The method as the papers name it, and in brackets what makes it another: its conf file, and changed settings."""
    variant = Variant.parse(without_star(name))
    label = settings_of(name).label or variant.stem
    plain = variant.stem in (label, label.lower().replace("-", "_"))
    more = [*([] if plain else [variant.stem]), *("=".join(pair) for pair in variant.settings)]
    return f"{label} ({', '.join(more)})" if more else label


def _weight(fmt: WeightFormat) -> list[str]:
    """Bits, what shares a scale, and what is out of the ordinary; of mixed formats the method's settings say it."""
    if fmt.is_mixed:
        return []
    parts = [f"{fmt.bits} bits", f"groups of {fmt.group}" if fmt.group else "one scale per row"]
    if fmt.symmetric:
        parts.append("symmetric")
    if fmt.convention != "minmax":
        parts.append(f"divisor {fmt.convention}")
    if fmt.scale_dtype != "float16":
        parts.append(f"{fmt.scale_dtype} scales")
    return parts


def _activations(cell: Cell) -> str:
    fmt: ActivationFormat = cell.activation_format
    shared = f"in groups of {fmt.group}" if fmt.group else "by token"
    return f"{fmt.bits}-bit activations {shared}{', symmetric' if fmt.symmetric else ''}"


def _factors(cell: Cell) -> str:
    """LoRC's kind and rank, how its factors are stored, and in brackets what is set otherwise than in its conf file."""
    settings = compose.load("lorc", cell.lorc)
    kind = "" if settings.kind == "plain" else f"{settings.kind} "
    others = ", ".join("=".join(pair) for pair in Variant.parse(cell.lorc).settings)
    stored = f"{'FP' if settings.bits == 16 else 'INT'}{settings.bits} factors"
    return f"{kind}LoRC of rank {cell.rank} with {stored}{f' ({others})' if others else ''}"

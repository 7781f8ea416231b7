"""What to use, in words, for the terminal and the page alike."""

from __future__ import annotations

from lorcbench.report.recommend import BUDGETS, USABLE, Advice, RankCost, Recommendation
from lorcbench.report.results import CellResult
from lorcbench.report.spelling import percent, percents

NONE_USABLE = "none usable"
WIDE = 4096  # the width of a model of 7 billion weights


def lines(advice: list[Advice], costs: list[RankCost], equal_bits: str = "", codes: str = "") -> list[str]:
    """For the terminal: one line per budget, what a rank costs and whether it pays; none without recommendations."""
    told = []
    for part in advice:
        if part.recommendations:
            told.append(f"  what to use, {about(part)}")
            width = max((len(one.words) for one in part.recommendations if one.usable), default=0)
            told += [f"    up to {one.budget:.1f} bits: {_line(one, width)}" for one in part.recommendations]
    sentences = filter(None, (codes, rank_sentence(costs), equal_bits))
    return [*told, *(f"  {sentence}" for sentence in sentences)] if told else []


def _line(one: Recommendation, width: int) -> str:
    """A recommendation with its numbers.

    Args:
        width: of the column of recipes.
    """
    return f"{one.words:{width}}  {size(one)}, {loss(one)}{remark(one)}" if one.usable else none_usable(one)


def none_usable(one: Recommendation) -> str:
    """What stands in the place of a recipe that nobody should use."""
    return f"{NONE_USABLE}: the best, {one.words}, rises {percent(one.loss.value, 0)}"


def criterion() -> str:
    """What is called usable, in one sentence."""
    return (
        f"A recipe is usable if the mean PPL rises by at most {100 * USABLE:.0f} %. Beyond that, a smaller model is the better "
        "choice: a published OPT or BLOOM model with a tenth of the weights has less than twice the PPL in full precision, in "
        "less space."
    )


def about(advice: Advice) -> str:
    """What the recommendations are of."""
    count = len(advice.models)
    one = f"{advice.models[0]}, {advice.origin}" if advice.origin else advice.models[0]
    models = one if count == 1 else f"{count} {advice.kind}"
    run = "" if advice.activation == "a16" else f" run with {advice.activation}"
    return f"{models}{run}: bits per weight in all, and by how much the mean PPL rises"


def size(one: Recommendation) -> str:
    """The bits per weight that a recipe takes."""
    low, high = (f"{bits:.2f}" for bits in one.bits)
    return f"{low} bits" if low == high else f"{low} to {high} bits"


def loss(one: Recommendation) -> str:
    """The mean rise with its interval, and the range over models if there are several."""
    return f"{mean_loss(one)}{f', {spread(one)} over models' if len(one.changes) > 1 else ''}"


def mean_loss(one: Recommendation) -> str:
    """The mean rise with its interval."""
    value, low, high = percents(one.loss.value, one.loss.low, one.loss.high)
    return f"{value} % [{low}, {high}]"


def spread(one: Recommendation) -> str:
    """The smallest and the largest rise over models."""
    low, high = percents(*one.range)
    return f"{low} %" if low == high else f"{low} to {high} %"


def remark(one: Recommendation) -> str:
    """What the numbers do not show by themselves."""
    parts = [] if one.is_gain else ["not told apart from the line above"]
    if one.beaten:
        parts.append(f"a cell of no more bits is better for {', '.join(one.beaten)}")
    if one.broken:
        parts.append(f"not usable for {', '.join(one.broken)}")
    return f" ({'; '.join(parts)})" if parts else ""


def codes_sentence(results: list[CellResult]) -> str:
    """In which rows of the recommendations codes of 4 bits stand, since their scales count, too; "" without cells that tell.

    Where there are none of 4 bits, it is said of those nearest to that.
    """
    sizes: dict[int, list[float]] = {}
    for result in results:
        fmt = result.cell.weight_format
        if result.status == "ok" and result.bits_per_weight and not (fmt.is_mixed or fmt.is_full_precision or result.cell.rank):
            sizes.setdefault(fmt.bits, []).append(result.bits_per_weight)
    if not sizes:
        return ""
    width = min(sizes, key=lambda bits: abs(bits - 4))
    low, high = min(sizes[width]), max(sizes[width])
    rows = [next((budget for budget in BUDGETS if budget >= bits), None) for bits in (low, high)]
    if low <= width or None in rows:
        return ""
    where = " and ".join(f"{budget:g}" for budget in dict.fromkeys(rows))
    return (
        f"Codes of {width} bits take {_range(sizes[width], '{:.2f}')} bits per weight with their scales and zero points: "
        f"look for them at up to {where} bits, not at up to {width}."
    )


def rank_sentence(costs: list[RankCost]) -> str:
    """What LoRC of each rank costs in bits, here and on a wide model; "" without cells that tell."""
    if not costs:
        return ""
    ranks = sorted({cost.rank for cost in costs})
    each = ", ".join(f"{_bits(costs, rank)} at rank {rank}{_share(costs, rank)}" for rank in ranks)
    widths = [cost.width for cost in costs if cost.width]
    if not widths:
        return f"LoRC costs, in bits per weight: {each}."
    text = f"LoRC costs, in bits per weight and on {_widths(widths)}: {each}"
    if max(widths) < WIDE:
        largest = [cost.bits * cost.width for cost in costs if cost.width and cost.rank == ranks[-1]]
        text += (
            f". On a width of {WIDE:,} rank {ranks[-1]} would cost {sum(largest) / len(largest) / WIDE:.2f}" if largest else ""
        )
    return f"{text}."


def _bits(costs: list[RankCost], rank: int) -> str:
    return _range([cost.bits for cost in costs if cost.rank == rank], "{:.2f}")


def _share(costs: list[RankCost], rank: int) -> str:
    """The rank as a share of the widths, in brackets."""
    shares = [100 * rank / cost.width for cost in costs if cost.width and cost.rank == rank]
    return f" ({_range(shares, '{:.1f}')} % of the width)" if shares else ""


def _widths(widths: list[int]) -> str:
    spelled = _range(widths, "{:,}")
    return f"widths of {spelled}" if " to " in spelled else f"a width of {spelled}"


def _range(values: list[float], spelled: str) -> str:
    """One number, or the smallest and the largest."""
    low, high = (spelled.format(value) for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"

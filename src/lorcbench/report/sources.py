"""All sources of one number side by side, and where sources contradict each other.

A perplexity can stand in several papers and in a reproduction. Rounding to nearest has neither seed nor calibration, so whoever
rounds to the same format must find the same number; of GPTQ, seeds and calibration explain a few percent. Where two sources
agree and a third does not, that third one used another grid, or misprinted: `conflicts` finds these numbers among the published
ones, whatever was measured here.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache

from lorcbench.config import compose
from lorcbench.config.protocols import in_float32
from lorcbench.report.derived import base_method
from lorcbench.report.intervals import perplexity
from lorcbench.report.results import CellResult
from lorcbench.report.scorecard import DIVERGED, Row
from lorcbench.report.spelling import number
from lorcbench.study import published
from lorcbench.study.cells import RECIPE, Cell, Study
from lorcbench.study.published import CORPORA, PROTOCOLS, SOURCES, Published

# Sources agree that differ by no more than this share. RTN has neither seed nor calibration; of GPTQ both may differ.
AGREE = {"none": 0.01, "rtn": 0.01, "gptq": 0.1}


@dataclass(frozen=True)
class Entry:
    """What one source prints of a number.

    Attributes:
        source: a key of `SOURCES`.
        table: where it stands; several, with commas, that print the same.
        ppl: infinite where the table says that the model diverged.
        relative: measured / ppl - 1; NaN without a number, and where the protocol is another.
        within: whether that is inside the tolerance; None where the protocol is another, so that nothing is compared.
        note: what published.csv remarks.
    """

    source: str
    table: str
    ppl: float
    relative: float = math.nan
    within: bool | None = None
    note: str = ""

    @property
    def suspect(self) -> bool:
        """Whether the number is hard to believe; then it is shown and not counted."""
        return "suspect" in self.note


@dataclass(frozen=True)
class Conflict:
    """Sources that do not print the same of a number, by more than chance explains.

    Attributes:
        model, method, weight, activation, corpus: the number; formats without convention.
        groups: the sources, by perplexity; those in one group agree. The largest group is the first.
    """

    model: str
    method: str
    weight: str
    activation: str
    corpus: str
    groups: tuple[tuple[tuple[str, float], ...], ...]

    @property
    def outvoted(self) -> tuple[str, ...]:
        """The sources against which two or more others agree; none if no two agree, or if two groups are as large."""
        sizes = [len(group) for group in self.groups]
        if sizes[0] < 2 or sizes[1] == sizes[0]:
            return ()
        return tuple(source for group in self.groups[1:] for source, _ in group)

    def text(self) -> str:
        """Who agrees with whom, in one sentence."""
        spelled = [" and ".join(f"{SOURCES[source].title} {number(ppl)}" for source, ppl in group) for group in self.groups]
        if len(self.groups[0]) == 1:
            return " against ".join(spelled) if len(spelled) == 2 else f"no two agree: {', '.join(spelled)}"
        return f"{spelled[0]} agree; {', '.join(spelled[1:])} {'does' if len(self.groups) == 2 else 'do'} not"


@dataclass(frozen=True)
class Beside:
    """One measured number, and what all sources print of it.

    Attributes:
        cell: as the scorecard's rows name it: values of `RECIPE`.
        corpus, measured: the number.
        row: of the scorecard, for tolerance and classes; the one of the first studied paper, if it has one. None where only
            sources with a protocol of their own print the number.
        entries: in the order of `SOURCES`.
        conflict: of the sources among themselves, if there is one.
    """

    cell: dict
    corpus: str
    measured: float
    row: Row | None
    entries: tuple[Entry, ...]
    conflict: Conflict | None

    def of(self, source: str) -> list[Entry]:
        """What that source prints."""
        return [entry for entry in self.entries if entry.source == source]

    def columns(self) -> dict:
        """The row of scorecard.csv."""
        columns = {**self.cell, "corpus": self.corpus, "measured": self.measured}
        if self.row is not None:
            columns |= {name: getattr(self.row, name) for name in _OF_ROW}
        for source in SOURCES:
            entries = self.of(source)
            columns |= {
                source: "; ".join(str(entry.ppl) for entry in entries),
                f"{source}_relative": "; ".join("" if math.isnan(e.relative) else f"{e.relative:.6f}" for e in entries),
                f"{source}_within": "; ".join("" if entry.within is None else str(entry.within) for entry in entries),
                f"{source}_table": "; ".join(entry.table for entry in entries),
            }
        notes = dict.fromkeys(f"{entry.source}: {entry.note}" for entry in self.entries if entry.note)
        return columns | {"sources": self.conflict.text() if self.conflict else "", "notes": "; ".join(notes)}


_OF_ROW = ("derived", "protocol", "kind", "tolerance", "class_measured", "class_published", "class_open")
_OF_SOURCE = tuple(f"{source}{what}" for source in SOURCES for what in ("", "_relative", "_within", "_table"))
COLUMNS = (*RECIPE, "corpus", "measured", *_OF_ROW, *_OF_SOURCE, "sources", "notes")


def side_by_side(study: Study, results: list[CellResult], rows: list[Row]) -> list[Beside]:
    """One record per measured number that any source prints too, in the order of the results.

    Args:
        study: of the results.
        results: measured cells, and derived ones.
        rows: of `lorcbench.report.scorecard.compare`, about these results.
    """
    by_number: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        by_number[*(getattr(row, axis) for axis in RECIPE), row.derived, row.corpus].append(row)
    records = []
    for result in results:
        cell = {axis: getattr(result.cell, axis) for axis in RECIPE}
        for corpus in (*CORPORA, "mean"):
            own = by_number.get((*cell.values(), bool(result.derived), corpus), [])
            elsewhere = other_protocols(result, study.eval) if corpus == "wikitext2" else []
            if own or elsewhere:
                records.append(_beside(cell, corpus, result, own, elsewhere, in_float32(study.eval)))
    return records


def _beside(cell: dict, corpus: str, result: CellResult, rows: list[Row], elsewhere: list[Published], protocol: str) -> Beside:
    """The record of one measured number."""
    first = min(rows, key=lambda row: list(SOURCES).index(row.source), default=None)
    entries = [Entry(row.source, row.table, row.published, row.relative, row.within, row.note) for row in rows]
    entries += [Entry(row.source, f"{row.table} {row.weight} {row.activation}", row.ppl, note=row.note) for row in elsewhere]
    measured = first.measured if first else perplexity(result.nll[corpus])
    place = (*_conflict_place(result.cell), corpus, "" if corpus == "wikitext2" else protocol)
    return Beside(cell, corpus, measured, first, _merged(entries), conflicts().get(place))


def _merged(entries: list[Entry]) -> tuple[Entry, ...]:
    """The entries in the order of `SOURCES`; tables of one source that print the same number become one entry."""
    merged: dict[tuple[str, float], Entry] = {}
    for entry in sorted(entries, key=lambda entry: list(SOURCES).index(entry.source)):
        key = (entry.source, entry.ppl)
        if key not in merged:
            merged[key] = entry
        elif entry.table not in merged[key].table.split(", "):
            merged[key] = replace(merged[key], table=f"{merged[key].table}, {entry.table}")
    return tuple(merged.values())


def conflicting(beside: Iterable[Beside]) -> list[Beside]:
    """The measured numbers about which sources contradict each other: one for each printed number, its first measured one."""
    first: dict[Conflict, Beside] = {}
    for one in beside:
        if one.conflict:
            first.setdefault(one.conflict, one)
    return list(first.values())


def sentence(told: list[Beside]) -> str:
    """What `conflicting` says, in short."""
    outvoted = Counter(source for one in told for source in one.conflict.outvoted)
    text = (
        f"Sources contradict each other about {len(told)} of these numbers: by more than {100 * AGREE['rtn']:g} % of RTN, "
        f"which has neither seed nor calibration, or by more than {100 * AGREE['gptq']:g} % of GPTQ."
    )
    for source, count in outvoted.items():
        text += f" In {count} of them two or more sources agree with each other and not with {SOURCES[source].title}."
    return f"{text} Where they do, someone used another grid or misprinted; no measurement can meet them all."


def summary(beside: Iterable[Beside]) -> list[str]:
    """Lines for the terminal: how many numbers the sources contradict each other about; none if there are none."""
    told = conflicting(beside)
    return [f"  {sentence(told)}"] if told else []


def other_protocols(result: CellResult, protocol: str) -> list[Published]:
    """What sources with a protocol of their own print of the nearest to a cell: to be shown, and compared with nothing.

    Nearest is: same model, method, bits of weights and activations, correction and rank, and, where it is stated, group. Their
    number formats are others.
    """
    cell = result.cell
    if in_float32(protocol) not in PROTOCOLS.values() or "wikitext2" not in result.nll or result.derived:
        return []
    kind = compose.load("lorc", cell.lorc).kind if cell.rank else "none"
    place = (cell.model, base_method(cell.method), cell.weight_format.bits, kind, cell.rank)
    return [
        row
        for row in _elsewhere().get(place, [])
        if _stated(row.weight, r"g(\d+)") in (None, cell.weight_format.group)
        and _stated(row.activation, r"^a(\d+)") in (None, cell.activation_format.bits)
    ]


@cache
def _elsewhere() -> dict[tuple, list[Published]]:
    """The published numbers of sources with a protocol of their own, by model, method, bits, correction and rank."""
    places = defaultdict(list)
    for row in published.load():
        if PROTOCOLS[row.source] is None:
            places[row.model, row.method, _stated(row.weight, r"^w(\d+)"), row.lorc, row.rank].append(row)
    return places


def _stated(text: str, pattern: str) -> int | None:
    """The number in a printed format, or None if it is unstated."""
    found = re.search(pattern, text)
    return int(found[1]) if found else None


def _conflict_place(cell: Cell) -> tuple:
    """The place of a cell among `conflicts`; nowhere with a low-rank correction, and for variants of a method."""
    if cell.rank or cell.method not in AGREE:
        return (cell.model, "", "", "")
    formats = published.without_convention(cell.weight), published.without_convention(cell.activation)
    return (cell.model, base_method(cell.method), *formats)


@cache
def conflicts() -> dict[tuple, Conflict]:
    """Where sources contradict each other, by model, method, formats, corpus, and protocol ("" for WikiText-2).

    Only numbers of the methods of `AGREE`, without a correction, and of each source its first; not GPTQ at 2 bits, which
    calibration and the order of columns move by half. All protocols of GPTQ's code
    measure WikiText-2 alike; other texts are compared within a protocol. Numbers are left out where every source says that the
    model is broken: there the last bit of the arithmetic decides.
    """
    places: dict[tuple, dict[str, float]] = defaultdict(dict)
    for row in published.load():
        protocol = PROTOCOLS[row.source]
        usable = protocol is not None and not (row.misprinted or row.suspect) and row.corpus in CORPORA
        usable &= not (row.method == "gptq" and row.weight.startswith("w2"))
        if usable and row.method in AGREE and row.rank == 0 and row.seed is None:
            place = (row.model, row.method, row.weight, row.activation, row.corpus)
            places[*place, "" if row.corpus == "wikitext2" else protocol].setdefault(row.source, row.ppl)
    found = {}
    for place, numbers in places.items():
        model, method, weight, activation, corpus, protocol = place
        groups = _groups(numbers, AGREE[method])
        full = published.full_precision(model, protocol or published.GATE_PROTOCOL)
        if len(groups) > 1 and full and min(numbers.values()) <= DIVERGED * full[corpus]:
            found[place] = Conflict(model, method, weight, activation, corpus, groups)
    return found


def _groups(numbers: dict[str, float], share: float) -> tuple[tuple[tuple[str, float], ...], ...]:
    """The sources in groups of those that agree, the largest first, and of equal ones that of the lowest perplexity."""
    groups: list[list[tuple[str, float]]] = []
    for source, ppl in sorted(numbers.items(), key=lambda item: item[1]):
        if groups and _agree(groups[-1][-1][1], ppl, share):
            groups[-1].append((source, ppl))
        else:
            groups.append([(source, ppl)])
    order = list(SOURCES)
    groups = [sorted(group, key=lambda item: order.index(item[0])) for group in groups]
    return tuple(tuple(group) for group in sorted(groups, key=lambda group: -len(group)))


def _agree(ppl: float, other: float, share: float) -> bool:
    """Whether two printed perplexities are one number, as far as their digits tell."""
    if math.isinf(ppl) or math.isinf(other):
        return ppl == other
    return abs(ppl - other) <= share * min(ppl, other) + _half_a_digit(ppl) + _half_a_digit(other)


def _half_a_digit(ppl: float) -> float:
    """Half of the last printed digit, of numbers like 1.3e3: papers print two digits of those above a thousand."""
    if ppl < 1000:
        return 0.0
    digit = 10 ** (math.floor(math.log10(ppl)) - 1)
    return digit / 2 if ppl % digit == 0 else 0.0

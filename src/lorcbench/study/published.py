"""The numbers that the papers printed: published.csv, one record per perplexity.

Every perplexity of ZeroQuant-V2 (arXiv 2303.08302, version 3: appendices B and E, the best-of tables of the text, the LoRC
points of figure 1; version 2 where only that prints it) and of GPTQ's 3- and 4-bit tables (arXiv 2210.17323).

- Appendix E prints triples: ``wikitext2``, ``ptb`` and ``c4`` are printed, their ``mean`` is recomputed where the note says so.
  Tables 2 and 3 print such means again and have no rows of their own.
- The learning-rate tables E.4 to E.14 are one table here, ``E.4-E.14 lr``: 592 triples with their `lr`, of which 30 numbers are
  printed as nan (infinite here, the triple without a mean). 57 cells say NaN alone, which E.5 explains as "larger than 1e6" and
  most of which continue an ordinary sweep, so that they were hardly run: they are left out.
- E.23 is its sweep of five learning rates; its column "Best" repeats the lowest.
- Left out: B.1's means and deviations over seeds; appendix D, GPT-2 trained with LoRC (nothing here trains such a model).

The file's columns say `w_sym` 1 or 0 for symmetric or asymmetric, `w_group` and `a_group` -1 for a whole row or token, and
nothing where the paper does not say. Here both formats are spelled as cells spell them, ``w4-asym-g128`` and
``a8-sym-token``; what the paper leaves unstated is missing, as in ``w4-asym`` and ``a8``. No paper says which divisor,
zero-point rounding or scale type it used, so a published format carries no convention.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from lorcbench.core.formats import ActivationFormat, WeightFormat

PROTOCOLS = {"zeroquant-v2": "gptq-old", "gptq": "gptq-new"}  # how each source measured
GATE_PROTOCOL = PROTOCOLS["zeroquant-v2"]  # by which a published model must measure as printed before it is quantized
CORPORA = ("wikitext2", "ptb", "c4")
CLASS_BOUNDS = (0.1, 0.5)  # of the loss of the mean perplexity: class 1 up to the first, 2 up to the second, else 3 (table 1)
# Table 6 says A8 alone; its numbers at groups of 128 are those that E.21 prints for symmetric activations.
_SYMMETRIC_ACTIVATIONS = ("6 / E.22",)


@dataclass(frozen=True)
class Published:
    """One printed perplexity.

    Attributes:
        source: ``zeroquant-v2`` or ``gptq``.
        table: of the source, such as ``E.15/E.16`` or ``7 (LoRC)``.
        method: ``none``, ``rtn``, ``gptq``, ``zq_local``, ``zq_global``, or ``best`` of the last three. Distillation's numbers
            without a learning rate are of the best one, chosen by these very perplexities.
        weight, activation: formats as cells spell them, without convention; cut short where the paper is silent.
        rank: of LoRC, 0 without.
        lorc_bits: of the factors, None if there are none or it is unstated.
        lr, seed: if the row is of one learning rate, or of one calibration seed.
        corpus: ``wikitext2``, ``ptb``, ``c4``, or ``mean`` of the three.
        ppl: perplexity; infinite where the table says "Diverge", "Explode", or nan within a triple.
        note: remarks, misprints among them.
    """

    source: str
    table: str
    model: str
    method: str
    weight: str
    activation: str
    rank: int
    lorc_bits: int | None
    lr: float | None
    seed: int | None
    corpus: str
    ppl: float
    note: str

    @property
    def misprinted(self) -> bool:
        """Whether the number is plainly not this row's: another model's triple, a slip of a digit."""
        return "misprint" in self.note or "typo" in self.note

    def formats(self) -> tuple[WeightFormat, ActivationFormat] | None:
        """Both formats as values, or None if the paper leaves groups or symmetry unstated."""
        try:
            return WeightFormat.parse(self.weight), ActivationFormat.parse(self.activation)
        except ValueError:
            return None

    def counts_under(self, protocol: str) -> bool:
        """Whether a perplexity of that protocol may be held against this one; both protocols measure WikiText-2 alike."""
        own = PROTOCOLS[self.source]
        return protocol == own or (self.corpus == "wikitext2" and protocol in PROTOCOLS.values())


@cache
def load() -> tuple[Published, ...]:
    """All of them, in the file's order."""
    with files("lorcbench.study").joinpath("published.csv").open(encoding="utf-8", newline="") as file:
        return tuple(_record(row) for row in csv.DictReader(file))


def without_convention(text: str) -> str:
    """A weight or activation format as a paper would print it: divisor and scale type left out."""
    if text.startswith("a"):
        return str(replace(ActivationFormat.parse(text), convention="minmax"))
    return str(replace(WeightFormat.parse(text), convention="minmax", scale_dtype="float16"))


def sensitivity_class(loss: float) -> int:
    """ZeroQuant-V2's class 1, 2 or 3 of a loss of mean perplexity to full precision; 3 for what is no number."""
    return next((number for number, bound in enumerate(CLASS_BOUNDS, 1) if loss <= bound), 3)


@cache
def full_precision(model: str, protocol: str = GATE_PROTOCOL) -> dict[str, float] | None:
    """The published full-precision perplexities of a model by corpus, or None if there are none for that protocol."""
    found = {
        row.corpus: row.ppl
        for row in load()
        if row.model == model and row.method == "none" and row.activation == "a16" and PROTOCOLS[row.source] == protocol
    }
    return {corpus: found[corpus] for corpus in CORPORA} if found else None


def _record(row: dict[str, str]) -> Published:
    symmetric = "1" if row["table"] in _SYMMETRIC_ACTIVATIONS else row["a_sym"]
    return Published(
        source=row["source"],
        table=row["table"],
        model=row["model"],
        method="none" if row["w_bits"] == "16" else row["method"],  # activations alone are no method of weights
        weight=_format("w", row["w_bits"], row["w_sym"], row["w_group"], "row"),
        activation=_format("a", row["a_bits"], symmetric, row["a_group"], "token"),
        rank=int(row["lorc_rank"]),
        lorc_bits=int(row["lorc_bits"]) if row["lorc_bits"] else None,
        lr=float(row["lr"]) if row["lr"] else None,
        seed=int(row["seed"]) if row["seed"] else None,
        corpus=row["corpus"],
        ppl=float(row["ppl"]),
        note=row["note"],
    )


def _format(letter: str, bits: str, symmetric: str, group: str, whole: str) -> str:
    if bits == "16":
        return f"{letter}16"
    symmetry = {"1": "sym", "0": "asym", "": ""}[symmetric]
    size = {"-1": whole, "": ""}.get(group, f"g{group}")
    return "-".join(part for part in (f"{letter}{bits}", symmetry, size) if part)

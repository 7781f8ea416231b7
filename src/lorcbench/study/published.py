"""The numbers that others printed: published.csv, one record per perplexity.

Two papers are the ones whose tables the studies measure (`STUDIED`): every perplexity of ZeroQuant-V2 (arXiv 2303.08302,
version 3: appendices B and E, the best-of tables of the text, the LoRC points of figure 1; version 2 where only that prints it)
and of GPTQ's 3- and 4-bit tables (arXiv 2210.17323): 6,791 and 225 rows.

- Appendix E prints triples: ``wikitext2``, ``ptb`` and ``c4`` are printed, their ``mean`` is recomputed where the note says so.
  Tables 2 and 3 print such means again and have no rows of their own.
- The learning-rate tables E.4 to E.14 are one table here, ``E.4-E.14 lr``: 592 triples with their `lr`, of which 30 numbers are
  printed as nan (infinite here, the triple without a mean). 57 cells say NaN alone, which E.5 explains as "larger than 1e6" and
  most of which continue an ordinary sweep, so that they were hardly run: they are left out.
- E.23 is its sweep of five learning rates; its column "Best" repeats the lowest.
- Left out: B.1's means and deviations over seeds; appendix D, GPT-2 trained with LoRC (nothing here trains such a model).

The other sources print numbers of the same cells, to be shown beside these. Of each, only methods that are also measured here:
RTN, GPTQ, and low-rank corrections.

- ``omniquant`` (arXiv 2308.13137, 84 rows): table A20, RTN and GPTQ on OPT, WikiText-2. AffineQuant (arXiv 2403.12544)
  prints the 3- and 4-bit part up to 30B again, digit for digit, in its table 1, so it is no source of its own. A20's RTN at 4
  bits by row is left out: but for one last digit that is GPTQ's paper again (even the 110 of 66B). At 3 bits by row it is not;
  there two digits are printed. With which data its GPTQ was calibrated is not said. Left out: A21 and A22 (PTB, C4), in which
  several rows repeat numbers of other rows.
- ``awq`` (arXiv 2306.00978, 5 rows): table 3, RTN at 3 bits in groups of 128.
- ``lqer`` (arXiv 2402.02446, 27 rows): the sheets ``opt``, ``opt-2bit`` and ``ablation_study`` of the spreadsheet in its
  repository. Weights and activations are block floating point (``mx``: one exponent per block), or integers of unstated
  symmetry, so no format here is theirs; they have a protocol of their own and are compared with nothing. Left out: its sweep
  of ranks (sheet ``SVD``: the bits are unstated), and what it quotes of others.
- ``ptq-bench`` (github.com/Dercen/LLM-Precision, 237 rows): RTN and GPTQ of its pages by model. It is no paper but a
  `reproduction`: one run of one program that follows GPTQ's code, in float16. It is counted apart from papers, always.

The file's columns say `w_sym` 1 or 0 for symmetric or asymmetric, `w_group` and `a_group` -1 for a whole row or token, and
nothing where the source does not say. Here both formats are spelled as cells spell them, ``w4-asym-g128`` and
``a8-sym-token``; what the source leaves unstated is missing, as in ``w4-asym`` and ``a8``. No paper says which divisor,
zero-point rounding or scale type it used, so a published format carries no convention.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from lorcbench.core.formats import ActivationFormat, WeightFormat

PAPER, REPRODUCTION = "paper", "reproduction"


@dataclass(frozen=True)
class Source:
    """Who printed numbers.

    Attributes:
        title: as the page names it.
        kind: `PAPER` or `REPRODUCTION`; the numbers of the two are never counted together.
        protocol: how it measured; None is a protocol of its own, whose numbers are compared with nothing.
    """

    title: str
    kind: str
    protocol: str | None


SOURCES = {
    "zeroquant-v2": Source("ZeroQuant-V2", PAPER, "gptq-old"),
    "gptq": Source("GPTQ", PAPER, "gptq-new"),
    "omniquant": Source("OmniQuant", PAPER, "gptq-old"),
    "awq": Source("AWQ", PAPER, "gptq-old"),
    "lqer": Source("LQER", PAPER, None),
    "ptq-bench": Source("ptq-bench", REPRODUCTION, "gptq-new"),
}
STUDIED = ("zeroquant-v2", "gptq")  # the papers whose tables the studies measure
PROTOCOLS = {name: source.protocol for name, source in SOURCES.items()}
GATE_PROTOCOL = PROTOCOLS["zeroquant-v2"]  # by which a published model must measure as printed before it is quantized
CORPORA = ("wikitext2", "ptb", "c4")
CLASS_BOUNDS = (0.1, 0.5)  # of the loss of the mean perplexity: class 1 up to the first, 2 up to the second, else 3 (table 1)
# Table 6 says A8 alone; its numbers at groups of 128 are those that E.21 prints for symmetric activations.
_SYMMETRIC_ACTIVATIONS = ("6 / E.22",)


@dataclass(frozen=True)
class Published:
    """One printed perplexity.

    Attributes:
        source: a key of `SOURCES`.
        table: of the source, such as ``E.15/E.16`` or ``7 (LoRC)``, or the sheet or page.
        method: ``none``, ``rtn``, ``gptq``, ``zq_local``, ``zq_global``, or ``best`` of the last three. Distillation's numbers
            without a learning rate are of the best one, chosen by these very perplexities.
        weight, activation: formats as cells spell them, without convention; cut short where the paper is silent.
        lorc: kind of the low-rank correction as conf/lorc names it: ``plain`` (LoRC), ``diag-abs`` (L2QER), or ``none``.
        rank: of the correction, 0 without.
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
    lorc: str
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

    @property
    def suspect(self) -> bool:
        """Whether the number is hard to believe, so that it is shown and not counted; nothing says that it is an error."""
        return "suspect" in self.note

    @property
    def kind(self) -> str:
        """Of its source: `PAPER` or `REPRODUCTION`."""
        return SOURCES[self.source].kind

    def formats(self) -> tuple[WeightFormat, ActivationFormat] | None:
        """Both formats as values, or None if the paper leaves groups or symmetry unstated."""
        try:
            return WeightFormat.parse(self.weight), ActivationFormat.parse(self.activation)
        except ValueError:
            return None

    def counts_under(self, protocol: str) -> bool:
        """Whether a perplexity of that protocol may be held against this one: never where the source has a protocol of its own.

        The two protocols of GPTQ's code measure WikiText-2 alike.
        """
        own = PROTOCOLS[self.source]
        if own is None:
            return False
        return protocol == own or (self.corpus == "wikitext2" and protocol in PROTOCOLS.values())


@cache
def load() -> tuple[Published, ...]:
    """All of them, in the file's order."""
    with files("lorcbench.study").joinpath("published.csv").open(encoding="utf-8", newline="") as file:
        return tuple(_record(row) for row in csv.DictReader(file))


@cache
def studied() -> tuple[Published, ...]:
    """Those of the papers whose tables the studies measure."""
    return tuple(row for row in load() if row.source in STUDIED)


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
    """The full-precision perplexities of a model by corpus, as the studied paper of that protocol prints them, or None.

    The gate's, ``gptq-old``, are ZeroQuant-V2's alone: sources beside the studied papers have no part in it.
    """
    found = {
        row.corpus: row.ppl
        for row in studied()
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
        lorc=row["lorc"] or ("plain" if int(row["lorc_rank"]) else "none"),
        rank=int(row["lorc_rank"]),
        lorc_bits=int(row["lorc_bits"]) if row["lorc_bits"] else None,
        lr=float(row["lr"]) if row["lr"] else None,
        seed=int(row["seed"]) if row["seed"] else None,
        corpus=row["corpus"],
        ppl=float(row["ppl"]),
        note=row["note"],
    )


def _format(letter: str, bits: str, symmetric: str, group: str, whole: str) -> str:
    """A format as cells spell it, without what is unstated; "" where not even the bits are known."""
    if bits in ("16", ""):
        return f"{letter}{bits}" if bits else ""
    symmetry = {"1": "sym", "0": "asym", "": "", "mx": "mx"}[symmetric]
    size = {"-1": whole, "": ""}.get(group, f"g{group}")
    return "-".join(part for part in (f"{letter}{bits}", symmetry, size) if part)

"""Claims counted: what all tests of a claim say together. A headline counts claims, not tests of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from lorcbench.common.spelling import counted as spelled_count
from lorcbench.report.claims import FAMILYWISE, VERDICTS, Verdict

IN_PART = "in part"


@dataclass(frozen=True)
class Claim:
    """A claim with its verdicts.

    Attributes:
        text: the claim, in one sentence.
        source: the tables that print what it compares, or `lorcbench.report.statement.OURS`.
        is_ours: whether it goes beyond these tables.
        verdicts: all of them; those that are counted decide.
        status: ``supported`` if every counted test supports it with the family-wise error controlled, ``contradicted`` if none
            does and one contradicts it, ``in part`` if some support it, else ``undecided``. "" if no test counts.
    """

    text: str
    source: str
    is_ours: bool
    verdicts: tuple[Verdict, ...]
    status: str

    def counts(self) -> dict[str, str]:
        """How many counted tests came out each way, each by itself, and how many of them still do after Holm, in words."""
        alone = Counter(verdict.verdict for verdict in self.verdicts if verdict.counted)
        after = Counter(verdict.familywise for verdict in self.verdicts if verdict.counted)
        lost = {kind: f", {after[kind]} after Holm" for kind in ("supported", "contradicted") if after[kind] < alone[kind]}
        return {kind: f"{alone[kind]} {kind}{lost.get(kind, '')}" for kind in VERDICTS if alone[kind]}

    @property
    def is_supported_alone(self) -> bool:
        """Whether every counted test supports it, each by itself."""
        return all(verdict.verdict == "supported" for verdict in self.verdicts if verdict.counted)

    @property
    def note(self) -> str:
        """What stands on these models for numbers in the claim; "" if nothing does."""
        return next((verdict.note for verdict in self.verdicts if verdict.note), "")


def claims(verdicts: list[Verdict]) -> list[Claim]:
    """One record per claim, in the order of the verdicts; a claim of the paper's and its extrapolation are two."""
    members: dict[tuple[str, bool], list[Verdict]] = {}
    for verdict in verdicts:
        members.setdefault((verdict.claim, verdict.is_ours), []).append(verdict)
    return [
        Claim(text, same[0].source, is_ours, tuple(same), _status([one.familywise for one in same if one.counted]))
        for (text, is_ours), same in members.items()
    ]


def _status(familywise: list[str]) -> str:
    """What the tests of a claim say together."""
    supported = familywise.count("supported")
    if familywise and supported == len(familywise):
        return "supported"
    if supported:
        return IN_PART
    if "contradicted" in familywise:
        return "contradicted"
    return "undecided" if familywise else ""


def counted(found: list[Claim], ours: bool) -> tuple[int, int]:
    """How many of the paper's claims, or of ours, are supported in every test after Holm, and how many were tested."""
    kind = [claim for claim in found if claim.is_ours == ours and claim.status]
    return sum(claim.status == "supported" for claim in kind), len(kind)


def supported(found: list[Claim], ours: bool) -> str:
    """By what `counted` takes a claim for supported, and how many are if each test stands by itself."""
    before = sum(claim.is_supported_alone for claim in found if claim.is_ours == ours and claim.status)
    tests = sum(verdict.counted for claim in found for verdict in claim.verdicts)
    return f"supported in every test (corrected for {spelled_count(tests, 'test')}, Holm; {before} uncorrected)"


def as_printed(verdicts: list[Verdict]) -> tuple[int, int]:
    """How many counted tests came out as print says of the same model, and how many can be held against it."""
    told = [verdict.agreement for verdict in verdicts if verdict.counted and verdict.agreement]
    return told.count("as printed"), len(told)


def control(verdicts: list[Verdict]) -> str:
    """How many tests there are, and what keeps them from supporting a claim by chance."""
    count = sum(verdict.counted for verdict in verdicts)
    return f"{count} tests, family-wise error at most {100 * FAMILYWISE:g} % by Holm's procedure"


def brief(verdicts: list[Verdict], page: Path) -> list[str]:
    """For the terminal, where all models are the reader's own: the place of their tests; none without one."""
    _, count = counted(claims(verdicts), ours=False)
    return [f"  whether the paper's claims hold here, too: {page}#claims"] if count else []


def is_about_others(verdicts: list[Verdict]) -> bool:
    """Whether no counted test is of a stand-in or of a model of the paper's."""
    kinds = {verdict.models for verdict in verdicts if verdict.counted}
    return not any(known in kind for kind in kinds for known in ("stand-ins", "models of the paper"))


def lines(verdicts: list[Verdict], page: Path) -> list[str]:
    """For the terminal: claims counted, and where each of them is; none if no test counts."""
    found = claims(verdicts)
    if not any(claim.status for claim in found):
        return []
    models = sorted({verdict.models for verdict in verdicts if verdict.counted})
    told = [f"  claims, tested on {' and '.join(models)}: {control(verdicts)}; each of them: {page}#claims"]
    for ours, name in ((False, "of the paper"), (True, "of ours, which no table makes")):
        holding, count = counted(found, ours)
        if count:
            told.append(f"    {name}: {holding} of {count} {supported(found, ours)}")
    agree, comparable = as_printed(verdicts)
    if comparable:
        told.append(f"    as printed of the same model: {agree} of {comparable} tests")
    return told

"""Methods that make codes and factors together, in the report: beside the ordinary order, and their base at equal bits."""

import dataclasses

from synthetic import result

from lorcbench.report import claims, corrections, equal_bits
from lorcbench.report.comparison import changes
from lorcbench.report.equal_bits import kind_of
from lorcbench.report.page.corrections import kinds_of_correction
from lorcbench.report.wording import recipe

SPLIT, INTRINSIC = "split+base=rtn+rank=8", "gptq-intrinsic+rank=8"


def cell(method: str, lorc: str, loss: float, weight: str = "w2-asym-row", **changed):
    """A finished cell of one rank, or of none."""
    base = "rtn" if method in ("rtn", SPLIT) else "gptq"
    name = f"opt-standin-s {base} {weight} r{0 if lorc == 'none' else 8}"
    made = result(name, loss, seed=len(method) + int(900 * loss), **changed)
    calibration = "none" if method == "rtn" and lorc == "none" else "stdlib"
    made.cell = dataclasses.replace(made.cell, method=method, lorc=lorc, calibration=calibration)
    return made


def study() -> list:
    """Both bases without LoRC and with exact factors; both methods; and finer groups."""
    return [
        result("opt-standin-s none w16 r0"),
        *(cell(method, lorc, loss) for method in ("rtn", "gptq-cached") for lorc, loss in (("none", 0.4), ("exact-int8", 0.3))),
        cell("gptq", "exact-int8", 0.29),
        cell("gptq", "none", 0.27, "w2-asym-g32", bits_per_weight=2.6),
        cell(SPLIT, "paired-int8", 0.2),
        cell(INTRINSIC, "paired-int8", 0.28),
    ]


def verdicts(found: list, words: str) -> dict[str, str]:
    """The verdicts on the claims that contain `words`."""
    return {one.claim: one.verdict for one in claims.judge(found, changes(found)) if words in one.claim}


def test_the_method_is_the_kind():
    assert [kind_of(one.cell) for one in study()[-2:]] == ["split", "intrinsic"]
    redone = dataclasses.replace(study()[-1].cell, lorc="exact-int8")
    assert kind_of(redone) == "intrinsic"
    assert equal_bits.leading([redone, study()[-1].cell]) == {study()[-1].cell}
    assert recipe(study()[-1].cell).startswith("gptq-intrinsic (rank=8), 2 bits, one scale per row, paired LoRC of rank 8")


def test_at_equal_rank_each_is_held_against_the_ordinary_order_with_its_settings():
    found = study()
    assert verdicts(found, "and then") == {
        "At 2 bits and equal rank, split has a lower perplexity than RTN and then exact LoRC": "supported",
        "At 2 bits and equal rank, intrinsic has a lower perplexity than GPTQ and then exact LoRC": "supported",
    }
    without = [one for one in found if one.cell.method != "gptq-cached"]
    assert len(verdicts(without, "and then")) == 1, "published GPTQ has other Hessians than the method"


def test_at_equal_bits_all_variants_of_the_base_are_rivals():
    found = study()
    best = equal_bits.rivals(found)
    by_method = {one.cell.method: one for one in found[-2:]}
    assert best[by_method[INTRINSIC].cell].cell.weight == "w2-asym-g32"
    assert best[by_method[SPLIT].cell].cell.method == "rtn"
    assert equal_bits.rivals(found, "exact")[by_method[INTRINSIC].cell].cell.method == "gptq"
    said = verdicts(found, "At equal bits, ")
    claim = "At equal bits, {1} beats every cell of {0}"
    assert said[claim.format("GPTQ without LoRC", "intrinsic")] == "contradicted"
    assert said[claim.format("RTN with exact LoRC", "split")] == "supported"


def test_they_are_rows_of_the_tables_beside_the_other_kinds():
    found = study()
    made = corrections.find(found, changes(found), {one.cell: 1 / 8 for one in found if one.cell.rank})
    assert [row.kind for row in made.by_format] == ["exact", "intrinsic", "split"]
    assert any(sentence.startswith("Split LoRC: 1 cell.") for sentence in made.sentences)
    assert kinds_of_correction(made)

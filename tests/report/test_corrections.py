"""Kinds of LoRC beside each other: at equal rank, at equal bits, by their factors and by the inputs that they know."""

import dataclasses

import pytest
from synthetic import result

from lorcbench.report import claims, corrections, equal_bits
from lorcbench.report.comparison import changes
from lorcbench.report.page.corrections import kinds_of_correction
from lorcbench.report.wording import recipe

KINDS = ("plain", "diag-abs", "diag-rms", "exact")


def corrected(name: str, lorc: str, loss: float, noise: float = 0.002, **changed):
    """A finished cell with LoRC of the setting `lorc`; RTN has a calibration only if the factors know the inputs."""
    made = result(name, loss, noise, seed=len(lorc) + int(1000 * loss), **changed)
    calibration = "stdlib" if "gptq" in name or not lorc.startswith("plain") else "none"
    made.cell = dataclasses.replace(made.cell, lorc=lorc, calibration=calibration)
    return made


def kinds(method: str = "rtn", weight: str = "w2-asym-row", losses=(0.3, 0.28, 0.27, 0.2)) -> list:
    """One recipe without LoRC, and with rank 8 of each kind."""
    name = f"opt-standin-s {method} {weight} r"
    cells = [corrected(f"{name}8", f"{kind}-int8", loss) for kind, loss in zip(KINDS, losses, strict=True)]
    return [result(f"{name}0", 0.4), *cells]


def verdicts(found, *words: str) -> dict[str, str]:
    """The verdict on each claim that contains all of `words`; every one is ours, and counted."""
    judged = [one for one in claims.judge(found, changes(found)) if all(word in one.claim for word in words)]
    assert all(verdict.is_ours and verdict.counted for verdict in judged)
    return {verdict.claim: verdict.verdict for verdict in judged}


def test_at_equal_rank_each_kind_is_held_against_those_that_know_less():
    said = verdicts(kinds(), "equal rank")
    assert said == {
        f"At 2 bits and equal rank, {kind} LoRC has a lower perplexity than {other} LoRC": "supported"
        for kind, other in [
            *(("exact", other) for other in KINDS[:3]),
            ("diag-abs", "plain"),
            ("diag-rms", "plain"),
        ]
    }
    worse = verdicts(kinds(losses=(0.2, 0.27, 0.28, 0.3)), "equal rank")
    assert said.keys() == worse.keys() and set(worse.values()) == {"contradicted"}
    fp16 = [dataclasses.replace(one, cell=dataclasses.replace(one.cell, lorc="plain-fp16")) for one in kinds()[1:2]]
    assert not verdicts([*kinds()[2:3], *fp16], "equal rank"), "pairs differ in one setting only"


@pytest.mark.parametrize(("loss", "verdict"), [(0.1, "contradicted"), (0.25, "supported")])
def test_at_equal_bits_each_kind_has_a_claim_of_its_own(loss, verdict):
    finer = result("opt-standin-s rtn w2-asym-g32 r0", loss, seed=5, bits_per_weight=3.0)
    said = verdicts([*kinds(), finer], "At equal bits, ", " every cell of RTN without ")
    assert len(said) == 4 and said["At equal bits, RTN with LoRC beats every cell of RTN without it"] == "contradicted"
    (exact,) = (value for claim, value in said.items() if ", exact LoRC beats" in claim)
    assert exact == verdict


def test_at_equal_bits_plain_cells_of_other_ranks_and_formats_are_rivals_too():
    found = kinds()
    exact = found[-1]
    claim = "At equal bits, exact LoRC beats every cell of the same method with plain LoRC"
    assert (
        equal_bits.rivals(found, "plain")[exact.cell] is found[1]
        and verdicts(found, "method with plain LoRC")[claim] == "supported"
    )
    finer = corrected("opt-standin-s rtn w2-asym-g32 r2", "plain-int8", 0.1, bits_per_weight=exact.bits_per_weight)
    assert verdicts([*found, finer], "method with plain LoRC")[claim] == "contradicted"
    finer.bits_per_weight += 0.01
    assert verdicts([*found, finer], "method with plain LoRC")[claim] == "supported"
    assert not {one.cell for one in found[:2]} & equal_bits.rivals(found, "plain").keys()


@pytest.mark.parametrize(("rise", "verdict"), [(0.0002, "supported"), (-0.004, "contradicted")])
def test_int8_factors_that_know_the_inputs_have_a_bound_of_their_own(rise, verdict):
    name = "opt-standin-s gptq w2-asym-row r8"
    found = [corrected(name, "exact-fp16", 0.2, 0.0), corrected(name, "exact-int8", 0.2 + rise, 0.0)]
    assert verdicts(found) == {"INT8 factors of exact LoRC stay within 0.1 % of FP16 factors": verdict}


@pytest.mark.parametrize(("loss", "verdict"), [(0.15, "supported"), (0.25, "contradicted")])
def test_int4_factors_of_more_components_are_held_against_int8_ones_of_no_fewer_bits(loss, verdict):
    name = "opt-standin-s gptq w2-asym-row r8"
    eight = corrected(name, "exact-int8", 0.2)
    bits = eight.bits_per_weight
    more = corrected(name.replace("r8", "r14"), "exact-int4", loss, bits_per_weight=bits)
    same_rank = corrected(name, "exact-int4", 0.1, bits_per_weight=bits - 0.3)
    claim = "At equal bits, more components in INT4 have a lower perplexity than exact LoRC in INT8"
    assert verdicts([eight, more, same_rank], "components") == {claim: verdict}
    more.bits_per_weight += 0.01
    assert not verdicts([eight, more, same_rank], "components"), "it has more bits"


def test_the_inputs_of_the_quantized_model_are_held_against_the_others():
    name = "opt-standin-s gptq w2-asym-row r8"
    found = [corrected(name, "exact-int8", 0.2), corrected(name, "exact-int8+inputs=quantized", 0.15)]
    whose = "the inputs of the quantized model instead of the unquantized one"
    assert verdicts(found) == {f"Weighted with {whose}, exact LoRC has a lower perplexity": "supported"}
    with_plain = [corrected(name, "plain-int8", 0.3), found[1]]
    assert not verdicts(with_plain, "equal rank"), "plain factors know no inputs that could be others"


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_clipped_scales_are_held_against_those_of_the_whole_range(method):
    names = [f"opt-standin-s {method}{clip} w3-asym-g32 r0" for clip in ("", "+clip=mse")]
    found = [result(names[0], 0.2, seed=1), result(names[1], 0.15, seed=2)]
    for one in found:
        one.cell = dataclasses.replace(one.cell, calibration="stdlib" if method == "gptq" else "none")
    assert verdicts(found) == {f"At 3 bits, clip=mse lowers the perplexity of {method.upper()}": "supported"}


def test_the_papers_claims_speak_of_plain_and_distilled_factors_alone():
    papers = [verdict for verdict in claims.judge(kinds("gptq"), changes(kinds("gptq"))) if not verdict.is_ours]
    assert [(verdict.claim, verdict.scope) for verdict in papers] == [
        ("At 2 bits, LoRC lowers the perplexity of GPTQ", "opt-standin-s: gptq stdlib w2-asym-row r8-plain-int8")
    ]


def test_the_sentence_counts_each_kind():
    said = equal_bits.sentence(kinds())
    assert said.startswith(
        "LoRC at equal bits, beside the best cell without it of the same method and no more bits: of 1 plain"
    )
    assert "of 1 exact cells 0 are worse (0) and 1 better (1). Beside the best cell with plain LoRC of no more bits" in said
    assert said.count(" cells ") == 7 and "exact" not in equal_bits.sentence(kinds()[:2])


def test_kinds_in_words():
    words = [recipe(one.cell).partition("row, ")[2] for one in kinds()[1:]]
    assert words == [
        "LoRC of rank 8 with INT8 factors",
        *(f"{kind} LoRC of rank 8 with INT8 factors" for kind in ("diag-abs", "diag-rms", "exact")),
    ]
    other = dataclasses.replace(kinds()[-1].cell, lorc="exact-fp16+inputs=quantized")
    assert recipe(other).endswith("exact LoRC of rank 8 with FP16 factors (inputs=quantized)")


def test_what_was_found_is_counted_from_the_comparisons():
    rivals = [result("opt-standin-s none w16 r0"), result("opt-standin-s rtn w2-asym-g32 r0", 0.25, bits_per_weight=2.6)]
    found = [*rivals, *kinds()]
    made = corrections.find(found, changes(found), {one.cell: 1 / 8 for one in found if one.cell.rank})
    plain, *_, exact = made.sentences
    assert plain.startswith("Plain LoRC: 1 cell. At equal bits it is below the best cell without LoRC in 0 of 1 (0 beyond")
    assert (
        "without LoRC that beats it beyond the interval has more bits per code in 0 cases, finer groups in 1." in plain
        and plain.endswith("in most recipes, at no r/d.")
    )
    below = "in 1 of 1 (1 beyond the 95 % interval, 0 the other way)"
    assert exact.startswith(f"Exact LoRC: 1 cell. At equal rank it is below plain LoRC {below}. At equal bits it is below the")
    assert f", and below the best plain one {below}. Of the loss it takes back (medians) 55 % at r/d of 12.5 %" in exact
    assert exact.endswith("in most recipes, at r/d of 12.5 %.")
    assert [(row.where, row.kind) for row in made.by_format] == [("2 bits, rows", kind) for kind in KINDS]
    (last,) = (row for row in made.by_share if row.kind == "exact")
    assert last.where == "12.5 %" and last.better == (1, 1) and last.plain.high < 0 and last.without.high < 0
    html = kinds_of_correction(made)
    assert html.count("<tr>") == 10 and exact in html


def test_one_kind_alone_is_not_compared():
    found = [result("opt-standin-s none w16 r0"), *kinds()[:2]]
    assert corrections.find(found, changes(found), {}) == corrections.NOTHING and kinds_of_correction(corrections.NOTHING) == ""

"""LoRC at equal bits: its rivals, the claim, the sentence and the figure."""

import dataclasses

import pytest
from synthetic import result, results

from lorcbench.report import claims, equal_bits
from lorcbench.report.comparison import changes
from lorcbench.report.figures import equal_bits as figure

BARE = "opt-standin-s gptq w2-asym-row r0"


def judge(found) -> list[claims.Verdict]:
    """The verdicts on LoRC at equal bits."""
    return [verdict for verdict in claims.judge(found, changes(found)) if verdict.claim.startswith("At equal bits")]


def study(rival_loss: float, rival_bits: float) -> list:
    """A cell with LoRC of 3.05 bits, the same without, and a third one in groups."""
    found = [result(BARE, 0.4), result(BARE.replace("r0", "r8"), 0.3, seed=1)]
    return [*found, result(BARE.replace("row", "g32"), rival_loss, seed=2, bits_per_weight=rival_bits)]


@pytest.mark.parametrize(
    ("loss", "bits", "verdict"),
    [(0.2, 2.5, "contradicted"), (0.2, 3.05, "contradicted"), (0.2, 3.06, "supported"), (0.35, 2.5, "supported")],
)
def test_only_what_has_no_more_bits_is_a_rival(loss, bits, verdict):
    found = study(loss, bits)
    (judged,) = judge(found)
    assert judged.verdict == verdict and judged.is_ours and judged.counted
    sentence = equal_bits.sentence(found)
    beaten = int(verdict == "contradicted")
    assert (
        f"worse in {beaten} of 1 cell ({beaten} beyond" in sentence
        and f"better in {1 - beaten} ({1 - beaten} beyond" in sentence
    )


def test_a_rival_is_the_best_of_its_kind():
    found = results()
    best = equal_bits.rivals(found)
    assert len(best) == sum(bool(one.cell.rank) for one in found)
    for one in found:
        if not one.cell.rank:
            assert one.cell not in best
            continue
        rival = best[one.cell]
        assert rival.bits_per_weight <= one.bits_per_weight and not rival.cell.rank
        same = [o for o in found if (o.cell.model, o.cell.method, o.cell.rank) == (one.cell.model, one.cell.method, 0)]
        assert rival.mean_ppl == min(other.mean_ppl for other in same if other.bits_per_weight <= one.bits_per_weight)


def test_other_methods_calibrations_and_activations_are_no_rivals():
    found = study(0.2, 2.5)
    for change in ({"method": "rtn"}, {"calibration": "stdlib+seed=1"}, {"activation": "a8-asym-token"}, {"model": "opt-125m"}):
        other = dataclasses.replace(found[2], cell=dataclasses.replace(found[2].cell, **change))
        assert equal_bits.rivals([*found[:2], other]) == {found[1].cell: found[0]}


def test_a_cell_with_clipped_scales_is_a_rival_for_they_take_no_bits():
    found = study(0.35, 2.5)
    clipped = dataclasses.replace(result(BARE, 0.2, seed=3), cell=dataclasses.replace(found[0].cell, method="gptq+clip=mse"))
    assert equal_bits.rivals([*found, clipped]) == {found[1].cell: clipped}
    damped = dataclasses.replace(clipped, cell=dataclasses.replace(clipped.cell, method="gptq+damp=0.1"))
    assert equal_bits.rivals([*found, damped]) == {found[1].cell: found[2]}


def test_without_a_rival_nothing_is_said(tmp_path):
    alone = [result(BARE.replace("r0", "r8"), 0.3)]
    assert equal_bits.sentence(alone) == "" and judge(alone) == [] and figure.draw(alone, tmp_path) is None


def test_models_are_not_pooled_for_their_rivals_differ():
    found = [
        one
        for model in ("opt-standin-s", "opt-standin-m")
        for one in (result(f"{model} gptq w3-asym-row r0", 0.4), result(f"{model} gptq w3-asym-row r8", 0.3, seed=1))
    ]
    assert [verdict.scope.split(":")[0] for verdict in judge(found)] == ["opt-standin-s", "opt-standin-m"]

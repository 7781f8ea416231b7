"""What figures say in a sentence, and which models they draw."""

import dataclasses

import pytest
from synthetic import result, results

from lorcbench.common.artifacts import write_json
from lorcbench.report.comparison import changes
from lorcbench.report.figures import costs
from lorcbench.report.figures.answers import answers
from lorcbench.report.figures.selection import MOST, parts


def sized(models: dict[str, int]) -> list:
    """Full precision of models with these numbers of parameters."""
    return [result(f"{name} none w16 r0", parameters=count) for name, count in models.items()]


def test_six_models_or_fewer_are_one_part():
    names = [f"opt-{n}m" for n in range(MOST)]
    assert parts(sized(dict.fromkeys(names, 1))) == [names]
    assert parts([]) == [[]]


def test_of_many_models_the_first_part_has_the_ends_and_the_middle_of_each_family():
    sizes = {f"opt-{n}b": n for n in range(8)} | {f"bloom-{n}b": 10 * n for n in (3, 1, 2)}
    first, *rest = parts(sized(sizes))
    assert first == ["opt-0b", "opt-4b", "opt-7b", "bloom-3b", "bloom-1b", "bloom-2b"]
    assert rest == [["opt-1b", "opt-2b", "opt-3b", "opt-5b", "opt-6b"]]
    assert parts(sized({f"m{n}-x": 1 for n in range(14)}))[1:] == [[f"m{n}-x" for n in range(6, 12)], ["m12-x", "m13-x"]]


def test_each_answer_is_of_the_numbers():
    found = [one for one in results() if one.status == "ok"]
    said = answers(found, changes(found))
    assert said["pareto"].startswith("Of 52 quantized cells 14 are on the front of their model: ")
    # exp(0.4 · 0.7) and exp(0.4 · 0.7 · 0.6): groups keep 0.7 of the loss, GPTQ 0.6
    assert said["bits"].endswith("at 2 bits GPTQ +18.3 %, RTN +32.3 %.")
    assert said["sensitivity"].startswith("Of what is lost in whole rows groups of 32 take back 3")
    assert said["lorc"].startswith("At 2 bits, rank 8 gives back on average 2")
    assert said["activation"] == said["size"] == ""


def test_rounded_activations_and_larger_models_are_compared_with_their_own():
    full = result("opt-125m none w16 r0", weights=None)
    rounded = dataclasses.replace(
        result("opt-125m none w16 r0", 0.01), cell=dataclasses.replace(full.cell, activation="a8-asym-token")
    )
    said = answers([full, rounded], changes([full, rounded]))
    assert said["activation"].endswith("by what shares a scale: token +1.0 %.")
    small = [full, result("opt-125m rtn w8-asym-row r0", 0.01, weights=100)]
    large = [result("opt-350m none w16 r0", -0.3), result("opt-350m rtn w4-asym-row r0", -0.1, weights=150)]
    said = answers([*small, *large], changes([*small, *large]))
    assert said["size"].startswith(
        "In 1 of 1 comparison the larger model, quantized, beats all cells of the next smaller model"
    )
    large = [large[0], result("opt-350m rtn w4-asym-row r0", 0.3, weights=150)]
    said = answers([*small, *large], changes([*small, *large]))
    assert said["size"].startswith("No: in none of 1 comparison does the larger model, quantized, beat all cells")


@pytest.mark.parametrize("names", [[], ["opt-125m none w16 r0"], ["opt-125m rtn w4-asym-row r0"]])
def test_where_cells_do_not_tell_nothing_is_said(names):
    found = [result(name) for name in names]
    said = answers(found, changes(found))
    assert {stem for stem, text in said.items() if text} <= {"pareto"}


def test_the_costs_of_a_correction_are_those_of_the_jobs_that_made_its_codes_and_factors(tmp_path):
    found = []
    for rank, lorc, loss in (("r0", "none", 0.1), ("r8", "plain-int8", 0.2), ("r8", "exact-int8", 0.05)):
        one = result(f"opt-125m rtn w2-asym-row {rank}", loss, weights=2_000_000)
        calibration = "stdlib" if lorc == "exact-int8" else "none"
        one = dataclasses.replace(one, cell=dataclasses.replace(one.cell, lorc=lorc, calibration=calibration))
        for artifact, seconds in (("quantized", 4.0), ("factors", 2.0)):
            one.folders[artifact] = tmp_path / f"{len(found)}-{artifact}"
            write_json(one.folders[artifact] / "run.json", "run", {"seconds": seconds * (1 + len(found))})
        found.append(one)
    figure = costs.draw(found, tmp_path)
    assert figure.finding.startswith("Over the best without LoRC, per million weights: exact −")
    assert figure.finding.endswith(" in 9.00 s. On no model below it: plain.")
    assert (tmp_path / "costs.svg").is_file()
    assert costs.draw(found[:2], tmp_path) is None

"""Every file under conf/ composes and validates, every study expands, and what makes no sense is refused in one line."""

import itertools
import shlex
from dataclasses import replace

import pytest
from omegaconf import OmegaConf
from synthetic import Wildcards

from lorcbench.config import compose, folders
from lorcbench.config.checks import ConfigError
from lorcbench.core.formats import ActivationFormat, WeightFormat
from lorcbench.pipeline.rules import Pipeline
from lorcbench.study.expansion import load_study, study_from_arguments

FILES = [
    (folder.name, path.stem)
    for folder in sorted(path for path in compose.conf_dir().iterdir() if path.is_dir())
    for path in sorted(folder.glob("*.yaml"))
]
STUDIES = [name for group, name in FILES if group == "study"]


@pytest.mark.parametrize(("group", "name"), FILES, ids="/".join)
def test_every_conf_file_composes_and_validates(group, name):
    if (group, name) in compose.WITHOUT_PLACE:
        with pytest.raises(ConfigError, match=r"model\.(path|repo|package)|text\.path"):
            compose.load(group, name)
        return
    assert compose.plain(compose.load(group, name))
    first = (compose.conf_dir() / group / f"{name}.yaml").read_text().splitlines()[0]
    assert first.startswith("# "), "a conf file opens with what it is"


@pytest.mark.slow
@pytest.mark.parametrize("name", [spelling for name in STUDIES for spelling in (name, f"{name}+standins=true")])
def test_every_study_expands_to_known_cells(name):
    expanded = load_study(name)
    assert len(set(expanded.cells)) == len(expanded.cells) > 0
    assert set(expanded.harness) <= set(expanded.cells)
    for cell in expanded.cells:
        assert str(WeightFormat.parse(cell.weight)) == cell.weight
        assert str(ActivationFormat.parse(cell.activation)) == cell.activation
        assert (cell.rank == 0) == (cell.lorc == "none")
    if "standins" in name:
        assert {expanded.model(cell.model).source for cell in expanded.cells} == {"standin"}
        assert expanded.eval == "stdlib" and not expanded.too_large
        assert {cell.calibration.partition("+")[0] for cell in expanded.cells} <= {"none", "stdlib"}
    for model in {cell.model for cell in expanded.cells}:
        assert sum(cell.model == model and cell.method == "none" and cell.activation == "a16" for cell in expanded.cells) == 1


def test_the_demo_is_as_large_as_promised():
    demo = load_study("demo")
    assert len(demo.cells) >= 60
    assert len({cell.model for cell in demo.cells}) == 4
    assert len(demo.harness) >= 8


def test_the_studies_of_corrections_pair_each_kind_with_plain_factors_and_have_rivals_at_equal_bits():
    assert len(load_study("corrections-real").cells) <= 14
    for name in ("corrections+standins=true", "corrections-real"):
        cells = set(load_study(name).cells)
        weighted = [cell for cell in cells if compose.load("lorc", cell.lorc).data and "inputs" not in cell.lorc]
        uncorrected = {cell.uncorrected for cell in weighted}
        assert uncorrected <= cells
        row = [cell for cell in weighted if cell.weight == "w3-asym-row" and name == "corrections-real"]
        pairs = [cell for cell in weighted if cell not in row and cell.lorc.endswith("int8")]
        assert {cell.corrected("plain-int8", cell.rank) for cell in pairs} <= cells
        assert {cell.corrected("exact-int8", cell.rank) for cell in cells if cell.lorc == "exact-fp16"} <= cells
        groups = {cell.weight_format.group for cell in cells if not cell.rank and cell.weight_format.bits == 3}
        assert len(groups) >= 4, "what the bits of a correction buy otherwise"


def test_the_studies_beyond_corrections_have_the_ordinary_order_and_their_base_beside_each_method():
    assert len(load_study("beyond-real").cells) <= 12
    for name in ("beyond+standins=true", "beyond-real"):
        cells = set(load_study(name).cells)
        paired = [cell for cell in cells if cell.lorc == "paired-int8"]
        assert {compose.load("method", cell.method).kind for cell in paired} == {"intrinsic", "split", "joint"}
        for cell in paired:
            method = compose.load("method", cell.method)
            bases = [method.base] if method.base == "rtn" else ["gptq", "gptq-cached", "gptq-best"]
            ordinary = {replace(cell, method=base, lorc="exact-int8") for base in bases} & cells
            others = [vars(compose.load("method", other.method)) | {"kind": method.kind} for other in ordinary]
            same = [all(vars(method).get(key, value) == value for key, value in other.items()) for other in others]
            assert any(same), f"{cell.key} has no cell of the same settings whose codes come first"
            assert {other.uncorrected for other in ordinary} & cells


def test_models_above_the_limit_are_listed_unless_they_are_named():
    limited = load_study("rank")
    assert {cell.model for cell in limited.cells} == {"opt-1.3b", "opt-6.7b"}
    assert limited.too_large == ("opt-30b",)
    assert load_study("rank+max_params=2e9").too_large == ("opt-6.7b", "opt-30b")
    named = load_study("rank", ["study.models=[opt-66b,opt-125m]"])
    assert {cell.model for cell in named.cells} == {"opt-66b", "opt-125m"} and not named.too_large
    assert compose.load("model", "opt-30b").block_weights == 12 * 48 * 7168**2
    assert compose.load("model", "bloom-7.1b").block_weights == 12 * 30 * 4096**2


def test_a_rehearsal_asks_the_same_of_stand_ins():
    translated = ["study.rehearsal=null"]  # every axis by its rule
    paper, standins = load_study("seeds", ["study.models=[opt-1.3b,opt-13b]"]), load_study("seeds+standins=true", translated)
    assert {cell.model for cell in standins.cells} == {"opt-standin-s", "opt-standin-m"}
    assert len(standins.cells) == len(paper.cells)
    assert {cell.calibration for cell in standins.cells} == {"none", "stdlib+seed=123", "stdlib+seed=234", "stdlib+seed=456"}
    assert standins.name == "seeds+standins=true+rehearsal=null" and standins.config.title.endswith("on stand-ins")


def test_a_rehearsal_takes_the_axes_that_the_study_writes_out_for_it_unless_the_command_line_names_them():
    written = load_study("seeds+standins=true")
    assert {cell.weight for cell in written.cells} == {"w16", "w4-asym-row", "w2-asym-row"}
    assert {cell.activation for cell in written.cells} == {"a16"}
    named = load_study("seeds+standins=true", ["study.weights=[w3-asym-row]", "study.models=[opt-standin-xs]"])
    assert {cell.weight for cell in named.cells} == {"w16", "w3-asym-row"}
    assert {cell.model for cell in named.cells} == {"opt-standin-xs"}


def test_a_rehearsal_scales_groups_and_shortens_distillation():
    cells = load_study("activation-groups+standins=true", ["study.models=[opt-standin-m]"]).cells
    assert {cell.weight for cell in cells} == {"w16", "w4-asym-g16"}
    groups = {f"a8-sym-g{group}" for group in (128, 64, 32, 16, 8, 4)}
    assert {cell.activation for cell in cells} == {"a16", "a8-sym-token", *groups}
    assert {cell.method for cell in cells} == {"none", "gptq", "zq_global+iterations=128"}
    given = ["study.standins=true", "study.weights=[w3-asym-g32]", "study.eval=stdlib+window=64"]
    kept = load_study("activation-groups", given)
    assert {cell.weight for cell in kept.cells} == {"w16", "w3-asym-g32"}
    assert kept.eval == "stdlib+window=64"


def test_what_is_excluded_may_be_spelled_as_people_do():
    overrides = ["study.models=[opt-125m]", "study.exclude=[{methods: [zq_global+lr=5e-5]}]"]
    methods = {cell.method for cell in load_study("learning-rates", overrides).cells}
    assert "zq_global+lr=5e-05" not in methods and "zq_global+lr=1e-05" in methods


def test_an_override_replaces_an_axis_in_every_grid_and_cells_are_not_repeated():
    overrides = ["study.models=[opt-standin-s]", "study.methods=[rtn,gptq]", "study.weights=[w4-asym-g32]", "study.ranks=[0,8]"]
    cells = load_study("demo", [*overrides, "study.activations=[a16]"]).cells
    keys = {(cell.method, cell.weight, cell.rank) for cell in cells}
    assert keys == {("none", "w16", 0), *itertools.product(["rtn", "gptq"], ["w4-asym-g32"], [0, 8])}
    assert len(cells) == len(keys)


def test_variants_have_one_spelling():
    assert compose.canonical("method", "gptq+damp=0.05+act_order=true") == "gptq+act_order=true+damp=0.05"
    assert compose.canonical("method", "gptq+damp=0.01") == "gptq"
    assert compose.load("method", "gptq+damp=5e-2").damp == 0.05
    assert compose.canonical("method", "gptq+damp=5e-2") == "gptq+damp=0.05"


def test_methods_without_data_share_their_work_between_calibrations():
    cells = load_study("demo", ["study.calibrations=[stdlib,stdlib+seed=1]", "study.models=[opt-standin-s]"]).cells
    assert {cell.calibration for cell in cells if cell.method == "rtn"} == {"none"}
    assert {cell.calibration for cell in cells if cell.method == "gptq"} == {"stdlib", "stdlib+seed=1"}


def test_learning_rates_and_seeds_have_one_spelling():
    assert compose.canonical("method", "zq_local+seed=3+lr=5e-5") == "zq_local+lr=5e-05+seed=3"
    assert compose.canonical("method", "zq_global+lr=auto+iterations=512") == "zq_global"
    assert compose.load("method", "zq_local+lr=5e-05").lr == 5e-5
    assert compose.load("method", "zq_global").lr == "auto"
    assert [compose.load("method", name).unit for name in ("zq_local", "zq_global")] == ["linear", "block"]


def test_weights_made_under_rounded_activations_are_those_of_one_activation_format():
    methods = ["none", "rtn", "gptq", "gptq+calibration_activations=quantized", "zq_local", "zq_global+lr=0.001"]
    overrides = [
        "study.models=[opt-standin-s]",
        f"study.methods=[{','.join(methods)}]",
        "study.weights=[w16,w8-asym-row,w4-asym-row]",
        "study.activations=[a16,a8-asym-token,a8-sym-g32]",
        "study.ranks=[0]",
    ]
    cells = load_study("smoke", overrides).cells
    assert len(cells) == 3 * (1 + 2 * 5)
    for cell in cells:
        sees = cell.method.startswith("zq_") or "activations" in cell.method
        assert cell.trained == (cell.activation if sees else "a16")
        assert (cell.calibration == "none") == (cell.method in ("none", "rtn"))
        assert (cell.weight == "w16") == (cell.method == "none")
    full = [cell for cell in cells if cell.method == "none"]
    assert {cell.activation for cell in full} == {"a16", "a8-asym-token", "a8-sym-g32"}
    shared = {cell.wildcards().trained for cell in cells if cell.method == "gptq"}
    assert shared == {"a16"}


def test_the_full_precision_baseline_is_there_where_only_rounded_activations_are_asked_for():
    overrides = ["study.models=[opt-standin-s]", "study.methods=[none]", "study.weights=[w16]", "study.ranks=[0,8]"]
    cells = load_study("smoke", [*overrides, "study.activations=[a8-asym-token]"]).cells
    assert [cell.activation for cell in cells] == ["a16", "a8-asym-token"]


@pytest.mark.parametrize(
    ("method", "stage"),
    [
        ("rtn", None),
        ("gptq", "tokens"),
        ("gptq-cached", "hessians/damp0.01-natural-published"),
        ("gptq-cached+dead=excluded", "hessians/damp0.01-natural-excluded"),
        ("rtn+clip=mse", None),
        ("gptq+clip=mse", "tokens"),
        ("gptq-cached+clip=mse", "hessians/damp0.01-natural-published"),
        ("zq_local", "tokens"),
        ("zq_global", "tokens"),
    ],
)
def test_methods_wait_for_the_data_that_they_want(method, stage, monkeypatch):
    for name in ("PATH", "LORCBENCH_JOB", compose.RUNTIME_VARIABLE):
        monkeypatch.setenv(name, "")
    overrides = f"study.models=[opt-standin-s] study.methods=[{method}] study.weights=[w4-asym-row]"
    pipeline = Pipeline({"study": "smoke", "overrides": overrides})
    cell = next(cell for cell in pipeline.study.cells if cell.method == method)
    wildcards = Wildcards(vars(cell.wildcards()))
    expected = ["results/cache/checkpoint/opt-standin-s/result.json"]
    expected += [f"results/cache/calibration/opt-standin-s/stdlib/{stage}/result.json"] if stage else []
    assert pipeline.inputs("quantize")(wildcards) == expected


def test_groups_that_do_not_divide_are_listed_where_the_study_says_skip():
    expanded = load_study("demo", ["study.indivisible=skip", "study.weights=[w4-asym-g48,w4-asym-g32]"])
    assert ("opt-standin-s", "w4-asym-g48") in expanded.not_applicable
    assert {cell.weight for cell in expanded.cells} == {"w16", "w4-asym-g32"}


BAD = [
    ({"study": "nope"}, "study 'nope' is unknown; conf/study has activation-groups, beyond, beyond-real, bits, corrections"),
    ({"study": "rank+standin=true"}, "unknown key study.standin; known keys of study"),
    ({"study": "rank+max_params=1e8"}, "the smallest model of rank+max_params=1e8 has 1.21e+09"),
    ({"study": "rank+max_params=-1"}, "expected a positive number"),
    ({"overrides": "study.modelz=[a]"}, "unknown key study.modelz; known keys of study"),
    ({"overrides": "study.models=[opt-175b]"}, "model 'opt-175b' is unknown; conf/model has"),
    ({"overrides": "study.models=[../../etc/passwd]"}, "is unknown"),
    ({"overrides": "study.models=[]"}, "at least one entry"),
    ({"overrides": "study.methods=[awq]"}, "method 'awq' is unknown; conf/method has"),
    ({"overrides": "study.methods=[gptq+dump=1]"}, "unknown key method.dump"),
    ({"overrides": "study.methods=[gptq+damp=-1]"}, "expected a positive number"),
    ({"overrides": "study.methods=[gptq+hessian=best]"}, "expected one of propagated, cached"),
    ({"overrides": "study.methods=[gptq+calibration_activations=int8]"}, "expected one of full, quantized"),
    ({"overrides": "study.methods=[gptq-cached+calibration_activations=quantized]"}, "needs hessian=propagated"),
    ({"overrides": "study.methods=[zq_global+lr=best]"}, "expected auto with a grid, or a positive number"),
    ({"overrides": "study.methods=[zq_global+lr=-0.1]"}, "expected auto with a grid, or a positive number"),
    ({"overrides": "study.methods=[zq_global+unit=model]"}, "expected one of linear, block"),
    ({"overrides": "study.methods=[zq_local+iterations=0]"}, "expected a positive number"),
    ({"overrides": "study.methods=[zq_local+held_out=1.0]"}, "expected a share between 0 and 1"),
    ({"overrides": "study.methods=[zq_local+keep=first]"}, "expected one of best, last"),
    ({"overrides": "study.methods=[zq_local+block_input=quantized+target=full_precision]"}, "needs unit=block"),
    ({"overrides": "study.methods=[zq_global+target=full_precision]"}, "and block_input=quantized"),
    ({"overrides": "study.methods=[zq_global] study.calibrations=[none]"}, "needs calibration; set study.calibrations"),
    ({"overrides": "study.methods=[zq_global] study.calibrations=[stdlib+dtype=float16]"}, "trains in float32"),
    ({"overrides": "study.weights=[w9-asym-row]"}, "bits must be 2 to 8"),
    ({"overrides": "study.weights=[int4]"}, "such as w4-asym-g128"),
    ({"overrides": "study.weights=[w4-asym-g48]"}, "groups of 48 do not divide its width 64"),
    ({"overrides": "study.activations=[a3-sym-token]"}, "bits must be 4 to 8"),
    ({"overrides": "study.ranks=[-1]"}, "a rank is 0 or more"),
    ({"overrides": "study.ranks=[eight]"}, "ranks"),
    ({"overrides": "method.damp=0.5"}, "study.methods=[gptq+damp=0.05]"),
    ({"overrides": "runtime.threads=0"}, "expected a positive number"),
    ({"overrides": "study.ranks='[0]'"}, "without quotes"),
    ({"overrides": ["study.ranks=[0]"]}, "one string"),
    ({"studdy": "demo"}, "known keys are model_path, name, overrides, study, text_path, device"),
    ({"model_path": "/nonexistent"}, "model_path=/nonexistent: no such file or folder; expected a checkpoint folder"),
]


@pytest.mark.parametrize(("settings", "hint"), BAD, ids=[str(index) for index in range(len(BAD))])
def test_nonsense_is_refused_in_one_line_that_says_what_would_be_right(settings, hint, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("LORCBENCH_JOB", "")
    monkeypatch.setenv(compose.RUNTIME_VARIABLE, "")
    with pytest.raises(ConfigError) as refusal:
        Pipeline(settings)
    assert hint in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_stages_that_see_the_whole_study_expand_the_workflows_own(tmp_path, monkeypatch):
    for variable in ("PATH", "LORCBENCH_JOB", compose.RUNTIME_VARIABLE):
        monkeypatch.setenv(variable, "")
    folder = tmp_path / "my opt"  # a blank, as folders of users have
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    pipeline = Pipeline({"model_path": str(folder), "overrides": "study.methods=[rtn] study.ranks=[0,8]"})
    seen = study_from_arguments(shlex.split(pipeline.study_arguments()))
    assert seen.cells == pipeline.study.cells
    name = folders.model_name(folder)
    assert {cell.model for cell in seen.cells} == {name} and name.startswith("my-opt-")
    assert seen.folders == {name: str(folder)}


@pytest.mark.parametrize(("group", "name"), [("method", "gptq+damp=0.05"), ("eval", "stdlib"), ("model", "opt-standin-s")])
def test_an_entry_by_itself_is_what_it_is_among_all(group, name):
    named = ["model.name=opt-standin-s"] if group == "model" else []
    assert compose.load(group, name) == OmegaConf.to_object(compose.compose([f"{group}={name}", *named])[group])


def test_a_conf_file_of_ones_own_has_a_name_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "study").mkdir()
    (tmp_path / "study/smoke.yaml").write_text((compose.conf_dir() / "study/smoke.yaml").read_text())
    monkeypatch.setenv(compose.EXTRA_CONF, str(tmp_path))
    with pytest.raises(ConfigError, match=r"study/smoke.yaml: conf/ has a study of that name; expected another name"):
        compose.compose(["study=smoke"])

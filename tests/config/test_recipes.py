"""Methods: what other places ask of them, and settings whose defaults are written once."""

from __future__ import annotations

import shutil
from dataclasses import fields
from typing import get_type_hints

import pytest

from lorcbench.config import compose
from lorcbench.config.checks import ConfigError
from lorcbench.config.lorc import DistilledLorc
from lorcbench.config.paired import PAIRED
from lorcbench.config.recipes import METHODS, GptqMethod, ZeroQuantMethod
from lorcbench.config.shape import Shape
from lorcbench.core.settings import DistillSettings, GptqSettings, TrainingSettings

SHAPE = Shape.plain(layers=3, hidden=64, ffn=256, vocabulary=1024)


@pytest.mark.parametrize(
    ("configured", "settings", "own"),
    [
        (GptqMethod, GptqSettings, set()),
        (ZeroQuantMethod, DistillSettings, set()),
        (DistilledLorc, TrainingSettings, {"lr_grid"}),  # LoRC has rates of its own
    ],
)
def test_settings_of_an_algorithm_are_inherited_with_their_defaults(configured, settings, own):
    inherited = {field.name for field in fields(settings)}
    assert inherited <= {field.name for field in fields(configured)}
    assert inherited & set(vars(configured)["__annotations__"]) == own
    assert issubclass(configured, settings)
    hints = get_type_hints(configured)
    assert all(name in hints for name in inherited)


def test_factors_are_kept_at_their_best():
    distilled = compose.load("lorc", "distilled-int8")
    assert (distilled.keep, distilled.scales) == ("best", "recompute")
    assert not {"keep", "scales"} & set(vars(distilled))  # no settings, so that they are in no path and no identity


def test_every_method_goes_by_the_kind_that_chooses_it():
    for kind, method in {**METHODS, **PAIRED}.items():
        default = {field.name: field.default for field in fields(method)}
        assert default["kind"] == kind
    labels = {name: compose.load("method", name).label for name in compose.names("method")}
    # Other methods, and those that are added, have none: the papers claim nothing of them.
    assert {name: label for name, label in labels.items() if label} == {
        **{"rtn": "RTN", "gptq": "GPTQ", "gptq-cached": "GPTQ", "gptq-best": "GPTQ"},
        **{"zq_local": "ZQ-Local", "zq_global": "ZQ-Global"},
    }
    chosen = {name for name in compose.names("method") if compose.load("method", name).optimizes}
    assert chosen == {"gptq", "zq_local", "zq_global"}


def test_every_method_has_a_function_that_quantizes():
    from lorcbench.stages import quantize

    by_another_way = {"none", "foreign"}  # nothing to make
    assert quantize.METHODS.keys() == {*METHODS, *PAIRED} - by_another_way


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("rtn+clp=mse", "unknown key method.clp; known keys of method: clip, kind; did you mean clip?"),
        ("split+rnk=8", "unknown key method.rnk; known keys of method: act_order, base, "),
    ],
)
def test_a_misspelt_setting_is_answered_with_those_of_its_own_method(name, known):
    with pytest.raises(ConfigError) as refused:
        compose.load("method", name)
    assert str(refused.value).startswith(known)
    assert "held_out" not in str(refused.value), "that is a setting of distillation"


@pytest.fixture
def unregistered(tmp_path, monkeypatch):
    """A function content → that of a conf file of our own folder, as the method `hqq`."""
    folder = tmp_path / "conf"
    shutil.copytree(compose.conf_dir(), folder)
    monkeypatch.setattr(compose, "conf_dir", lambda: folder)
    compose.load.cache_clear()
    yield (folder / "method" / "hqq.yaml").write_text
    compose.load.cache_clear()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "# HQQ.\ndefaults: [/schema/method@_here_: hqq, _self_]\n",
            r"method/hqq\.yaml: schema hqq is unknown; expected one of none, rtn, .*; a new method has its line in METHODS",
        ),
        (
            "# HQQ.\nnorm: 0.5\n",
            r"method/hqq\.yaml: names no schema; expected the line defaults: \[/schema/method@_here_: NAME, _self_\]",
        ),
        ("# HQQ.\n", r"method/hqq\.yaml: names no schema"),
    ],
)
def test_a_conf_file_that_is_half_registered_is_answered_with_what_is_missing(unregistered, content, said):
    unregistered(content)
    with pytest.raises(ConfigError, match=said):
        compose.canonical("method", "hqq")


def test_a_method_without_its_data_is_told_which_there_are():
    rtn, cached = (compose.load("method", name) for name in ("rtn", "gptq-cached"))
    compose.check_calibration("method rtn", rtn, "none", "calibration")
    compose.check_calibration("method gptq-cached", cached, "stdlib", "calibration")
    known = [name for name in compose.names("calibration") if name != "none"]
    with pytest.raises(
        ConfigError, match=f"method gptq-cached: needs calibration; set calibration, to one of {', '.join(known)}"
    ):
        compose.check_calibration("method gptq-cached", cached, "none", "calibration")


def test_gptq_is_the_published_one_and_the_recommended_one_is_a_variant_of_it():
    published, best = compose.load("method", "gptq"), compose.load("method", "gptq-best")
    assert vars(GptqSettings()).items() <= vars(published).items()
    assert best == compose.load("method", "gptq+act_order=true+clip=mse+static_groups=true")
    assert best != published
    assert compose.load("method", "gptq+damp=0.05").optimizes
    assert not compose.load("method", "gptq+dead=excluded").optimizes
    assert not compose.load("method", "gptq+clip=mse").optimizes


def test_what_reads_more_takes_more():
    calibration = compose.load("calibration", "stdlib")

    def takes(name: str) -> tuple[float, float]:
        method = compose.load("method", name)
        return method.estimate(SHAPE, calibration if method.data == "tokens" else None)

    memory = {name: takes(name)[0] for name in ("rtn", "gptq-cached", "gptq")}
    work = {name: takes(name)[1] for name in ("rtn", "gptq-cached", "gptq", "zq_local", "zq_global")}
    assert sorted(memory, key=memory.get) == ["rtn", "gptq-cached", "gptq"]
    assert sorted(work, key=work.get)[:3] == ["rtn", "gptq-cached", "gptq"]
    assert work["zq_local"] == work["zq_global"] > work["gptq"]
    assert takes("zq_global+lr=0.001")[1] < work["zq_global"] / 5  # one rate instead of seven


@pytest.mark.parametrize("name", ["rtn", "gptq", "gptq-cached", "gptq+static_groups=true"])
def test_the_search_for_scales_is_a_setting_of_its_own_and_takes_longer(name):
    plain, searched = compose.load("method", name), compose.load("method", f"{name}+clip=mse")
    assert (plain.clip, searched.clip) == ("none", "mse")
    assert vars(searched) == vars(plain) | {"clip": "mse"}
    calibration = compose.load("calibration", "stdlib") if plain.data == "tokens" else None
    without, with_search = (method.estimate(SHAPE, calibration) for method in (plain, searched))
    assert with_search[0] == without[0]
    assert with_search[1] > without[1]
    with pytest.raises(ConfigError, match=r"method\.clip=best: expected one of none, mse"):
        compose.load("method", f"{name}+clip=best")


PAIRS = ("gptq-intrinsic+rank=8", "split+rank=8", "joint+rank=8", "split+base=rtn+rank=8", "joint+base=rtn+rank=8")


@pytest.mark.parametrize("name", PAIRS)
def test_a_method_that_makes_factors_has_its_rank_in_its_name_and_reads_calibration(name):
    method = compose.load("method", name)
    assert method.rank == 8
    assert compose.canonical("method", name) == name
    assert (method.data, method.factor) == ("statistics", None)
    propagated = compose.load("method", f"{name}+hessian=propagated")
    assert propagated.data == "tokens"
    assert propagated.estimate(SHAPE, compose.load("calibration", "stdlib"))[1] > method.estimate(SHAPE, None)[1]
    assert method.estimate(SHAPE, None)[1] > compose.load("method", "rtn").estimate(SHAPE, None)[1]
    assert method.gpu_bytes(SHAPE, None) > compose.load("method", "rtn").gpu_bytes(SHAPE, None)
    assert not method.optimizes


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("split+rank=-1", r"method\.rank=-1: expected 1 or more"),
        ("split+preserved=9+rank=8", r"method\.preserved=9: expected auto, or 0 to the rank, which is 8"),
        ("split+preserved=half+rank=8", r"method\.preserved=half: expected auto, or 0 to the rank, which is 8"),
        ("joint+rank=8+rounds=0", r"method\.rounds=0: expected a positive number"),
        ("joint+correction=diag-abs+rank=8", r"method\.correction=diag-abs: expected one of exact, plain"),
        ("joint+act_order=true+base=rtn+rank=8", r"method\.base=rtn: knows no act_order; expected base=gptq with it, or rtn"),
        ("gptq-intrinsic+base=rtn+rank=8", r"method\.base=rtn: the correction is made by GPTQ's sweep; expected gptq"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(name, reason):
    with pytest.raises(ConfigError, match=reason):
        compose.load("method", name)


def test_factors_of_the_method_have_no_settings_but_their_type():
    assert {compose.load("lorc", f"paired-{kind}").bits for kind in ("int8", "fp16")} == {8, 16}
    assert compose.load("lorc", "paired-int8").data is None
    assert compose.components("paired-int8", 5) == 5
    for change in ("decomposition=exact", "fused_qkv=fused", "dead=excluded"):
        with pytest.raises(ConfigError, match=rf"lorc\.{change}: paired factors are as the method made them; expected"):
            compose.load("lorc", f"paired-int8+{change}")

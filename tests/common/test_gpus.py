"""Which GPUs there are, as the driver and CUDA_VISIBLE_DEVICES say it, and what a run computes on."""

from __future__ import annotations

import pytest
from pretended import fake_driver

from lorcbench.common import gpus
from lorcbench.common.gpus import Choice, Gpu, GpuError

BIG, SMALL = "NVIDIA H200", "NVIDIA A10"
ALL = [Gpu("GPU-aa11", BIG, 143771), Gpu("GPU-aa22", BIG, 143771), Gpu("GPU-bb33", BIG, 143771)]


@pytest.fixture(autouse=True)
def _nothing_told(monkeypatch):
    for name in (gpus.VISIBLE, gpus.CHOICE, "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def three(monkeypatch):
    """A machine with three GPUs, and a torch that can use them."""
    monkeypatch.setattr(gpus.shutil, "which", lambda program: f"/usr/bin/{program}")
    monkeypatch.setattr(gpus, "_asked", lambda program: list(ALL))
    monkeypatch.setattr(gpus, "torch_without_cuda", lambda: "")


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [(None, [0, 1, 2]), ("", []), ("-1", []), ("2,0", [2, 0]), ("GPU-bb", [2]), ("GPU-aa", []), ("1,7,0", [1]), ("0,0", [0])],
)
def test_the_variable_of_cuda_means_what_it_means_to_cuda(three, monkeypatch, wanted, numbers):
    if wanted is not None:
        monkeypatch.setenv(gpus.VISIBLE, wanted)
    assert gpus.visible() == [ALL[number] for number in numbers]


@pytest.mark.parametrize(("wanted", "said"), [("MIG-1", "whole GPUs"), ("0", "CUDA_DEVICE_ORDER")])
def test_what_cannot_be_told_apart_is_refused_in_one_line(three, monkeypatch, wanted, said):
    monkeypatch.setattr(gpus, "_asked", lambda program: [*ALL, Gpu("GPU-cc44", SMALL, 23028)])
    monkeypatch.setenv(gpus.VISIBLE, wanted)
    with pytest.raises(GpuError, match=said) as refusal:
        gpus.choose("cuda")
    assert wanted in str(refusal.value)
    assert gpus.choose("auto").device == "cpu"
    assert said in gpus.choose("auto").note


def test_auto_takes_what_is_there_and_no_more_than_is_allowed(three, monkeypatch):
    assert gpus.choose("auto") == Choice("cuda", tuple(ALL))
    assert gpus.choose("auto").line() == "3 × NVIDIA H200 of 140 GiB"
    assert gpus.choose("auto", 2).gpus == tuple(ALL[:2])
    assert gpus.choose("cpu") == Choice("cpu")
    with pytest.raises(GpuError, match=r"runtime.gpus=4: expected at most 3"):
        gpus.choose("auto", 4)
    monkeypatch.setenv(gpus.VISIBLE, "")
    assert gpus.choose("auto") == Choice("cpu")
    with pytest.raises(GpuError, match=r"runtime.device=cuda: no GPU is visible here: CUDA_VISIBLE_DEVICES="):
        gpus.choose("cuda")


def test_a_machine_without_gpus_is_the_cpu_without_a_word(monkeypatch):
    monkeypatch.setattr(gpus.shutil, "which", lambda program: None)
    monkeypatch.setattr(gpus.Path, "glob", lambda folder, pattern: iter(()))
    assert gpus.choose("auto") == Choice("cpu")
    with pytest.raises(GpuError, match=r"runtime.device=cuda: no GPU is here: there is no program nvidia-smi"):
        gpus.choose("cuda")


def test_a_torch_without_cuda_is_said_in_one_line(three, monkeypatch):
    monkeypatch.setattr(gpus, "torch_without_cuda", lambda: "torch 2.13.0+cpu")
    choice = gpus.choose("auto")
    assert choice.device == "cpu"
    for part in (BIG, "torch 2.13.0+cpu is a build without CUDA", "computes on the CPU", "TORCH="):
        assert part in choice.note
    assert "\n" not in choice.note
    with pytest.raises(GpuError, match="without CUDA"):
        gpus.choose("cuda")


def test_the_build_of_torch_is_known_without_importing_it():
    import torch

    assert bool(gpus.torch_without_cuda()) == (torch.version.cuda is None)
    assert torch.__version__ in gpus.torch_without_cuda() or torch.version.cuda


def test_what_the_workflow_chose_reaches_its_stages(monkeypatch):
    monkeypatch.setenv(gpus.CHOICE, "")
    assert Choice.handed_down() is None
    for choice in (Choice("cpu"), Choice("cuda", tuple(ALL)), Choice("cuda", None)):
        choice.hand_down()
        assert Choice.handed_down() == choice


@pytest.mark.parametrize(
    ("result", "variants", "kinds"),
    [
        ({"identity": {}}, None, {"cpu"}),
        ({"identity": {"device": "cuda"}}, None, {"cuda"}),
        ({"variants": {"r0": {}, "r8": {"device": "cuda"}}}, None, {"cpu", "cuda"}),
        ({"variants": {"r0": {}, "r8": {"device": "cuda"}}}, ["r8", "r16"], {"cuda"}),
        ({"variants": ["names", "of", "a study"], "identity": {}}, None, {"cpu"}),
    ],
)
def test_a_result_says_what_computed_it(result, variants, kinds):
    assert gpus.computed_on(result, variants) == kinds


@pytest.mark.slow
def test_the_driver_is_asked_through_its_own_program(tmp_path, monkeypatch):
    fake_driver(tmp_path, ALL, monkeypatch)
    assert gpus.visible() == ALL
    fake_driver(tmp_path, [], monkeypatch, "No devices were found", 6)
    assert gpus.visible() == []
    fake_driver(tmp_path, [], monkeypatch, "Failed to initialize NVML: Driver/library version mismatch", 18)
    with pytest.raises(GpuError, match="version mismatch"):
        gpus.visible()
    assert "version mismatch" in gpus.choose("auto").note

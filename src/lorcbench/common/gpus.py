"""The GPUs of this machine, and what a run computes on; no torch is imported.

The driver is asked through ``nvidia-smi``, since asking CUDA itself would start it in the workflow's own process. GPUs go by
their UUID: it means the same device whatever else is visible, and in whatever order CUDA counts.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

VISIBLE = "CUDA_VISIBLE_DEVICES"
CHOICE = "LORCBENCH_DEVICE"  # environment variable: what the workflow chose for its stages
CPU, CUDA, AUTO = "cpu", "cuda", "auto"
_QUERY = "index,uuid,name,memory.total,mig.mode.current"
_PATIENCE = 60  # seconds: a driver that nobody has used for long takes some to wake


class GpuError(Exception):
    """A GPU cannot be used as the settings want; the message is one line that says why."""


class Gpu(NamedTuple):
    """One device: its UUID, its name, and its memory in MiB."""

    uuid: str
    name: str
    memory: int


@dataclass(frozen=True)
class Choice:
    """What a run computes on.

    Attributes:
        device: ``cpu`` or ``cuda``.
        gpus: those that its jobs share out among themselves; None if something else gives each job its own, as a cluster does.
        note: a line for people, if a GPU is here that the run does not use; "" otherwise.
        refusal: why no job can run like this on this machine; "" if it can.
    """

    device: str
    gpus: tuple[Gpu, ...] | None = ()
    note: str = ""
    refusal: str = ""

    def line(self) -> str:
        """The device in words: ``cpu``, or how many GPUs of which name and memory."""
        if self.device == CPU:
            return CPU
        if not self.gpus:
            return "GPUs that each job is given"
        kinds: dict[Gpu, int] = {}
        for gpu in self.gpus:
            kind = gpu._replace(uuid="")
            kinds[kind] = kinds.get(kind, 0) + 1
        return ", ".join(f"{count} × {gpu.name} of {gpu.memory / 1024:.0f} GiB" for gpu, count in kinds.items())

    def hand_down(self) -> None:
        """Tell the stages that this process starts."""
        os.environ[CHOICE] = json.dumps({"device": self.device, "gpus": self.gpus})

    @classmethod
    def handed_down(cls) -> Choice | None:
        """What the workflow that started this stage chose; None for a stage by hand."""
        if not (text := os.environ.get(CHOICE)):
            return None
        told = json.loads(text)
        gpus = None if told["gpus"] is None else tuple(Gpu(*gpu) for gpu in told["gpus"])
        return cls(told["device"], gpus)


def choose(setting: str, limit: int | None = None) -> Choice:
    """What to compute on, on this machine.

    Args:
        setting: ``runtime.device``. ``auto`` takes GPUs where there are any that torch can use.
        limit: ``runtime.gpus``: at most so many of them; None is all.

    Raises:
        GpuError: ``cuda`` where there is none, or fewer GPUs than `limit`.
    """
    if setting == CPU:
        return Choice(CPU)
    gpus, why_not = _usable()
    if not gpus and setting == CUDA:
        raise GpuError(f"runtime.device=cuda: {why_not or _why_none()}")
    if not gpus:
        return Choice(CPU, note=why_not and f"{why_not}: this run computes on the CPU")
    if limit is not None and limit > len(gpus):
        raise GpuError(f"runtime.gpus={limit}: expected at most {len(gpus)}, so many GPUs are visible here")
    return Choice(CUDA, tuple(gpus[:limit]))


def _usable() -> tuple[list[Gpu], str]:
    """The visible GPUs if torch can use them; and a line that says why not if there is one that it cannot use."""
    try:
        gpus = visible()
    except GpuError as error:
        return [], str(error)
    if gpus and (build := torch_without_cuda()):
        hint = "make installs another with TORCH=… (see the head of Makefile)"
        return [], f"a GPU is here ({gpus[0].name}), but {build} is a build without CUDA; {hint}"
    return gpus, ""


def visible() -> list[Gpu]:
    """The GPUs that ``CUDA_VISIBLE_DEVICES`` lets this process see, in its order; all of the machine's without it.

    Raises:
        GpuError: the driver does not answer, or the variable names what cannot be told apart.
    """
    wanted = os.environ.get(VISIBLE)
    if wanted is not None and wanted.strip() in ("", "-1", "NoDevFiles"):
        return []
    program = shutil.which("nvidia-smi")
    if program is None:
        if devices := sorted(Path("/dev").glob("nvidia[0-9]*")):
            raise GpuError(f"{devices[0]} is here, but no program nvidia-smi, which says what it is")
        return []
    gpus = _asked(program)
    return gpus if wanted is None else _chosen(gpus, wanted)


def _asked(program: str) -> list[Gpu]:
    """All GPUs that the driver has, in the order of their places on the bus."""
    try:
        answer = subprocess.run(
            [program, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GpuError(f"nvidia-smi does not answer ({type(error).__name__})") from None
    said = " ".join((answer.stdout + answer.stderr).split())
    if answer.returncode:
        if "No devices were found" in said:
            return []
        raise GpuError(f"nvidia-smi fails ({said[:200]})")
    gpus = []
    for line in answer.stdout.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 5 and fields[3].isdigit():
            if fields[4] == "Enabled":
                raise GpuError(f"GPU {fields[0]} is divided (MIG), which is not supported")
            gpus.append(Gpu(fields[1], fields[2], int(fields[3])))
        elif line.strip():
            raise GpuError(f"nvidia-smi says {line.strip()[:100]!r}, not number, UUID, name and memory of a GPU")
    return gpus


def _chosen(gpus: list[Gpu], wanted: str) -> list[Gpu]:
    """Those that a value of ``CUDA_VISIBLE_DEVICES`` names. As CUDA does, it ends at the first that is none."""
    mixed = len({gpu.name for gpu in gpus}) > 1 and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID"
    chosen: list[Gpu] = []
    for entry in (part.strip() for part in wanted.split(",")):
        if entry.startswith("MIG-"):
            raise GpuError(f"{VISIBLE}={wanted}: parts of a GPU (MIG) are not supported; expected whole GPUs")
        if entry.isdigit() and mixed:
            raise GpuError(f"{VISIBLE}={wanted}: GPUs differ here; expected UUIDs, or CUDA_DEVICE_ORDER=PCI_BUS_ID beside it")
        if entry.isdigit():
            matching = gpus[int(entry) : int(entry) + 1]
        else:
            matching = [gpu for gpu in gpus if entry.startswith("GPU-") and gpu.uuid.startswith(entry)]
        if len(matching) != 1 or matching[0] in chosen:
            break
        chosen += matching
    return chosen


def _why_none() -> str:
    """Why no GPU is visible, as far as can be seen from here."""
    if VISIBLE in os.environ:
        return f"no GPU is visible here: {VISIBLE}={os.environ[VISIBLE]}"
    return f"no GPU is here: {'nvidia-smi lists none' if shutil.which('nvidia-smi') else 'there is no program nvidia-smi'}"


def torch_without_cuda() -> str:
    """The version of a torch that was built without CUDA; "" for one with it. Torch is not imported: that takes a second."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.origin:
        return "torch, which is not installed,"
    text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    cuda = re.search(r"^cuda\b[^=\n]*=\s*(\S+)", text, re.MULTILINE)
    version = re.search(r"^__version__\s*=\s*'([^']+)'", text, re.MULTILINE)
    return f"torch {version[1] if version else ''}" if cuda is None or cuda[1] == "None" else ""


def computed_on(result: dict, variants: Iterable[str] | None = None) -> set[str]:
    """The kinds of device, ``cpu`` and ``cuda``, that computed a job's result. One that does not say is the CPU's.

    Args:
        result: as its file has it.
        variants: of a result with a number for each rank, those that count; None is all.
    """
    entries = result.get("variants")
    if isinstance(entries, dict):
        return {entry.get("device", CPU) for name, entry in entries.items() if variants is None or name in variants}
    return {result.get("identity", {}).get("device", CPU)}

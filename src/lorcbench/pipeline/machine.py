"""What this machine multiplies per second, by number type and by library: measured once, and kept with the name of the host.

It decides nothing by itself. The plan's times rest on it, and the plan and the summary say which type of a forward pass is the
faster one here: on some processors bfloat16 takes a quarter of float32's time, on others twice as long.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from lorcbench.common import paths
from lorcbench.common.artifacts import ArtifactError, read_json, write_json

_KIND = "machine"
_CLEARLY = 1.15  # two rates that differ by less are alike: other work on the machine moves them by as much


@dataclass(frozen=True)
class Rates:
    """Floating-point operations per second of one core, in products of matrices.

    Attributes:
        float32: by NumPy's library, by which float32 forward passes multiply (`lorcbench.models.numpy_linears`).
        float32_torch: by PyTorch's.
        bfloat16: by PyTorch's.
    """

    float32: float
    float32_torch: float
    bfloat16: float

    @property
    def bfloat16_gain(self) -> float:
        """How many times as fast bfloat16 is as float32."""
        return self.bfloat16 / self.float32


def known() -> Rates | None:
    """What was measured on this host; None if nothing was."""
    try:
        return Rates(**read_json(_place(), _KIND)["rates"])
    except (ArtifactError, KeyError, TypeError):
        return None


def rates() -> Rates:
    """What was measured on this host, or is measured now: under two seconds, most of which PyTorch's import takes."""
    if found := known():
        return found
    found = _measured()
    write_json(_place(), _KIND, {"host": platform.node(), "processor": _processor(), "rates": asdict(found)})
    return found


def lines(found: Rates) -> list[str]:
    """What people are told: the rates, which type is faster, and how it is chosen."""
    spelled = {name: f"{rate / 1e9:.0f}" for name, rate in asdict(found).items()}
    told = [
        f"products of matrices, in GFLOP/s on one core: float32 {spelled['float32']} by NumPy's library and "
        f"{spelled['float32_torch']} by PyTorch's, bfloat16 {spelled['bfloat16']}"
    ]
    if half := faster(found):
        told.append(half)
    else:
        slower = f"{1 / found.bfloat16_gain:.1f} times as slow" if found.bfloat16_gain * _CLEARLY < 1 else "no faster"
        told.append(f"a forward pass in bfloat16 is {slower} here: stay with float32")
    if found.float32_torch > _CLEARLY * found.float32:
        told.append(
            f"PyTorch's library multiplies float32 {found.float32_torch / found.float32:.1f} times as fast here as NumPy's, "
            "which is used on every machine, since the two give other last digits. No setting changes that; "
            "a GPU (device=cuda) uses neither"
        )
    return told


def faster(found: Rates) -> str | None:
    """That bfloat16 is the faster type of a forward pass here, and how it is chosen; None if it is not."""
    if found.bfloat16_gain < _CLEARLY:
        return None
    return (
        f"a forward pass in bfloat16 is up to {found.bfloat16_gain:.1f} times as fast on this machine; it gives other numbers, "
        "under names of their own: calibration NAME+dtype=bfloat16, protocol NAME+dtype=bfloat16"
    )


def _place() -> Path:
    return Path(paths.CACHE) / "machine" / f"{platform.node() or 'host'}.json"


def _processor() -> str:
    lines_ = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.partition(":")[2].strip() for line in lines_ if line.startswith("model name")), platform.machine())


def _measured() -> Rates:
    """By a process of its own: neither the plan nor the report imports PyTorch."""
    done = subprocess.run([sys.executable, "-P", "-m", "lorcbench.jobs.products"], check=True, capture_output=True, text=True)
    return Rates(**json.loads(done.stdout))

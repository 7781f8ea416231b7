"""What the record of a job says of its process, and its identity of the libraries: what does not differ from stage to stage."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import subprocess
from datetime import UTC, datetime
from functools import cache

from lorcbench.common import shipped

_LIBRARIES = ("torch", "transformers", "tokenizers", "lm_eval", "numpy", "scipy", "numba")


def versions() -> dict[str, str]:
    """Versions of the libraries that numbers depend on."""
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}


def of_process(seconds: float) -> dict:
    """Time, memory and place of this process; ``finished`` is now, in UTC.

    Args:
        seconds: since it was started.
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_rss_mib": round(usage.ru_maxrss / 1024, 1),
        "host": platform.node(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        **checkout(),
    }


@cache
def checkout() -> dict:
    """The commit of the checkout that this package is part of, and whether its code or settings differ from that commit.

    The commit is None for a wheel, which may lie in anybody's repository. Once per process; a fork of the warm one knows it.
    """
    if shipped.is_wheel():
        return {"commit": None, "with_changes": False}
    commit = _git("rev-parse", "HEAD")
    # Without the optional lock, since many jobs ask at the same time.
    changed = bool(commit) and bool(_git("--no-optional-locks", "status", "--porcelain", "--", "src", "conf"))
    return {"commit": commit or None, "with_changes": changed}


def _git(*arguments: str) -> str:
    """What git says of the checkout; "" where it is no repository."""
    return subprocess.run(
        ["git", "-C", str(shipped.root()), *arguments], capture_output=True, text=True, check=False
    ).stdout.strip()

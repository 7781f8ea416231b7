"""Where conf/, Snakefile, workflow/ and profiles/ are: at the top of the repository, where people look for them.

A wheel carries a copy of them inside the package (`setup.py` puts it there, and reads this file for it), so that ``pip install
lorcbench`` is enough in an empty folder.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path

FOLDER = "shipped"  # in the package, in a wheel alone
PARTS = ("Snakefile", "conf", "profiles", "workflow")


@cache
def root() -> Path:
    """The folder that holds `PARTS`."""
    package = Path(str(resources.files("lorcbench")))
    return package / FOLDER if is_wheel() else package.parents[1]


@cache
def is_wheel() -> bool:
    """Whether the package was installed from a wheel; else it is part of a checkout of the repository."""
    return (Path(str(resources.files("lorcbench"))) / FOLDER).is_dir()


def snakefile() -> Path:
    """The file that Snakemake is told to run."""
    return root() / "Snakefile"


def profile(name: str) -> Path | None:
    """The folder of one of our profiles, by its name or its path in the repository; None if we have none of that name."""
    folder = root() / "profiles" / name.removeprefix("profiles/")
    return folder if (folder / "config.yaml").is_file() else None

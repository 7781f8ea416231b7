"""The stages of the pipeline, one file each: read what earlier stages left, call what does the work, write. May import all
packages; none imports this one. ``python -m lorcbench.stages NAME key=value …`` runs a stage.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn


def names() -> list[str]:
    """The names of all stages, which are those of their files."""
    return sorted(file.stem for file in Path(__file__).parent.glob("[a-z]*.py"))


def description(name: str) -> str:
    """The first line that a stage says of itself; nothing is imported for it."""
    import ast

    tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8"))
    return ast.get_docstring(tree).partition("\n")[0]


def run_by_old_name(module: str) -> NoReturn:
    """Go on as ``python -m lorcbench.stages NAME``; for ``python -m lorcbench.stages.NAME``, which goes with the next release.

    Args:
        module: the full name of the stage's module.
    """
    from lorcbench.common.process import PARENT

    package, _, name = module.rpartition(".")
    if PARENT not in os.environ:  # by hand
        print(f"python -m {module} is deprecated; write python -m {package} {name}, or lorcbench stage {name}", file=sys.stderr)
    os.execv(sys.executable, [sys.executable, "-m", package, name, *sys.argv[1:]])

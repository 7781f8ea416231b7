"""The version of the code that made a result: a hash of the modules that a stage imports, comments and docstrings left out."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).parents[1]


@cache
def code_version(stage: str) -> str:
    """16 hexadecimal digits that change when, and only when, code that `stage` can reach changes."""
    digests = {name: _digest(name) for name in sorted(imported(f"lorcbench.stages.{stage}"))}
    return hashlib.sha256(repr(digests).encode()).hexdigest()[:16]


def code_versions() -> dict[str, str]:
    """`code_version` of every stage."""
    return {file.stem: code_version(file.stem) for file in sorted((_ROOT / "stages").glob("[a-z]*.py"))}


def imported(module: str) -> set[str]:
    """`module` and every module of this package that it imports, directly or not."""
    found, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name not in found and _file(name) is not None:
            found.add(name)
            waiting += _imports(name)
    return found


def _file(module: str) -> Path | None:
    stem = _ROOT.joinpath(*module.split(".")[1:])
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_file(module).read_text(encoding="utf-8"))


def _imports(module: str) -> list[str]:
    names = []
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lorcbench"):
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names if alias.name.startswith("lorcbench.")]
    return names


@cache
def _digest(module: str) -> str:
    tree = _tree(module)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            del body[0]
    beside = [_file(module).with_suffix(suffix) for suffix in (".html", ".csv")]  # a module's page or table is part of it
    data = "".join(path.read_text(encoding="utf-8") for path in beside if path.is_file())
    return hashlib.sha256((ast.dump(tree) + data).encode()).hexdigest()

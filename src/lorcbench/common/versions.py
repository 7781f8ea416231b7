"""The version of the code that made a result: a hash of the modules of a stage that can change the result's bytes.

What cannot change them is left out, so that better words recompute nothing: comments, docstrings, the messages of exceptions,
what is said to a log, and the machinery (`MACHINERY`) that finds settings, paths and processes. What a setting *is* reaches a
result through the settings in its identity, and where it lies through its path; neither needs a hash of the code that read it.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

from lorcbench.common.artifacts import FORMAT_VERSION

_ROOT = Path(__file__).parents[1]
# Modules, and packages with all that is in them. None of them does arithmetic on tensors (tests/workflow/test_layers.py);
# `artifacts` writes tensors, and the version of its formats is hashed instead of its code.
MACHINERY = (
    *("lorcbench", "lorcbench.common.*", "lorcbench.config.*", "lorcbench.pipeline.*"),
    *(
        "lorcbench.study.stages",
        "lorcbench.study.graph",
        "lorcbench.jobs.job",
        "lorcbench.jobs.process",
        "lorcbench.jobs.devices",
        "lorcbench.jobs.progress",
        "lorcbench.jobs.records",
        "lorcbench.stages",
    ),
)
# Not machinery, though it lies there: how the stand-ins of a family are built is no setting, so no identity has it.
_HASHED = {"lorcbench.config.families"}
# What every stage runs under and none imports: the number of kernel threads changes the last bits of sums.
_UNDER_EVERY_STAGE = "lorcbench.jobs.threads"
_SAID = {"log", "progress", "phase"}  # methods of a job whose words reach no result


@cache
def code_version(stage: str) -> str:
    """16 hexadecimal digits that change whenever code changes that can change the bytes of `stage`'s results.

    They change too often rather than too seldom: also with a function that only moved, or a name.
    """
    modules = {_UNDER_EVERY_STAGE, *imported(f"lorcbench.stages.{stage}")}
    digests = {name: _read(name)[1] for name in sorted(modules) if not is_machinery(name)}
    return hashlib.sha256(repr((FORMAT_VERSION, digests)).encode()).hexdigest()[:16]


def code_versions() -> dict[str, str]:
    """`code_version` of every stage."""
    return {file.stem: code_version(file.stem) for file in sorted((_ROOT / "stages").glob("[a-z]*.py"))}


def is_machinery(module: str) -> bool:
    """Whether a module of this package is one of those that cannot change a result."""
    if module in _HASHED:
        return False
    return module in MACHINERY or any(module.startswith(name[:-1]) for name in MACHINERY if name.endswith(".*"))


def imported(module: str) -> set[str]:
    """`module` and every module of this package that it imports, directly or not; what only machinery imports is left out."""
    reached, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name in reached or _file(name) is None:
            continue
        reached.add(name)
        if not is_machinery(name):
            waiting += _read(name)[0]
    return reached


def _file(module: str) -> Path | None:
    stem = _ROOT.joinpath(*module.split(".")[1:])
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


def _imports(tree: ast.Module) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lorcbench"):
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names if alias.name.startswith("lorcbench.")]
    return names


class _WithoutWords(ast.NodeTransformer):
    """Takes out what is said to people: docstrings, messages of exceptions, and what a log or the terminal is told."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            del body[0]
        return super().generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """An exception keeps its class alone: where one is raised there is no result to change."""
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        """A statement such as ``job.log("…")`` says something and does nothing."""
        call = node.value
        said = isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in _SAID
        return ast.Pass() if said else self.generic_visit(node)


@cache
def _read(module: str) -> tuple[list[str], str]:
    """What a module imports of this package, and the digest of what it does."""
    tree = ast.parse(_file(module).read_text(encoding="utf-8"))
    names = _imports(tree)
    beside = [
        _file(module).with_suffix(suffix) for suffix in (".html", ".css", ".js", ".csv")
    ]  # a module's page or table is part of it
    data = "".join(path.read_text(encoding="utf-8") for path in beside if path.is_file())
    code = ast.dump(_WithoutWords().visit(tree)) + data
    return names, hashlib.sha256(code.encode()).hexdigest()

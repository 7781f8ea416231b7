"""Imports go one way, and nothing heavy is imported where the workflow parses or weights alone are needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import lorcbench

PACKAGE = Path(lorcbench.__file__).parent

# A module imports its own layer or those before it. The reporting side stands apart: it reads artifacts only.
LAYERS = (
    {"formats", "published", "quantizer", "linalg", "artifacts", "intervals", "paths", "process", "versions", "hub"}
    | {"checks", "protocols", "recipes", "config", "rehearsal", "study", "estimate", "plan"},
    {"statistics", "methods", "methods.gptq", "methods.gptq_triton", "methods.zeroquant", "lorc"},
    {"architectures", "checkpoint", "convert"},
    {"blocks", "observe", "surgery", "inputs", "hessians"},
    {"corpora", "perplexity", "harness", "standin", "stdlib_text", "texts", "job", "variants", "warm", "workflow", "resources"},
)
FIGURES = ("style", "lines", "bits", "lorc", "pareto", "size", "sensitivity", "activation", "rates", "errors")
REPORTING = {"results", "derived", "statements", "claims", "scorecard", "fingerprint", "reach"}
REPORTING |= {"figures", *(f"figures.{name}" for name in FIGURES), "records", "mlflow_ui", "tracking"}
REPORTING |= {"page", "page.parts", "page.cells", "page.evidence", "page.render"}
READ_BY_REPORTING = {"checks", "config", "protocols", "recipes", "study", "artifacts", "paths", "intervals", "formats"}
READ_BY_REPORTING |= {"published", "rehearsal"}
KNOW_TRANSFORMERS = {"blocks", "standin", "corpora", "harness", "warm"}
TRANSFORMERS = {"transformers", "accelerate", "lm_eval", "peft"}
HEAVY = {"torch", "mlflow", *TRANSFORMERS}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def imported(nodes) -> set[str]:
    """Full names of what import statements among `nodes` bring in, modules and names alike."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def own(module: str, nested: bool = True) -> set[str]:
    """Our modules that `module` imports; without `nested`, at its top level only."""
    names = imported(ast.walk(TREES[module]) if nested else TREES[module].body)
    return {name.removeprefix("lorcbench.") for name in names if name.startswith("lorcbench.")} & TREES.keys() - {"", module}


def foreign(module: str, nested: bool = True) -> set[str]:
    """Packages of others that `module` imports."""
    names = imported(ast.walk(TREES[module]) if nested else TREES[module].body)
    return {name.partition(".")[0] for name in names} - {"lorcbench"}


def reached(module: str, nested: bool = True) -> set[str]:
    """`module` and our modules that it imports, directly or not."""
    found, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += own(name, nested)
    return found


def is_stage(module: str) -> bool:
    return module.partition(".")[0] == "stages"


def test_every_module_has_a_place():
    placed = set().union(*LAYERS, REPORTING)
    assert sum(map(len, LAYERS)) + len(REPORTING) == len(placed)
    assert {name for name in TREES if name and not is_stage(name)} == placed


def test_no_import_goes_up():
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    upward = [(name, other) for name in level for other in own(name) if level.get(other, len(LAYERS)) > level[name]]
    assert upward == []
    assert sum(len(own(name)) for name in level) > 20  # the imports were read


def test_nothing_imports_in_a_circle():
    order = list(TopologicalSorter({name: own(name) for name in TREES}).static_order())
    assert set(order) == set(TREES)


def test_reporting_reads_artifacts_only():
    for name in REPORTING:
        assert own(name) <= READ_BY_REPORTING | REPORTING
        assert not {"torch", *TRANSFORMERS} & set().union(*(foreign(other) for other in reached(name)))
    assert any(own(name) & READ_BY_REPORTING for name in REPORTING)


def test_nothing_outside_imports_stages():
    assert [name for name in TREES if not is_stage(name) and any(map(is_stage, own(name)))] == []
    assert sum(map(is_stage, TREES)) > 10


def test_only_these_know_transformers():
    knowing = {name for name in TREES if foreign(name) & TRANSFORMERS}
    assert {name for name in knowing if not is_stage(name)} == KNOW_TRANSFORMERS
    assert not (foreign("corpora", nested=False) | foreign("warm", nested=False)) & TRANSFORMERS
    (loader,) = [node for node in TREES["corpora"].body if getattr(node, "name", "") == "load_tokenizer"]
    assert "transformers" in imported(ast.walk(loader))


@pytest.mark.parametrize("stage", ["quantize", "lorc", "tokens", "text", "task", "evaluate", "track", "report"])
def test_stages_start_without_transformers(stage):
    packages = set().union(
        *(foreign(name, nested=False) for name in reached("stages", False) | reached(f"stages.{stage}", False))
    )
    assert not packages & TRANSFORMERS
    assert ("torch" in packages) == (stage in ("quantize", "lorc", "tokens"))


def loaded(statement: str, packages: set[str]) -> set[str]:
    """Which of the packages a fresh interpreter has loaded after a statement."""
    code = f"import sys\n{statement}\nprint(*(set({sorted(packages)}) & sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_what_the_workflow_parses_loads_nothing_heavy():
    modules = ("study.cells", "report.results", "config.compose", "pipeline.rules")
    assert loaded("import " + ", ".join(f"lorcbench.{name}" for name in modules), HEAVY) == set()


def test_quantizing_by_rounding_loads_torch_and_not_transformers():
    assert loaded("import lorcbench.stages.quantize", HEAVY | {"numba"}) == {"torch"}

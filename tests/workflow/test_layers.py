"""Imports go one way, and nothing heavy is imported where the workflow parses or weights alone are needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import lorcbench
from lorcbench.common import versions

PACKAGE = Path(lorcbench.__file__).parent

COMMAND = ("__main__", "cli")  # what people start; nothing imports it
# A package imports itself and the packages before it. Where it may import less, that is said below.
ROOMS = ("common", "core", "config", "data", "models", "study", "jobs", "pipeline", "report", "stages")
NOT = {
    "core": {"common.paths", "common.versions", "common.artifacts"},  # tensors in, tensors out
    "study": {"data", "models"},  # a study is expanded without a text or a checkpoint
    "report": {"data", "models", "jobs", "pipeline"},  # it reads artifacts only
}
KNOW_TRANSFORMERS = {
    *("models.network", "models.discovery", "models.gguf", "models.standin", "models.harness"),
    *("models.live", "models.task_definitions", "models.spread", "models.reload", "models.formats"),
    *("data.corpora", "pipeline.warm"),
}
TRANSFORMERS = {"transformers", "accelerate", "lm_eval", "peft"}
HEAVY = {"torch", "mlflow", *TRANSFORMERS}
# Machinery that may hold tensors: files are guarded by a format version; the plan measures this machine's speed with a product;
# the warm process loads libraries and computes nothing that a job uses.
TENSORS_IN_MACHINERY = {"common.artifacts", "pipeline.warm"}


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


def room(module: str) -> str:
    return module.partition(".")[0]


def within(module: str, places: set[str]) -> bool:
    """Whether `module` is one of the packages or modules named in `places`, or lies in one."""
    return any(module == place or module.startswith(f"{place}.") for place in places)


def test_every_module_lies_in_one_of_the_ten_packages():
    assert {room(name) for name in TREES if name} - set(COMMAND) == set(ROOMS)
    files = {"__init__.py", *(f"{name}.py" for name in COMMAND)}
    assert {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"} == {*ROOMS, *files}
    assert len(ROOMS) + len(COMMAND) <= 12


def test_no_package_imports_one_that_comes_after_it():
    upward = [
        f"{name} imports {other}, which lies above"
        for name in TREES
        if room(name) in ROOMS
        for other in own(name)
        if ROOMS.index(room(other)) > ROOMS.index(room(name))
    ]
    assert upward == []
    forbidden = [
        f"{name} imports {other}: {room(name)} must not"
        for name in TREES
        for other in own(name)
        if within(other, NOT.get(room(name), set()))
    ]
    assert forbidden == []
    assert sum(len(own(name)) for name in TREES) > 100  # the imports were read


def test_the_machinery_does_no_arithmetic():
    """What the code hash leaves out cannot change a result: none of it can make a tensor or an array."""
    machinery = [name for name in TREES if name and versions.is_machinery(f"lorcbench.{name}")]
    assert {"config.schema", "common.paths", "pipeline.rules", "jobs.job"} <= set(machinery)
    assert {name for name in machinery if foreign(name) & {"torch", "numpy", "safetensors", "scipy"}} == TENSORS_IN_MACHINERY


def test_nothing_imports_in_a_circle():
    order = list(TopologicalSorter({name: own(name) for name in TREES}).static_order())
    assert set(order) == set(TREES)


@pytest.mark.slow
def test_reporting_needs_no_torch():
    reporting = [name for name in TREES if room(name) == "report"]
    assert len(reporting) > 20
    for name in reporting:
        assert not {"torch", *TRANSFORMERS} & set().union(*(foreign(other) for other in reached(name)))


def test_nothing_but_the_command_imports_stages():
    assert [name for name in TREES if not is_stage(name) and any(map(is_stage, own(name)))] == ["cli"]
    assert [name for name in TREES if "cli" in own(name)] == ["__main__"]
    assert sum(map(is_stage, TREES)) > 10


def test_only_these_know_transformers():
    knowing = {name for name in TREES if foreign(name) & TRANSFORMERS}
    assert {name for name in knowing if not is_stage(name)} == KNOW_TRANSFORMERS
    assert not (foreign("data.corpora", nested=False) | foreign("pipeline.warm", nested=False)) & TRANSFORMERS
    (loader,) = [node for node in TREES["data.corpora"].body if getattr(node, "name", "") == "load_tokenizer"]
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


@pytest.mark.slow
def test_quantizing_by_rounding_loads_torch_and_not_transformers():
    assert loaded("import lorcbench.stages.quantize", HEAVY | {"numba"}) == {"torch"}


def test_a_stage_that_hands_over_has_loaded_nothing_but_the_standard_library():
    slow = HEAVY | {"numpy", "scipy", "hydra", "omegaconf", "yaml", "psutil", "typer"}
    assert loaded("import lorcbench.stages.__main__", slow) == set()

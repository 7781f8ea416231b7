"""What is read is data, never code; what listens, listens on this machine alone; what is installed is pinned by its hash.

That names stay in the results folder is in test_bad_input, that secrets stay out of every file in test_faults.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import lorcbench
from lorcbench.report.tracking import ui

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(lorcbench.__file__).parent
TREES = {path.relative_to(PACKAGE): ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
UNPICKLING = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def test_weights_are_unpickled_in_one_place_and_as_tensors_only():
    calls = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
                assert not names & UNPICKLING or names == {"pickle", "UnpicklingError"}, path
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load", "numpy.load"):
                calls.append((str(path), {word.arg: ast.unparse(word.value) for word in node.keywords}))
    assert calls == [("models/convert.py", {"map_location": "'cpu'", "weights_only": "True"})]


def test_nobody_elses_code_is_run():
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                trusted = [word.value for word in node.keywords if word.arg == "trust_remote_code"]
                assert all(isinstance(value, ast.Constant) and value.value is False for value in trusted), path
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "yaml.unsafe_load", "os.system"), path
                if called == "yaml.load":  # text alone
                    assert [ast.unparse(word.value) for word in node.keywords] == ["yaml.BaseLoader"], path


def test_mlflow_listens_on_this_machine_alone():
    assert "--host 127.0.0.1" in " ".join(ui.command(5000))
    makefile = (ROOT / "Makefile").read_text()
    assert "lorcbench ui --port" in makefile
    assert "mlflow ui" not in makefile
    assert "0.0.0.0" not in makefile + "".join(ast.unparse(tree) for tree in TREES.values())


@pytest.mark.parametrize(
    ("file", "fewest"), [("requirements.lock", 100), ("requirements-real.txt", 2), ("requirements-gptq.txt", 30)]
)
def test_every_dependency_is_pinned_with_its_hashes(file, fewest):
    lock = re.sub(r"(?m)^\s*#.*$", "", (ROOT / file).read_text()).replace("\\\n", " ")
    lines = [line for line in lock.splitlines() if line.strip()]
    assert len(lines) >= fewest
    for line in lines:
        assert re.match(r"[\w.\[\]-]+==\S+", line.strip()) and "--hash=sha256:" in line, line[:80]
    assert "--require-hashes" in (ROOT / "Makefile").read_text()

"""Two runs of pytest side by side, as `make check` starts them: which tests failed stands at the end."""

from __future__ import annotations

import subprocess

from runs import ROOT

# Takes the place of make: prints as pytest does, and fails where its target says so.
MAKE = """#!/bin/sh
seq 50
case $2 in *bad*) echo "FAILED tests/$2.py::test_it - assert 1 == 2"; echo "== 1 failed =="; exit 1 ;; esac
echo "== 3 passed =="
"""


def beside(folder, *targets: str) -> subprocess.CompletedProcess:
    make = folder / "make"
    make.write_text(MAKE)
    make.chmod(0o755)
    line = ["sh", str(ROOT / "tests/support/beside.sh"), *targets]
    return subprocess.run(line, env={"PATH": "/usr/bin:/bin", "MAKE": str(make)}, capture_output=True, text=True, check=False)


def test_the_tests_that_failed_in_either_run_are_the_last_lines(tmp_path):
    done = beside(tmp_path, "bad-one", "good", "bad-two")
    assert done.returncode == 1
    *_, heading, one, two = done.stdout.splitlines()
    assert heading == "failed: bad-one bad-two"
    assert one == "FAILED tests/bad-one.py::test_it - assert 1 == 2"
    assert two == "FAILED tests/bad-two.py::test_it - assert 1 == 2"


def test_runs_that_pass_say_nothing_of_failures(tmp_path):
    done = beside(tmp_path, "good", "fine")
    assert (done.returncode, done.stdout.count("3 passed")) == (0, 2)
    assert "failed" not in done.stdout

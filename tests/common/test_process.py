"""What a process asks of the libraries that it will load."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

# What a stage's process has done when it would hand over to a warm one.
SHOW = """
import os, sys
from lorcbench.pipeline import warm
from lorcbench.stages.__main__ import main

def show(stage, overrides):
    print("numpy" in sys.modules, os.environ["OMP_WAIT_POLICY"], os.environ["OPENBLAS_THREAD_TIMEOUT"])
    sys.exit()

warm.hand_over = show
main("text", [])
"""


@pytest.mark.parametrize(("given", "expected"), [({}, "PASSIVE 4"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE 4")])
def test_idle_threads_sleep_unless_the_user_says_otherwise_and_before_any_library_is_loaded(given, expected):
    kept = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "OPENBLAS_THREAD_TIMEOUT")}
    shown = subprocess.run([sys.executable, "-c", SHOW], env=kept | given, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == f"False {expected}"


def test_a_process_whose_parent_has_ended_already_ends_too():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    codes = [
        subprocess.run(
            [sys.executable, "-c", f"from lorcbench.common import process; process.die_with_parent({parent})"], check=False
        ).returncode
        for parent in (os.getpid(), ended.pid)
    ]
    assert codes == [0, -signal.SIGKILL]

"""What a process asks of the libraries that it will load."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys

import pytest

from lorcbench.pipeline import warm
from lorcbench.study.stages import ON_DEVICE

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


# A stage before a socket at which nobody has answered yet: it says so when it finds that it must run by itself.
ALONE = """
import sys
from lorcbench.pipeline import warm
warm.hand_over(sys.argv[1], [])
print("by itself")
"""


@pytest.fixture
def listener(tmp_path):
    """The socket of a warm process that is still importing."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "warm"))
        listener.listen()
        yield listener


def start(stage: str, listener: socket.socket) -> subprocess.Popen:
    """The command of a stage in a workflow with that warm process."""
    environment = os.environ | {warm.VARIABLE: listener.getsockname()}
    return subprocess.Popen([sys.executable, "-c", ALONE, stage], env=environment, stdout=subprocess.PIPE, text=True)


def test_a_stage_that_imports_torch_waits_for_the_warm_process_and_ends_with_its_exit_code(listener):
    waiting = start("quantize", listener)
    connection, _ = listener.accept()
    data, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, 3)
    for descriptor in descriptors:
        os.close(descriptor)
    assert json.loads(data)["arguments"] == ["quantize"]
    assert waiting.poll() is None
    connection.send(b"+")
    connection.send(bytes([3]))
    assert (waiting.communicate()[0], waiting.returncode) == ("", 3)


def test_a_stage_whose_warm_process_ends_before_it_is_ready_runs_by_itself(listener):
    waiting = start("quantize", listener)
    assert select.select([listener], [], [], 60)[0]  # it has come
    listener.close()
    assert waiting.communicate()[0] == "by itself\n"


def test_a_stage_without_torch_waits_for_no_warm_process(listener):
    assert start("text", listener).communicate()[0] == "by itself\n"


def test_stages_that_do_arithmetic_wait():
    assert warm.STAGES > ON_DEVICE

"""Start stages from a process that has already imported what they need.

Importing torch and transformers takes about five seconds, more than most small jobs' own work. A local run therefore keeps one
process that has done it. A stage's command finds its socket in the environment, hands over its arguments, working directory,
environment and standard streams, and waits; the process forks, and the fork runs the stage as ``python -m`` would::

    workflow ── python -m lorcbench.stages X ──(socket)──┐ waits for the exit code
         └───── python -m lorcbench.pipeline.warm ── fork: supervisor ── fork: the stage

The socket is there before the process has imported anything. A stage that would import the same waits for it: on two cores two
such stages and the warm process took three times the CPU seconds of the warm process alone. Without the variable (by hand, on a
cluster), or when the process is gone, a stage runs in its own process: only its start differs. Whoever dies takes the others
along: the stage goes with its command, the warm process with the workflow.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from lorcbench.common.process import PARENT, die_with_parent, let_threads_sleep

VARIABLE = "LORCBENCH_WARM"  # environment variable: the socket of a warm process
STAGES = frozenset(
    {"prepare", "tokens", "calibrate", "factor", "quantize", "sensitivity", "lorc", "evaluate", "harness"}
)  # that import torch
_STAGES = "lorcbench.stages"  # the module that every stage's command runs
_TAKEN = b"+"  # what a supervisor says before it runs a stage
_REQUEST_BYTES = 1 << 20
# PyTorch's variable: who asks it for GPUs while libraries are imported must not start CUDA, which no fork could use after that.
_COUNTED_BY_DRIVER = "PYTORCH_NVML_BASED_CUDA_CHECK"


class WarmProcess:
    """The warm process of one workflow; stages that are started while it lives find it by themselves.

    Args:
        threads: kernel threads of its stages.
        stages: those of `STAGES` that are to run: it imports what they need.
    """

    def __init__(self, threads: int, stages: frozenset[str] = STAGES) -> None:
        self._folder = tempfile.mkdtemp(prefix="lorcbench-")  # nobody else's, and short: socket addresses end at 108 bytes
        address = str(Path(self._folder) / "warm")
        environment = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))}
        environment[_COUNTED_BY_DRIVER] = "1"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen(64)  # stages may come before the process has imported everything
            command = [sys.executable, "-m", "lorcbench.pipeline.warm", address, str(listener.fileno()), *sorted(stages)]
            inherited = [listener.fileno()]
            self._process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, pass_fds=inherited)
        os.environ[VARIABLE] = address

    def stop(self) -> None:
        """End it; stages start in processes of their own again."""
        del os.environ[VARIABLE]
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._folder)


def hand_over(stage: str, overrides: list[str]) -> None:
    """Let a warm process run a stage, and end with its exit code; return if there is none.

    A stage that imports torch waits until the process is ready; for any other, one that is not ready is none.
    """
    address = os.environ.get(VARIABLE)
    if not address or (stage not in STAGES and not _ready(address).exists()):
        return
    environment = {name: value for name, value in os.environ.items() if name not in (VARIABLE, PARENT)}
    request = {"arguments": [stage, *overrides], "folder": os.getcwd(), "environment": environment}
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(address)
        socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
        if connection.recv(1) != _TAKEN:
            return
    except OSError:  # it has ended, perhaps while this waited
        return
    code = connection.recv(1)
    os._exit(code[0] if code else 1)


def _ready(address: str) -> Path:
    """The file that is there when the process at `address` has imported everything."""
    return Path(f"{address}.ready")


def _serve(address: str, descriptor: int, stages: frozenset[str]) -> None:
    """Import everything, then fork a supervisor for each stage that asks at the socket of that descriptor."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the commands that wait; supervisors then end their stages
    die_with_parent(int(os.environ[PARENT]))
    let_threads_sleep()
    listener = socket.socket(fileno=descriptor)
    listener.set_inheritable(False)
    preload(stages)
    check_forkable()
    _ready(address).touch()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # supervisors are reaped by the kernel
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _supervise(connection)
        connection.close()


def preload(stages: frozenset[str] = STAGES) -> None:
    """Import what stages import, the model classes of all families among it, and compile what they compile.

    Args:
        stages: those that will run. For ``harness`` alone lm-eval is imported, which takes more memory than all the rest.
    """
    if "harness" in stages:
        import lm_eval.models.huggingface  # noqa: F401
    import torch
    import transformers

    from lorcbench.common import versions
    from lorcbench.config.families import FAMILIES
    from lorcbench.data import corpora  # noqa: F401
    from lorcbench.jobs import records
    from lorcbench.models import blocks, perplexity, standin  # noqa: F401

    for family in FAMILIES.values():
        getattr(transformers, family.model_class)  # transformers imports a model's module when it is first asked for
    for stage in stages:
        versions.code_version(stage)  # kept for the forks
    records.checkout()
    torch.set_num_threads(1)  # no thread of a pool may exist when it forks
    if "quantize" in stages:
        from lorcbench.core import gptq
        from lorcbench.core.formats import WeightFormat

        settings, identity = gptq.GptqSettings(clip="mse"), torch.eye(8)
        gptq.quantize(identity, gptq.prepare(identity, settings), WeightFormat(4), settings)  # compiles sweep and search


def check_forkable() -> None:
    """End this process if something has started CUDA in it: its forks could not use a GPU. Stages then start by themselves.

    Raises:
        SystemExit: with one line.
    """
    import torch

    if torch.cuda.is_initialized():
        sys.exit("the warm process has started CUDA, which its forks could not use; each job starts by itself instead")


def _supervise(connection: socket.socket) -> None:
    """Run one stage in a fork; send its exit code, or kill it when its command has gone."""
    data, descriptors, _, _ = socket.recv_fds(connection, _REQUEST_BYTES, 3)
    try:
        connection.send(_TAKEN)
    except BrokenPipeError:  # the command has gone while it waited
        os._exit(0)
    supervisor, stage = os.getpid(), os.fork()
    if stage == 0:
        die_with_parent(supervisor)
        connection.close()
        _run(json.loads(data), descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    ended = os.pidfd_open(stage)
    if ended not in select.select([ended, connection], [], [])[0]:
        os.kill(stage, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(stage, 0)[1])
    with contextlib.suppress(BrokenPipeError):  # if the command has gone
        connection.send(bytes([code if code >= 0 else 128 - code]))
    os._exit(0)


def _run(request: dict, descriptors: list[int]) -> None:
    """Become the stage that was asked for, with its arguments, folder, environment and streams, and end."""
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = [_STAGES, *request["arguments"]]
    code: object = 0
    try:
        runpy.run_module(_STAGES, run_name="__main__", alter_sys=True)
    except SystemExit as ending:
        code = ending.code
    if isinstance(code, str):
        print(code, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), frozenset(sys.argv[3:]))

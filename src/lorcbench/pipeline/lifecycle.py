"""Start and end of a run of the workflow: what its stages inherit, the lock, the warm process, and the report of a failure."""

from __future__ import annotations

import atexit
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from lorcbench.common.gpus import Choice
from lorcbench.common.paths import LOCK
from lorcbench.common.process import PARENT
from lorcbench.config.compose import RUNTIME_VARIABLE
from lorcbench.pipeline.warm import STAGES, WarmProcess
from lorcbench.study import started
from lorcbench.study.stages import STAGES as TABLE


def set_environment(runtime: list[str], choice: Choice) -> None:
    """Set what the stages inherit: the interpreter, whom they end with, the overrides of the runtime, and the device.

    Facts of the machine go through the environment, so that they are in no rule's text or params and re-run nothing.
    """
    # `.venv/bin/snakemake` works without activation: stages run in the interpreter that runs the workflow.
    os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
    os.environ[PARENT] = str(os.getpid())
    os.environ["PYTHONSAFEPATH"] = "1"  # else a file random.py in the working folder would be every stage's module random
    os.environ[RUNTIME_VARIABLE] = " ".join(runtime)
    choice.hand_down()


class Lifecycle:
    """One run, from its lock to its end.

    Args:
        threads: kernel threads of its stages.
        complete: the file that says that the study is finished.
        study: the arguments of the stages that see the whole study.
    """

    def __init__(self, threads: int, complete: Path, study: list[str]) -> None:
        self._threads = threads
        self._complete = complete
        self._study = study
        self._lock = None
        self._warm: WarmProcess | None = None

    def end_at_ctrl_c(self, again: str, is_dry_run: Callable[[], bool]) -> None:
        """Before the first job Ctrl-C ends the run with one line, instead of a traceback through Snakemake.

        Args:
            again: how to go on.
            is_dry_run: which Snakemake knows only later.
        """

        def end(signum: int, frame: FrameType | None) -> None:
            if not is_dry_run():
                self.leave_words()
            print(f"\ninterrupted before the first job; {again}", file=sys.stderr, flush=True)
            os._exit(130)  # an exception would come out of Snakemake in many lines

        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else somebody wants Ctrl-C to be ignored
            signal.signal(signal.SIGINT, end)

    def note_ctrl_c(self, again: str) -> None:
        """From the first job on Ctrl-C is Snakemake's, which ends the jobs; the last line then says how to go on.

        Args:
            again: how to go on.
        """

        def note(signum: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            atexit.register(tell)  # before the summary is, so it is called after that
            signal.default_int_handler(signum, frame)

        def tell() -> None:
            print(again, flush=True)

        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, note)

    def leave_words(self) -> None:
        """Leave the words of this run beside the page that it will make, so that the study's name means them from now on."""
        started.leave(self._complete.parent, self._study)

    def take_lock(self) -> None:
        """One run at a time on one results folder; the kernel frees the lock however this process ends."""
        try:
            Path(LOCK).parent.mkdir(exist_ok=True)
            self._lock = open(LOCK, "w")  # noqa: SIM115  held until the process ends
        except OSError as error:
            sys.exit(f"error: {LOCK} cannot be written ({error.strerror}); work in a folder that can")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            sys.exit("error: another run is using this results folder; wait for it, or work in another folder")

    def start_warm(self, rules: set[str]) -> None:
        """Start the process that local jobs fork from, if a job of these rules imports what it has imported."""
        if stages := STAGES & {TABLE[rule].module for rule in rules if rule in TABLE}:
            self._warm = WarmProcess(self._threads, stages)

    def finish(self) -> None:
        """End what was started."""
        if self._warm:
            self._warm.stop()

    def report_failure(self) -> None:
        """After a run with failures, or Ctrl-C: MLflow and the page over what exists, and the study open for the next run.

        Raises:
            SystemExit: Ctrl-C ends this, too.
        """
        self._complete.unlink(missing_ok=True)
        print("MLflow and the page are made of what there is so far; Ctrl-C leaves that out", file=sys.stderr, flush=True)
        try:
            for stage in ("track", "report"):
                subprocess.run([sys.executable, "-m", "lorcbench.stages", stage, *self._study], check=False)
            self.finish()
        except KeyboardInterrupt:  # the stages get the same signal, and the warm process ends with this one
            sys.exit("interrupted; what is finished is kept, and the same command goes on from here")

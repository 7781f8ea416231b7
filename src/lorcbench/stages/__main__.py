"""One stage as a process: ``python -m lorcbench.stages NAME key=value …``, by the workflow or by hand."""

from __future__ import annotations

import importlib
import os
import signal
import sys

from lorcbench.common.process import PARENT, die_with_parent, let_threads_sleep
from lorcbench.pipeline import warm
from lorcbench.stages import description, names


def main(name: str, overrides: list[str]) -> None:
    """Run a stage in this process, or have a warm process run it; a flag is answered, and nothing runs.

    Raises:
        SystemExit: the stage failed, or a flag was given.
    """
    if any(override.startswith("-") for override in overrides):
        sys.exit(_answer(name, overrides))
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once, without a traceback of imports
    if parent := os.environ.get(PARENT):
        die_with_parent(int(parent))  # so that no orphan of a killed workflow goes on writing
    let_threads_sleep()  # before any numerical library is loaded
    warm.hand_over(name, overrides)  # ends this process; returns where there is no warm process
    from lorcbench.jobs.process import run  # here: what has handed over imports nothing more
    from lorcbench.pipeline.explained import explained

    stage = importlib.import_module(f"lorcbench.stages.{name}")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on, what was begun is tidied up
    run(name, overrides, stage.main, explained)


def _answer(name: str, overrides: list[str]) -> int:
    """Answer a command line that has a flag; returns the exit code."""
    from lorcbench.config.checks import ConfigError
    from lorcbench.study import stage_help

    try:
        text, is_asked_for = stage_help.answer(name, overrides, description(name))
    except ConfigError as error:
        text, is_asked_for = f"{name}: {error}", False
    print(text if is_asked_for else f"error: {text}", file=sys.stdout if is_asked_for else sys.stderr)
    return 0 if is_asked_for else 2


def usage() -> str:
    """How a stage is called, and which there are."""
    lines = [f"  {name:10} {description(name)}" for name in names()]
    return "\n".join(["usage: python -m lorcbench.stages NAME key=value …", "", *lines])


if __name__ == "__main__":
    if sys.argv[1:] in ([], ["-h"], ["--help"]):
        print(usage())
    elif sys.argv[1] not in names():
        print(f"error: stage {sys.argv[1]!r} is unknown; stages are {', '.join(names())}", file=sys.stderr)
        sys.exit(2)
    else:
        main(sys.argv[1], sys.argv[2:])

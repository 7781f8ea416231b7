"""The last lines of a run: what to use, or the folders that were exported. They come after Snakemake's own last lines."""

from __future__ import annotations

import atexit
import os
import shlex
from pathlib import Path

from lorcbench.common.process import SUMMARY_LATER

SUMMARY = "summary.txt"  # in the folder of a study: what its report says in short


class Closing:
    """What a run says at its very end.

    Attributes:
        exported: the folders that the run exports; empty if it measures a study.

    Args:
        folder: of the study's page.
        complete: the file that says that the study is finished.
    """

    def __init__(self, folder: str, complete: str) -> None:
        self.exported: list[str] = []
        self._summary = Path(folder) / SUMMARY
        self._complete = Path(complete)
        self._makes_page = False

    def begin(self, rules: set[str]) -> None:
        """A run begins that has jobs of these rules; the report leaves its summary to us."""
        self._makes_page = "report" in rules
        os.environ[SUMMARY_LATER] = "1"

    def again(self) -> str:
        """How to go on with the run after Ctrl-C."""
        if self.exported:
            return "the same command goes on from here"
        return f"go on with: {shlex.join(['lorcbench', 'run', self._complete.parent.name])}"

    def forget(self) -> None:
        """The run has failed, so that its page is made again: what an earlier run said is no answer any more."""
        self._summary.unlink(missing_ok=True)
        self._makes_page = True

    def at_exit(self) -> None:
        """Print the answer when this process ends, which is after all that Snakemake says."""
        if self.exported or self._makes_page:
            atexit.register(self._print)

    def _print(self) -> None:
        if text := self._text():
            print(text, flush=True)

    def known(self) -> str:
        """The answer of a run that has nothing to do."""
        return self._text() if self.exported or self._complete.is_file() else ""

    def _text(self) -> str:
        if self.exported:
            there = [folder for folder in self.exported if Path(folder).is_dir()]
            return "\n".join(["", "exported, one folder per cell:", *(f"  {folder}" for folder in there)]) if there else ""
        try:
            return self._summary.read_text(encoding="utf-8").rstrip()
        except OSError:  # the page could not be made
            return ""

"""The last lines of a run: what to use, or the folders that were exported. They come after Snakemake's own last lines."""

from __future__ import annotations

import atexit
import os
import shlex
from pathlib import Path

from lorcbench.common.artifacts import read_json
from lorcbench.common.process import SUMMARY_LATER
from lorcbench.config import folders
from lorcbench.study.stages import PREPARE

SUMMARY = "summary.txt"  # in the folder of a study: what its report says in short


class Closing:
    """What a run says at its very end.

    Attributes:
        exported: the folders that the run exports, each with the result of the job that prepared its model; empty if the run
            measures a study.

    Args:
        folder: of the study's page.
        complete: the file that says that the study is finished.
    """

    def __init__(self, folder: str, complete: str) -> None:
        self.exported: dict[str, Path] = {}
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
            made = {Path(folder): prepared for folder, prepared in self.exported.items() if Path(folder).is_dir()}
            there = [f"  {folder}{_size(folder, prepared)}" for folder, prepared in made.items()]
            return "\n".join(["", "exported, one folder per cell:", *there]) if there else ""
        try:
            return self._summary.read_text(encoding="utf-8").rstrip()
        except OSError:  # the page could not be made
            return ""


def _size(folder: Path, prepared: Path) -> str:
    """How large the tensors of an export are, and those of its model in full precision; "" where no tensors are there."""
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    if not size:
        return ""
    record = read_json(prepared, PREPARE.kind)
    whole = sum(tensor.count * tensor.size for tensor in folders.tensors(prepared.parent / record["folder"]).values())
    original = f"; in full precision {_megabytes(whole)}" if whole else ""
    return f"  {_megabytes(size)}{original}"


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.2f} MB"

"""What Snakemake's console says of finished jobs: one line each, with the count of the run and when the run may end.

::

    [ 22/240] quantize opt-standin-s gptq w3-asym-g32, 3.2 s; run: about 4 min left

Only the handler that writes to the terminal is changed. Every event still reaches Snakemake's log file and its logger plugins.
"""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from snakemake_interface_logger_plugins.common import LogEvent

_HANDLER = "DefaultStreamHandler"  # Snakemake's name for the handler that writes to the terminal; a plugin may have replaced it
_FEWEST = 3  # finished jobs before the end of the run is estimated
_KNOWN = 0.5  # of the time that is left by the plan, the share of stages that have finished a job, below which nothing is said
_NOTHING = "Nothing to be done"


@dataclass(frozen=True)
class Expected:
    """A job that is to run.

    Attributes:
        title: what people know it by.
        stage: its rule.
        seconds: what the plan says that it takes.
        record: the file in which it will say how long it took; None for a rule that starts no stage.
    """

    title: str
    stage: str
    seconds: float
    record: Path | None

    def taken(self) -> float | None:
        """Seconds that it took; None if it does not say."""
        if self.record is not None:
            with suppress(OSError, ValueError, KeyError, TypeError):
                return float(json.loads(self.record.read_text(encoding="utf-8"))["seconds"])
        return None


class Console(logging.Formatter):
    """A formatter around Snakemake's own, which says everything else.

    Args:
        formatter: Snakemake's own.

    Attributes:
        answer: what is said of a run that has nothing to do; None if nothing.
    """

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self._formatter = formatter
        self._jobs: dict[int, Expected] = {}
        self._finished: list[tuple[int, str]] = []  # since the latest count: its number in Snakemake, and what Snakemake says
        self.answer: Callable[[], str] | None = None
        self._remaining = Remaining({}, 0.0)

    def expect(self, jobs: dict[int, Expected]) -> None:
        """Take the jobs of a run that begins now, by their number in Snakemake."""
        self._jobs = dict(jobs)
        self._remaining = Remaining(jobs, time.monotonic())

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record; "" if nothing is to be said."""
        event = getattr(record, "event", None)
        if event == LogEvent.JOB_FINISHED:
            self._finished.append((record.job_id, record.getMessage()))
            return ""
        if event == LogEvent.PROGRESS:
            return "\n".join(self._lines(record.done, record.total))
        if event == LogEvent.JOB_STARTED or (event is None and str(record.msg).startswith("Select jobs")):
            return ""  # they say nothing that is not said better here
        if self.answer and event is None and str(record.msg).startswith(_NOTHING):
            return f"{self._formatter.format(record)}\n{self.answer()}".rstrip()
        return self._formatter.format(record)

    def _lines(self, done: int, total: int) -> list[str]:
        """A line for each job that has finished since the latest count; several of a cluster may finish together."""
        lines, first = [], done - len(self._finished) + 1
        for count, (number, message) in enumerate(self._finished, first):
            job = self._jobs.get(number)
            seconds = job.taken() if job else None
            self._remaining.finish(number, seconds)
            took = f", {seconds:.1f} s" if seconds is not None else ""
            lines.append(f"[{count:{len(str(total))}}/{total}] {job.title if job else message}{took}")
        self._finished.clear()
        left = self._remaining.seconds(time.monotonic())
        if lines and left and done < total:
            lines[-1] += f"; run: about {duration(left)} left"
        return lines


class Remaining:
    """How long a run still takes: what the plan says of its jobs, corrected by how long jobs of each stage took until now.

    A stage that has finished no job goes by the plan alone. While such stages hold most of what is left, nothing is said: the
    trainings of a study's first minutes tell nothing of the cells that follow.

    Args:
        jobs: of the run, by number.
        started: when, in seconds.
    """

    def __init__(self, jobs: dict[int, Expected], started: float) -> None:
        self._waiting = dict(jobs)
        self._started = started
        self._count = 0
        self._expected: dict[str, float] = defaultdict(float)  # by stage, of the jobs that have finished
        self._taken: dict[str, float] = defaultdict(float)

    def finish(self, number: int, seconds: float | None) -> None:
        """A job has finished; None if it did not say how long it took."""
        job = self._waiting.pop(number, None)
        if job and seconds:
            self._count += 1
            self._expected[job.stage] += job.seconds
            self._taken[job.stage] += seconds

    def seconds(self, now: float) -> float | None:
        """Seconds until all have finished, if as many run at a time as until now; None if it is too early to say."""
        if self._count < _FEWEST or now <= self._started:
            return None
        waiting: dict[str, float] = defaultdict(float)
        for job in self._waiting.values():
            waiting[job.stage] += job.seconds
        factors = {stage: self._taken[stage] / expected for stage, expected in self._expected.items()}
        if sum(seconds for stage, seconds in waiting.items() if stage in factors) < _KNOWN * sum(waiting.values()):
            return None
        at_a_time = max(1.0, sum(self._taken.values()) / (now - self._started))
        return sum(seconds * factors.get(stage, 1.0) for stage, seconds in waiting.items()) / at_a_time


def duration(seconds: float) -> str:
    """A time to come, as roughly as it is known."""
    if seconds < 90:
        return f"{max(1, round(seconds / 10)) * 10} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def install(logger: logging.Logger) -> Console | None:
    """Let a logger of Snakemake speak so on the terminal; None if a plugin has the terminal."""
    for handler in logger.handlers:
        if handler.name == _HANDLER:
            inner = handler.formatter
            console = Console(inner._formatter if isinstance(inner, Console) else inner)
            handler.setFormatter(console)
            return console
    return None

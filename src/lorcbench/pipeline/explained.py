"""What there is to say of a job's error beside its message: which setting gave what it stumbled over."""

from __future__ import annotations

from lorcbench.jobs.job import Job
from lorcbench.pipeline import out_of_memory

_OF_A_TEXT = ("corpus ", "calibration corpus ")  # how messages begin that are of a text's tokens


def explained(job: Job, error: BaseException) -> str | None:
    """What happened, in one line that names a setting; None if the message says all that is known."""
    message = " ".join(str(error).split())
    if type(error).__name__ == "CorpusError" and message.startswith(_OF_A_TEXT) and "text=file" in job.overrides:
        return f"text_path={job.text.path}: {message}"
    return out_of_memory.explained(job, error)

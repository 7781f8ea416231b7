"""What the names of a job say of the settings that its result was made with.

A result records its settings in its identity. A reader compares: a result in the folder of ``gptq`` that was made with another
damping than ``gptq`` means is foreign, however it came there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from lorcbench.common.artifacts import ArtifactError, canonical
from lorcbench.config import compose
from lorcbench.study.stages import (
    CALIBRATE,
    CALIBRATION_TOKENS,
    EVALUATE,
    EXPORT,
    FACTOR,
    HARNESS,
    LORC,
    PREPARE,
    QUANTIZE,
    SENSITIVITY,
    TASK,
    TEXT,
    TOKENS,
    StageJob,
)

# Settings that are younger than results which people keep, and the value with which those were made.
_YOUNGER = {"method.clip": "none", "lorc.inputs": "full_precision"}
_NOTHING = "nothing"  # what a message says of a setting that one side lacks


Entry = Callable[[str, str], Any]  # config group and name → what is called so


def settings(job: StageJob, entry: Entry) -> dict[str, Any]:
    """The settings that the identity of a job's result must have, as its names say them; it may have others beside.

    Args:
        entry: as `lorcbench.config.compose.load`, but it knows the folders of checkpoints, too.
    """
    stage, names = job

    def plain(group: str) -> dict[str, Any]:
        return compose.plain(entry(group, getattr(names, group)))

    if stage is TEXT:
        text = plain("text")
        return {} if text["source"] == "stdlib" else text  # nothing of that text is a setting
    if stage is TASK:
        return entry("task", names.task).staged()
    if stage is PREPARE:
        return plain("model") | {"name": names.model}
    if stage in (CALIBRATION_TOKENS, CALIBRATE):
        return plain("calibration")
    if stage is FACTOR:
        return {"damp": float(names.damp), "order": names.order, "dead": names.dead}
    if stage is QUANTIZE:
        made = {"method": plain("method"), "weight": names.weight, "trained": names.trained}
        needs_tokens = entry("method", names.method).data == "tokens"
        return made | ({"calibration": plain("calibration")} if needs_tokens else {})
    if stage is SENSITIVITY:
        return {"calibration": plain("calibration"), "weight": names.weight}
    if stage is LORC:
        made = {"lorc": plain("lorc"), "cap": int(names.cap)}
        return made | ({"calibration": plain("calibration")} if entry("lorc", names.lorc).data == "tokens" else {})
    if stage is EXPORT:
        return {"export": names.export, "verify": names.verify, "lorc": names.lorc, "rank": int(names.rank)}
    if stage in (TOKENS, EVALUATE):
        return entry("eval", names.protocol).protocol()
    if stage is HARNESS:
        protocol = entry("eval", names.protocol)
        return {"dtype": protocol.dtype, "window": protocol.window}
    return {}  # the gate, and the views of a study


def check(job: StageJob, entry: Entry, result: dict) -> None:
    """Refuse a result that was made with other settings than the names of its job say.

    Args:
        entry: as `settings`.
        result: of the job, as its file has it.

    Raises:
        ArtifactError: it is foreign; the message names the setting, and the folder to delete.
    """
    expected = json.loads(canonical(settings(job, entry)))  # as a file gives it back
    recorded = result.get("identity", {}).get("settings", {})
    for key in expected:
        if difference := _difference(key, expected[key], recorded.get(key, _NOTHING)):
            place, meant, found = difference
            raise ArtifactError(
                f"{job.folder}/result.json: foreign (made with {place}={_said(found)}, but its name means "
                f"{place}={_said(meant)}); delete the folder {job.folder} and run again"
            )


def _said(value: Any) -> str:
    """A value in a message of one line."""
    return value if isinstance(value, str) and value.isprintable() else canonical(value)


def _difference(key: str, expected: Any, found: Any) -> tuple[str, Any, Any] | None:
    """The first setting at or below `key` that differs: its key, what is expected and what was found; None if none does."""
    if not (isinstance(expected, dict) and isinstance(found, dict)):
        return None if expected == found else (key, expected, found)
    for name in sorted(expected.keys() | found.keys()):
        place = f"{key}.{name}"
        in_file = found.get(name, _YOUNGER.get(place, _NOTHING) if name in expected else _NOTHING)
        if difference := _difference(place, expected.get(name, _NOTHING), in_file):
            return difference
    return None

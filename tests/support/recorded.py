"""What a result that a test writes by itself says of the settings that it was made with."""

from __future__ import annotations

from typing import Any

from lorcbench.common.paths import Wildcards
from lorcbench.config import compose
from lorcbench.config.schema import ModelConfig
from lorcbench.study import meaning
from lorcbench.study.stages import Stage, StageJob


def identity(stage: Stage, names: Wildcards, model: ModelConfig | None = None) -> dict:
    """The part of an identity that readers compare with the names of the job.

    Args:
        model: what the name of the model means, if it is not in conf/model.
    """

    def entry(group: str, name: str) -> Any:
        return model if model and group == "model" else compose.load(group, name)

    return {"settings": meaning.settings(StageJob(stage, names), entry)}

"""Where documents of lm-eval tasks lie under `runtime.data_dir`: the file of one task and split, and all that may be read."""

from __future__ import annotations

import re
from pathlib import Path

from lorcbench.config.protocols import TaskConfig
from lorcbench.data import texts

_PLACES = r"\{(?:task|name|split)\}"
EXAMPLES = "shots"  # the folder of few-shot examples beside the documents that are scored


def patterns(task: TaskConfig, name: str, configuration: str | None, split: str, examples: bool = False) -> list[str]:
    """The patterns of one split of one lm-eval task.

    Args:
        name: lm-eval's name of the task.
        configuration: of the data set, as lm-eval's definition names it.
        examples: whether the split is wanted for few-shot examples.
    """
    values = {"{task}": name, "{name}": configuration or "default", "{split}": split}
    filled = [_beside(pattern) if examples and "{split}" not in pattern else pattern for pattern in task.local]
    return [re.sub(_PLACES, lambda place: values[place[0]], pattern) for pattern in filled]


def _beside(pattern: str) -> str:
    """The same pattern in the folder of few-shot examples."""
    path = Path(pattern)
    return str(path.parent / EXAMPLES / path.name)


def all_files(task: TaskConfig, data_dir: str | None) -> list[Path]:
    """Every file under `data_dir` that the task, or a task of the group, may be read from; lm-eval is not asked.

    Raises:
        ConfigError: several files match a pattern that names the documents of one task.
    """
    plain = [pattern for pattern in task.local if not re.search(_PLACES, pattern)]
    files = [path] if (path := texts.local_file(plain, data_dir)) else []
    wide = [re.sub(_PLACES, "*", pattern) for pattern in task.local if pattern not in plain]
    wide += [re.sub(_PLACES, "*", _beside(pattern)) for pattern in task.local if "{split}" not in pattern]
    for pattern in wide if data_dir else ():
        files += sorted(found for found in Path(data_dir).glob(pattern) if found.is_file())
    return list(dict.fromkeys(files))

"""Run a stage in forks of this process: once to its end, then killed at random moments until it gets to its end, several times.

``python killed.py SEED FOLDER PART STAGE [argument, …]`` with the arguments as JSON; FOLDER is what the stage makes, and is
removed between; PART is a file of which a kill must leave something there, twice at least. Prints, as JSON, the digests of what
the first run left, those of others that differ, and how often it was killed.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import random
import select
import shutil
import signal
import sys
import time
from pathlib import Path

KILLS = 6  # at least


def attempt(stage: str, arguments: list[str], seconds: float | None) -> int | None:
    """The exit code of a stage, or None if it was killed after some seconds."""
    from lorcbench.jobs.process import run

    child = os.fork()
    if child == 0:
        try:
            run(stage, arguments, importlib.import_module(f"lorcbench.stages.{stage}").main)
        except SystemExit as ending:
            os._exit(int(ending.code or 0))
        os._exit(0)
    ended = os.pidfd_open(child)
    if not select.select([ended], [], [], seconds)[0]:
        os.kill(child, signal.SIGKILL)
    os.close(ended)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return None if code == -signal.SIGKILL else code


def digests(folder: Path) -> dict[str, str]:
    """Of every file, but for the records of how the run went."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in ("run.json", "log.txt")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def main(seed: str, folder: str, part: str, stage: str, arguments: str) -> None:
    import torch
    import transformers

    from lorcbench.common import versions
    from lorcbench.jobs import inputs, sources, walks  # noqa: F401  imported once, for all forks
    from lorcbench.models import perplexity  # noqa: F401

    transformers.OPTForCausalLM  # noqa: B018  imported when it is first asked for
    torch.set_num_threads(1)
    versions.code_versions()
    made, overrides = Path(folder), json.loads(arguments)
    assert attempt(stage, overrides, None) == 0
    shutil.rmtree(made)
    started = time.monotonic()
    assert attempt(stage, overrides, None) == 0
    longest, expected = time.monotonic() - started, digests(made)
    shutil.rmtree(made)
    rng, kills, parts, others = random.Random(int(seed)), 0, 0, []
    while kills < KILLS or parts < 2:
        while (code := attempt(stage, overrides, rng.uniform(0.3, 1) * longest)) is None:
            kills += 1
            parts += (made / part).exists()
        assert code == 0
        others += [left] if (left := digests(made)) != expected else []
        shutil.rmtree(made)
    print(json.dumps({"kills": kills, "expected": expected, "others": others}))


if __name__ == "__main__":
    main(*sys.argv[1:])

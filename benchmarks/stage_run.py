"""Run one stage and say how long its work took, imports left out.

    python benchmarks/stage_run.py STAGE name=value …

The line that the workflow would run is ``python -m lorcbench.stages.STAGE name=value …``: this does the same, in the same
folder and with the same results. Modules are imported and the compiled sweep is loaded before the clock starts, as the peers'
are.
"""

from __future__ import annotations

import importlib
import sys

from common import report, timed


def main() -> None:
    """Import, run, report."""
    stage, *overrides = sys.argv[1:]
    module = importlib.import_module(f"lorcbench.stages.{stage}")
    if stage != "lorc":
        _load_engine()
    from lorcbench.jobs import job

    sys.argv = [stage, *overrides]
    measured = {}

    def work(one: job.Job) -> None:
        measured.update(timed(lambda: module.main(one)))

    job.run(stage, work)
    report(measured)


def _load_engine() -> None:
    import torch
    from transformers import OPTForCausalLM  # noqa: F401

    from lorcbench.core import gptq
    from lorcbench.core.formats import WeightFormat
    from lorcbench.models import blocks, observe, perplexity, surgery  # noqa: F401

    settings, identity = gptq.GptqSettings(), torch.eye(8)
    gptq.quantize(identity, gptq.prepare(identity, settings), WeightFormat.parse("w4-asym-row"), settings)


if __name__ == "__main__":
    main()

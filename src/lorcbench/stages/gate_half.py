"""Does the published model measure as printed in float16, too? The gate's tolerance, by the same protocol in half precision.

Nothing quantized is measured in float16 before this has passed. Whether checkpoint and text are the published ones is what the
gate in float32 asks; this one asks of the arithmetic: a number beyond float16's largest, or a kernel that sums in too few bits.
"""

from __future__ import annotations

from lorcbench.common.artifacts import read_json
from lorcbench.jobs.job import Job
from lorcbench.report.intervals import perplexity
from lorcbench.stages import run_by_old_name
from lorcbench.stages.gate import TOLERANCE, GateFailed
from lorcbench.study import published
from lorcbench.study.published import GATE_PROTOCOL
from lorcbench.study.stages import EVALUATE, GATE_HALF, GATE_PROTOCOL_HALF


def main(job: Job) -> None:
    """Compare every corpus."""
    job.at(GATE_HALF)
    evaluation = read_json(job.use(EVALUATE, protocol=GATE_PROTOCOL_HALF) / "result.json", EVALUATE.kind)
    losses = evaluation["variants"]["r0"]["nll"]
    printed = published.full_precision(job.names.model, GATE_PROTOCOL)
    found = {corpus: {"measured": perplexity(losses[corpus]), "published": ppl} for corpus, ppl in printed.items()}
    off = {corpus: values["measured"] / values["published"] - 1 for corpus, values in found.items()}
    wrong = [
        f"{corpus}: {found[corpus]['measured']:.2f} is {100 * share:+.1f} % from the published {found[corpus]['published']:.2f}"
        for corpus, share in off.items()
        if not abs(share) <= TOLERANCE
    ]
    if wrong:
        hint = f"measure in float32, study.eval={GATE_PROTOCOL}, or go on without the gate: study.gate=off"
        raise GateFailed(f"in float16 {'; '.join(wrong)}; {hint}")
    job.finish(job.identity({"tolerance": TOLERANCE}), {"corpora": found})


if __name__ == "__main__":
    run_by_old_name(__spec__.name)

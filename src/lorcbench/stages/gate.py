"""Is this checkpoint the published model, on the published text? Its full-precision perplexity must be the printed one.

A fixed protocol, whatever the study's: that of the published tables. Nothing is quantized before the gate has passed; a wrong
tokenizer, text or checkpoint shows here, before it shows as a method's loss.
"""

from __future__ import annotations

from lorcbench.common.artifacts import read_json
from lorcbench.jobs.job import Job
from lorcbench.report.intervals import perplexity
from lorcbench.stages import run_by_old_name
from lorcbench.study import published
from lorcbench.study.published import GATE_PROTOCOL
from lorcbench.study.stages import EVALUATE, GATE

TOLERANCE = 0.005  # of a perplexity: half precision and other kernels move one by less, another text by more


class GateFailed(Exception):
    """The checkpoint does not measure as printed; the message says on what, by how much, and what to do."""


def main(job: Job) -> None:
    """Compare every corpus."""
    job.at(GATE)
    # Of the unquantized model: the job was told neither a method nor a format.
    evaluation = read_json(job.use(EVALUATE, protocol=GATE_PROTOCOL) / "result.json", EVALUATE.kind)
    printed = published.full_precision(job.names.model, GATE_PROTOCOL)
    losses = evaluation["variants"]["r0"]["nll"]
    found = {corpus: {"measured": perplexity(losses[corpus]), "published": ppl} for corpus, ppl in printed.items()}
    wrong = [_problem(corpus, values, evaluation["corpora"][corpus]) for corpus, values in found.items()]
    if wrong := [problem for problem in wrong if problem]:
        raise GateFailed(f"{'; '.join(wrong)}; mend that, or go on without the gate: study.gate=off")
    job.finish(job.identity({"tolerance": TOLERANCE}), {"corpora": found})


def _problem(corpus: str, values: dict[str, float], text: dict) -> str | None:
    off = values["measured"] / values["published"] - 1
    if text["published"] is False:
        return f"{corpus}: {text['documents']:,} documents that are not the published text"
    if not abs(off) <= TOLERANCE:
        return f"{corpus}: {values['measured']:.2f} is {100 * off:+.1f} % from the published {values['published']:.2f}"
    return None


if __name__ == "__main__":
    run_by_old_name(__spec__.name)

"""The page as a whole: what was run, the headline, and the sections in their order."""

from __future__ import annotations

import re
from collections import Counter
from datetime import date
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from lorcbench import __version__
from lorcbench.common import paths
from lorcbench.report import budget, rounding, shared, tally
from lorcbench.report.comparison import Change
from lorcbench.report.devices import named, together
from lorcbench.report.figures import Figure
from lorcbench.report.findings import Findings
from lorcbench.report.page import advice, cells, evidence, jobs, take_away
from lorcbench.report.page.cells import SETTINGS, degraded, settings
from lorcbench.report.page.channels import massive
from lorcbench.report.page.corrections import kinds_of_correction
from lorcbench.report.page.drawings import drawn
from lorcbench.report.page.mixed import mixed_formats
from lorcbench.report.page.parts import chip, table, value
from lorcbench.report.page.rounding import against_rounding
from lorcbench.report.page.tasks import tasks
from lorcbench.report.recommend import fronts
from lorcbench.report.results import CellResult, commit_of
from lorcbench.report.results import jobs as files_of_jobs
from lorcbench.report.scorecard import counted
from lorcbench.report.summary import window_lines
from lorcbench.study.cells import Cell, Study
from lorcbench.study.published import PAPER, REPRODUCTION
from lorcbench.study.ranks import rank_lines, rank_share

STATUSES = ("ok", "failed", "not run")
SEVERITY = ("failed", "not run", "degraded")
FIRST = ("pareto", "fronts", "equal-bits")  # figures that stand beside what to use
_NORM_OR_BIAS = re.compile(r"\.bias$|norm|(^|\.)ln_")
NAMED = 6  # cells that an alert names before it refers to the table
LOCAL = "http://127.0.0.1:5000"  # where `make ui` serves MLflow
SCRIPTS = ("render", "jobs", "cells", "grid", "take_away")  # each beside the module that makes what it works on


def render(
    study: Study,
    results: list[CellResult],
    changes: dict[Cell, Change],
    findings: Findings,
    figures: list[Figure],
    folder: Path,
    stages: list[dict],
    imported: dict | None = None,
) -> str:
    """The page as text; equal inputs give equal text.

    Args:
        study: what was asked for.
        results: every cell of it, the failed and missing ones included; derived ones are marked as such.
        changes: what the finished cells lost to full precision.
        findings: what the results say.
        figures: of `lorcbench.report.figures.draw`.
        folder: where the page will lie: the figures are in ``figures/`` there, the tables beside it, and links to the jobs'
            files are relative to it.
        stages: what each stage took, of `lorcbench.report.results.stage_costs`.
        imported: what the track stage left (`lorcbench.report.tracking.store.track`) and its ``uri``; None if nothing was
            tracked.
    """
    measured = [result for result in results if not result.derived]
    sections = _sections(study, results, changes, findings, figures, folder)
    sections |= {
        ("stages", "What it took"): _stages(stages),
        ("files", "Where the numbers are"): _files(study, findings, imported),
    }
    sections = {name: body for name, body in sections.items() if body}
    use = advice.what_to_use(findings) + advice.by_model(measured, changes, findings.advice)
    nav = [*([("use", "What to use")] if use else []), *sections, ("reading", "How to read this")]
    job_files = files_of_jobs(results)
    return Template(_beside("render.html")).substitute(
        title=escape(study.config.title),
        style=_beside("render.css"),
        script="".join(_beside(f"{name}.js") for name in SCRIPTS),
        what=_what(study, measured),
        facts=_facts(measured),
        use=f'<section id="use"><h2>What to use</h2>{use}{_answers(figures, findings)}</section>' if use else "",
        headline=_headline(findings),
        mlflow=_mlflow(imported),
        alerts=_alerts(study, measured),
        nav="".join(f'<a href="#{anchor}">{escape(title)}</a>' for anchor, title in nav),
        sections="\n".join(
            f'<section id="{anchor}"><h2>{escape(title)}</h2>{body}</section>' for (anchor, title), body in sections.items()
        ),
        windows=_windows(measured),
        provenance=jobs.packed(results, job_files, folder),
        foot=_foot(study, job_files),
    )


def _sections(
    study: Study,
    results: list[CellResult],
    changes: dict[Cell, Change],
    findings: Findings,
    figures: list[Figure],
    folder: Path,
) -> dict[tuple[str, str], str]:
    """What the numbers say, section by section: anchor and title → body, "" where there is nothing to show."""
    measured = [result for result in results if not result.derived]
    shares = {result.cell: rank_share(study, result.cell) for result in results}
    first = "".join(drawn(figure, folder) for figure in figures if figure.stem in FIRST)
    return {
        ("sizes", "Quality and size"): first,
        ("take", "Take it away"): take_away.chosen(findings.choices),
        ("rounding", "Against rounding"): against_rounding(findings.rounding),
        ("corrections", "Kinds of correction"): kinds_of_correction(findings.corrections),
        ("mixed", "Mixed formats"): mixed_formats(findings.mixed),
        ("claims", "Claims"): evidence.claims(findings.verdicts),
        ("scorecard", "Beside the published numbers"): evidence.scorecard(
            findings.scorecard, findings.orderings, findings.beside
        ),
        ("seeds", "Spread over seeds"): evidence.spreads(findings.spreads),
        ("fingerprint", "Which conventions are the papers'?"): evidence.fingerprint(findings.candidates),
        ("massive", "Massive activations"): massive(measured, changes),
        ("figures", "Figures"): "".join(drawn(figure, folder) for figure in figures if figure.stem not in FIRST),
        ("cells", "All cells"): cells.all_cells(results, changes, fronts(measured), shares),
        ("tasks", "Tasks of lm-eval"): tasks(measured, changes),
    }


def _beside(name: str) -> str:
    """A file of this package."""
    return files("lorcbench.report.page").joinpath(name).read_text(encoding="utf-8")


def _answers(figures: list[Figure], findings: Findings) -> str:
    """What each figure shows, in a sentence that leads to it; without what stands above it already."""
    items = "".join(
        f'<li><a href="#figure-{figure.stem}">{escape(figure.title)}</a> {escape(figure.finding)}</li>'
        for figure in figures
        if figure.finding and figure.finding != findings.equal_bits
    )
    if compared := rounding.sentence(findings.rounding):
        items = f'<li><a href="#rounding">Is a method better than rounding?</a> {escape(compared)}</li>{items}'
    return f'<ul class="answers">{items}</ul>' if items else ""


def _foot(study: Study, job_files: dict[Path, dict]) -> str:
    """When the results were made, by which version and commit, and on what."""
    runs = [record["run"] for record in job_files.values() if record["run"]]
    parts = [f"Study <code>{escape(study.name)}</code>", f"LoRC Bench {escape(__version__)}"]
    if times := sorted(run["finished"] for run in runs if "finished" in run):
        parts.append(f"results of {_date(times[0])}" + (f" to {_date(times[-1])}" if times[0][:10] != times[-1][:10] else ""))
    if commits := dict.fromkeys(filter(None, (commit_of(run, 10) for run in runs))):
        parts.append(f"commit {' and '.join(f'<code>{escape(commit)}</code>' for commit in commits)}")
    if device := together(map(named, runs)):
        parts.append(f"computed on {escape(device)}")
    return f"<p>{'; '.join(parts)}.</p>"


def _date(time: str) -> str:
    """The day of a time, such as 27 November 2026."""
    day = date.fromisoformat(time[:10])
    return f"{day.day} {day:%B %Y}"


def _what(study: Study, results: list[CellResult]) -> str:
    """Study, protocol, settings and models, in one sentence."""
    origins = {result.cell.model: result.origin for result in results}
    models = [f"{model} ({origin})" if origin else model for model, origin in origins.items()]
    parts = [f"Study <code>{escape(study.name)}</code>", f"perplexity protocol <code>{escape(study.eval)}</code>"]
    for label, attribute in SETTINGS.items():
        if names := settings(results, attribute):
            parts.append(f"{label} {', '.join(f'<code>{escape(name)}</code>' for name in names)}")
    count = f"{len(models)} model{'' if len(models) == 1 else 's'}"
    return f"{', '.join(parts)}. {count}: {escape(', '.join(models))}. {_left(results)}"


def _left(results: list[CellResult]) -> str:
    """What no method quantizes, in one sentence; beside embeddings, head, norms and biases by name."""
    names = dict.fromkeys(name for result in results for name in result.full_precision)
    others = [name for name in names if not _NORM_OR_BIAS.search(name)]
    more = f", and {', '.join(f'<code>{escape(name)}</code>' for name in others)}" if others else ""
    return f"Left in full precision: embeddings, heads, norms and biases{more}."


def _facts(results: list[CellResult]) -> str:
    """How many cells there are, by status."""
    counts = Counter(result.status for result in results)
    facts = [(len(results), "cells"), *((counts[status], status) for status in STATUSES)]
    return "".join(f"<li><b>{count:,}</b><span>{escape(text)}</span></li>" for count, text in facts)


def _headline(findings: Findings) -> str:
    """How many claims and published numbers hold."""
    facts = []
    found = tally.claims(findings.verdicts)
    for ours, whose in ((False, "of the paper"), (True, "of ours")):
        holding, count = tally.counted(found, ours)
        if count:
            facts.append((f"{holding} of {count}", f"claims {whose} {tally.supported(found, ours)}"))
    agree, comparable = tally.as_printed(findings.verdicts)
    if comparable:
        facts.append((f"{agree} of {comparable}", "tests of claims as printed"))
    for sources, text in ((PAPER, "papers' numbers met"), (REPRODUCTION, "reproductions' numbers met")):
        if rows := counted(findings.scorecard, sources):
            facts.append((f"{sum(row.within for row in rows)} of {len(rows)}", text))
    return "".join(f"<li><b>{escape(figure)}</b><span>{escape(text)}</span></li>" for figure, text in facts)


def _mlflow(imported: dict | None) -> str:
    """Links to the study's pages in MLflow."""
    if imported is None:
        return ""
    served = imported["uri"].startswith("http")
    server = imported["uri"].rstrip("/") if served else LOCAL
    names = {"table": "table", "charts": "charts", "compare": "comparison"}
    links = ", ".join(f'<a href="{escape(server + imported["pages"][name])}">{text}</a>' for name, text in names.items())
    how = "" if served else ", once <code>make ui</code> runs (on port 5000; with another one, change it in the address)"
    return f'<p class="soft">In MLflow: {links}{how}.</p>'


def _alerts(study: Study, results: list[CellResult]) -> str:
    """What a reader must know before any number: stand-ins, failures, fallbacks, omissions."""
    alerts = []
    if standins := sorted({result.cell.model for result in results if result.standin}):
        every = len(standins) == len({result.cell.model for result in results})
        who = "All models here are" if every else f"{escape(', '.join(standins))}: these are"
        text = "small models that this pipeline trained itself. Their perplexities are no published model's"
        ranks = "".join(f"<li>{escape(line)}</li>" for line in rank_lines(study))
        alerts.append(f'<div class="box"><b>Stand-ins.</b> {who} stand-ins, {text}.{ranks and f"<ul>{ranks}</ul>"}</div>')
    if lines := [*study.given_lines(), *window_lines(study, results)]:
        items = "".join(f"<li>{escape(line)}</li>" for line in lines)
        alerts.append(f'<div class="box"><b>What is measured here.</b><ul>{items}</ul></div>')
    if planted := sorted({result.cell.model for result in results if result.planted}):
        text = (
            "outlier channels and dead inputs were put into it on purpose, to show what methods do about them. "
            "Its numbers are evidence for no claim of the paper"
        )
        alerts.append(f'<div class="box"><b>Planted.</b> {escape(", ".join(planted))}: {text}.</div>')
    alerts += _origins(results)
    corpora = {name: corpus for result in results for name, corpus in result.corpora.items()}
    if others := [
        f"{name} ({corpus['documents']:,} documents)" for name, corpus in corpora.items() if corpus["published"] is False
    ]:
        text = "not the published text: numbers on it compare within this study, and with no table in print"
        alerts.append(f'<div class="box"><b>Other text.</b> {escape(", ".join(others))}: {text}.</div>')
    groups: dict[tuple[str, str], list[str]] = {}
    for result in results:
        if result.status != "ok":
            groups.setdefault((result.status, result.reason), []).append(result.cell.key)
        elif reason := degraded(result):
            groups.setdefault(("degraded", f"more damping than configured: {reason}"), []).append(result.cell.key)
        if result.tasks_reason:
            groups.setdefault(("not run", f"no numbers of lm-eval: {result.tasks_reason}"), []).append(result.cell.key)
    if groups:
        items = "".join(
            f"<li>{chip(status)} {escape(reason)} <span class='note'>{_named(keys)}</span></li>"
            for (status, reason), keys in sorted(groups.items(), key=lambda item: SEVERITY.index(item[0][0]))
        )
        alerts.append(f'<div class="box bad"><b>Not everything went as planned.</b><ul>{items}</ul></div>')
    if study.not_applicable:
        pairs = "; ".join(f"{escape(fmt)} on {escape(model)}" for model, fmt in study.not_applicable)
        alerts.append(f'<p class="note">Left out, because groups do not divide the width: {pairs}.</p>')
    if study.too_large:
        limit = f"more weights than <code>study.max_params={study.config.max_params:g}</code>"
        alerts.append(f'<p class="note">Not run, because they have {limit}: {escape(", ".join(study.too_large))}.</p>')
    return "".join(alerts)


def _origins(results: list[CellResult]) -> list[str]:
    """What it means that models are dequantized GGUF files: one box per origin."""
    models: dict[str, set[str]] = {}
    for result in results:
        if result.origin:
            models.setdefault(result.origin, set()).add(result.cell.model)
    text = (
        "weights were rounded before they came here, and lie on that file's grid. What is called full precision is this file "
        "dequantized, not the published model; of formats with as many bits as the file the numbers say nothing"
    )
    return [
        f'<div class="box"><b>{escape(origin[0].upper() + origin[1:])}.</b> {escape(", ".join(sorted(names)))}: {text}.</div>'
        for origin, names in models.items()
    ]


def _named(keys: list[str]) -> str:
    """The keys of a few cells, and how many more there are."""
    rest = f" and {len(keys) - NAMED} more (see the table)" if len(keys) > NAMED else ""
    return ", ".join(f"<code>{escape(key)}</code>" for key in keys[:NAMED]) + rest


def _stages(stages: list[dict]) -> str:
    """One row per stage: jobs, seconds, memory, devices."""
    rows = "".join(
        f'<tr><th scope="row">{escape(stage["stage"])}</th>{value(stage["jobs"], "{:,}".format)}'
        f"{value(stage['seconds'], '{:,.1f}'.format)}{value(stage['peak_rss_mib'], '{:,.0f}'.format)}"
        f"<td>{escape(stage['device'])}</td></tr>"
        for stage in stages
    )
    heads = ["stage", "jobs", "seconds, all jobs", "peak MiB of one job", "device"]
    return table(heads, rows, "What each stage took", heads[1:4]) if stages else ""


def _files(study: Study, findings: Findings, imported: dict | None) -> str:
    """Links to the tables, and where the runs of MLflow are."""
    tables = {
        "cells.csv": "every perplexity of this page, one row per cell and corpus",
        "tasks.csv": "every metric of lm-eval, one row per cell and metric",
        "claims.json": "every verdict with its evidence",
    }
    if findings.scorecard:
        tables["scorecard.csv"] = "every published number beside ours, all sources in one row"
        tables["fingerprint.csv"] = "the conventions that the papers leave open, ranked"
    if findings.choices:
        tables[budget.TABLE] = "the cells on the fronts, each with the command that exports it"
    if findings.shared:
        tables[shared.TABLE] = "the recipes that are best for all models of a kind, by size"
    if findings.rounding:
        tables[rounding.TABLE] = "each method beside rounding to nearest in the same format"
    if findings.spreads:
        tables["seeds.csv"] = "how far each recipe moves with seeds"
    items = "".join(f'<li><a href="{name}"><code>{name}</code></a>: {text}</li>' for name, text in tables.items())
    store = f"<code>{escape(paths.MLFLOW)}</code>, which <code>make ui</code> shows"
    if imported and imported["uri"].startswith("http"):
        store = f"<code>{escape(imported['uri'])}</code>"
    experiment = imported["experiment"] if imported else study.name
    runs = f"<li>MLflow, experiment <code>{escape(experiment)}</code> in {store}: one run per cell</li>"
    return f"<ul>{items}{runs}</ul>"


def _windows(results: list[CellResult]) -> str:
    """How many windows of each corpus were measured."""
    of_corpora = next((result for result in results if result.nll), None)
    lengths = {name: about.get("window") for name, about in of_corpora.corpora.items()} if of_corpora else {}
    counts = ", ".join(
        f"{len(values)} windows of {corpus}" + (f", {lengths[corpus]:,} tokens each" if lengths.get(corpus) else "")
        for corpus, values in (of_corpora.nll if of_corpora else {}).items()
    )
    return f"Here: {escape(counts)}." if counts else ""

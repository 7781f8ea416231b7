"""The report page: one HTML file that refers to no network, so that it opens from disk and travels by mail."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Iterable
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np

from lorcbench import config, paths
from lorcbench.claims import VERDICTS, Verdict, full_precision, number, percent
from lorcbench.figures import Figure
from lorcbench.formats import WeightFormat
from lorcbench.intervals import Interval, mean_perplexity_difference, perplexity
from lorcbench.results import CellResult
from lorcbench.study import Cell, Study

STATUSES = ("ok", "failed", "not run")
SETTINGS = {"calibration": "calibration", "LoRC": "lorc"}  # named in the table only where a study has several
SEVERITY = ("failed", "not run", "degraded")
NAMED = 6  # cells that an alert names before it refers to the table
SYMBOLS = {"supported": "✓", "contradicted": "✗", "undecided": "?"}
MISSING = '<td class="num">–</td>'


def render(
    study: Study,
    results: list[CellResult],
    verdicts: list[Verdict],
    figures: list[Figure],
    folder: Path,
    stages: list[dict],
) -> str:
    """The page as text; equal inputs give equal text.

    Args:
        study: what was asked for.
        results: every cell of it, the failed and missing ones included.
        verdicts: of `lorcbench.claims.judge`.
        figures: of `lorcbench.figures.draw`; the page links to ``cells.csv`` beside itself.
        folder: where the SVG files of the figures lie.
        stages: how each stage went, ``{"stage", "jobs", "seconds", "peak_rss_mib"}``.
    """
    changes = _changes(results)
    sections = {
        ("best", "Best cell per bit width"): _best(results, changes),
        ("claims", "Claims"): _claims(verdicts),
        ("figures", "Figures"): "".join(_figure(figure, folder) for figure in figures),
        ("cells", "All cells"): _cells(results, changes),
        ("tasks", "Tasks of lm-eval"): _harness(results),
        ("stages", "What it took"): _stages(stages),
        ("files", "Where the numbers are"): _files(study),
    }
    shown = {name: body for name, body in sections.items() if body}
    nav = [*shown, ("reading", "How to read this")]
    template = Template(files("lorcbench").joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(study.config.title),
        what=_what(study, results),
        facts=_facts(results),
        alerts=_alerts(study, results),
        nav="".join(f'<a href="#{anchor}">{escape(title)}</a>' for anchor, title in nav),
        sections="\n".join(
            f'<section id="{anchor}"><h2>{escape(title)}</h2>{body}</section>' for (anchor, title), body in shown.items()
        ),
        windows=_windows(results),
    )


def degraded(result: CellResult) -> str:
    """How far a GPTQ cell's damping was raised above the configured one, or "" if that was enough."""
    if result.max_damp is None:
        return ""
    configured = config.load("method", result.cell.method).damp
    return f"damp {result.max_damp:g} > {configured:g}" if result.max_damp > configured else ""


def _changes(results: list[CellResult]) -> dict[Cell, Interval]:
    """The change of the mean perplexity of every finished quantized cell, as a share of full precision's."""
    baselines, changes = full_precision(results), {}
    for result in results:
        baseline = baselines.get(result.cell.model)
        if result.status == "ok" and baseline and result is not baseline:
            change = mean_perplexity_difference(result.nll, baseline.nll)
            share = (value / baseline.mean_ppl for value in (change.value, change.low, change.high))
            changes[result.cell] = Interval(*share)
    return changes


def _what(study: Study, results: list[CellResult]) -> str:
    models = list(dict.fromkeys(result.cell.model for result in results))
    parts = [f"Study <code>{escape(study.name)}</code>", f"perplexity protocol <code>{escape(study.eval)}</code>"]
    for label, attribute in SETTINGS.items():
        if names := _settings(results, attribute):
            parts.append(f"{label} {', '.join(f'<code>{escape(name)}</code>' for name in names)}")
    count = f"{len(models)} model{'' if len(models) == 1 else 's'}"
    return f"{', '.join(parts)}. {count}: {escape(', '.join(models))}."


def _settings(results: list[CellResult], attribute: str) -> list[str]:
    """The names that the cells have for a setting, in their order."""
    return [name for name in dict.fromkeys(getattr(result.cell, attribute) for result in results) if name != "none"]


def _facts(results: list[CellResult]) -> str:
    counts = Counter(result.status for result in results)
    facts = [(len(results), "cells"), *((counts[status], status) for status in STATUSES)]
    return "".join(f"<li><b>{count:,}</b><span>{escape(text)}</span></li>" for count, text in facts)


def _alerts(study: Study, results: list[CellResult]) -> str:
    """What a reader must know before any number: stand-ins, failures, fallbacks, omissions."""
    alerts = []
    if standins := sorted({result.cell.model for result in results if result.standin}):
        every = len(standins) == len({result.cell.model for result in results})
        who = "All models here are" if every else f"{escape(', '.join(standins))}: these are"
        text = "small models that this pipeline trained itself. Their perplexities are no published model's"
        alerts.append(f'<div class="box"><b>Stand-ins.</b> {who} stand-ins, {text}.</div>')
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
    if groups:
        items = "".join(
            f"<li>{_chip(status)} {escape(reason)} <span class='note'>{_named(keys)}</span></li>"
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


def _named(keys: list[str]) -> str:
    rest = f" and {len(keys) - NAMED} more (see the table)" if len(keys) > NAMED else ""
    return ", ".join(f"<code>{escape(key)}</code>" for key in keys[:NAMED]) + rest


def _best(results: list[CellResult], changes: dict[Cell, Interval]) -> str:
    """Per weight bits and activation bits, the cell of lowest mean perplexity of each model."""
    best: dict[tuple[int, str], dict[str, CellResult]] = {}
    for result in results:
        if result.status == "ok" and np.isfinite(result.mean_ppl):
            row = best.setdefault((WeightFormat.parse(result.cell.weight).bits, result.cell.activation), {})
            current = row.get(result.cell.model)
            if current is None or result.mean_ppl < current.mean_ppl:
                row[result.cell.model] = result
    if not best:
        return ""
    models = list(dict.fromkeys(model for row in best.values() for model in row))
    lines = []
    for (bits, activation), row in sorted(best.items(), key=lambda item: (-item[0][0], item[0][1])):
        cells = "".join(_best_cell(row[model], changes) if model in row else "<td>–</td>" for model in models)
        lines.append(f"<tr><th>{f'W{bits}'}<small class='soft'> {escape(activation)}</small></th>{cells}</tr>")
    note = "The lowest mean perplexity at each bit width of the codes, whatever the size of scales and factors."
    return f'<p class="note">{note}</p>' + _table(["", *models], "".join(lines))


def _best_cell(result: CellResult, changes: dict[Cell, Interval]) -> str:
    cell, change = result.cell, changes.get(result.cell)
    rise = f" <span class='interval'>{percent(change.value)}</span>" if change else ""
    size = f"{result.bits_per_weight:.2f} bits a weight" if result.bits_per_weight else ""
    recipe = "full precision" if cell.method == "none" else f"{cell.method} {cell.weight} r{cell.rank}"
    return f"<td><b>{number(result.mean_ppl)}</b>{rise}<small>{escape(recipe)}</small><small>{size}</small></td>"


def _claims(verdicts: list[Verdict]) -> str:
    """Claims with the count of their verdicts; the evidence unfolds."""
    blocks = []
    for claim in dict.fromkeys(verdict.claim for verdict in verdicts):
        members = [verdict for verdict in verdicts if verdict.claim == claim]
        counts = Counter(member.verdict for member in members)
        chips = " ".join(_chip(name, f"{counts[name]} {name}") for name in VERDICTS if counts[name])
        rows = "".join(
            f"<tr><td><code>{escape(member.scope)}</code></td><td>{_chip(member.verdict)}</td>"
            f"<td>{escape(member.evidence)}</td></tr>"
            for member in members
        )
        blocks.append(
            f"<details><summary><span>{escape(claim)}</span>{chips}</summary><table><tbody>{rows}</tbody></table></details>"
        )
    note = "Each claim is tested wherever the study has the cells for it. Unfold one for its evidence."
    return f'<p class="note">{note}</p><div class="scroll">{"".join(blocks)}</div>' if blocks else ""


def _figure(figure: Figure, folder: Path) -> str:
    # As a data URI an SVG stays sharp and shares no ids or styles with the page.
    image = base64.b64encode((folder / f"{figure.stem}.svg").read_bytes()).decode()
    return (
        f'<figure><img alt="{escape(figure.title)}" src="data:image/svg+xml;base64,{image}">'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
    )


def _cells(results: list[CellResult], changes: dict[Cell, Interval]) -> str:
    corpora = list(dict.fromkeys(corpus for result in results for corpus in result.nll))
    text = ["model", "method", "weight", "activation", "LoRC", "status"]
    numbers = [*corpora, "mean PPL", "ΔPPL in %", "bits a weight", "seconds", "peak MiB"]
    heads = [f"<th><button>{escape(name)}</button></th>" for name in text]
    heads += [f'<th class="num"><button>{escape(name)}</button></th>' for name in numbers]
    several = [attribute for attribute in SETTINGS.values() if len(_settings(results, attribute)) > 1]
    rows = "".join(
        f'<tr class="{_class(result.status)}">{_names(result, several)}'
        + (_numbers(result, corpora, changes) if result.status == "ok" else _reason(result, len(numbers)))
        + "</tr>"
        for result in results
    )
    return (
        '<p class="note">ΔPPL is the change of the mean PPL to full precision with its 95 % interval. Click a heading '
        'to sort.</p><div class="filter"><input type="search" data-table="cell-table" aria-label="Filter cells" '
        'placeholder="Filter, for example: opt w2 gptq"><output class="soft"></output></div>'
        f'<div class="scroll"><table class="sortable" id="cell-table"><thead><tr>{"".join(heads)}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _names(result: CellResult, several: list[str]) -> str:
    """The cells of a row that say which cell it is and how it went."""
    cell, status = result.cell, _chip(result.status)
    names = {name: getattr(cell, name) for name in several}
    small = {name: f"<small>{escape(value)}</small>" for name, value in names.items() if value != "none"}
    if reason := degraded(result):
        status = f"{_chip('degraded')}<small>{escape(reason)}</small>"
    return (
        f"<td>{escape(cell.model)}</td><td>{escape(cell.method)}{small.get('calibration', '')}</td>"
        f"<td>{escape(cell.weight)}</td><td>{escape(cell.activation)}</td><td>r{cell.rank}{small.get('lorc', '')}</td>"
        f"<td>{status}</td>"
    )


def _numbers(result: CellResult, corpora: list[str], changes: dict[Cell, Interval]) -> str:
    ppls = (perplexity(result.nll[corpus]) if corpus in result.nll else None for corpus in corpora)
    return (
        "".join(_value(ppl, number) for ppl in ppls)
        + _value(result.mean_ppl, number)
        + _change(changes.get(result.cell))
        + _value(result.bits_per_weight, "{:.2f}".format)
        + _value(result.seconds, "{:,.1f}".format)
        + _value(result.peak_rss_mib, "{:,.0f}".format)
    )


def _reason(result: CellResult, columns: int) -> str:
    return f'<td class="wrap" colspan="{columns}">{escape(result.reason)}</td>'


def _value(value: float | None, spell: Callable[[float], str]) -> str:
    return MISSING if value is None else f'<td class="num" data-v="{value!r}">{escape(spell(value))}</td>'


def _change(change: Interval | None) -> str:
    if change is None:
        return MISSING
    value, low, high = (percent(share, 2).removesuffix(" %") for share in (change.value, change.low, change.high))
    return f'<td class="num" data-v="{change.value!r}">{value} <span class="interval">[{low}, {high}]</span></td>'


def _harness(results: list[CellResult]) -> str:
    """lm-eval's metrics with its standard errors, and what they lost to full precision."""
    measured = [result for result in results if result.harness]
    if not measured:
        return ""
    baselines = {result.cell.model: result.harness for result in results if result.cell.method == "none"}
    metrics = sorted({name for result in measured for name in result.harness if not name.endswith("_stderr")})
    rows = "".join(
        f"<tr><td><code>{escape(result.cell.key)}</code></td>"
        + "".join(_task(result, metric, baselines.get(result.cell.model, {}).get(metric)) for metric in metrics)
        + "</tr>"
        for result in measured
    )
    tasks = {name: task for result in measured for name, task in result.tasks.items()}
    versions = [f"{name} {task['version']} ({task['documents']:,} documents)" for name, task in tasks.items()]
    prefixes = {f"{result.prefix_token} for {result.cell.model}" for result in measured if result.prefix_token}
    note = "A value ± lm-eval's standard error where it gives one; below it, the difference to full precision."
    note += f" Versions: {', '.join(versions)}." if versions else ""
    note += f" Before a text without context: {', '.join(sorted(prefixes))}." if prefixes else ""
    return f'<p class="note">{escape(note)}</p>' + _table(["cell", *metrics], rows, numeric=metrics)


def _task(result: CellResult, metric: str, baseline: float | None) -> str:
    value, error = result.harness.get(metric), result.harness.get(f"{metric}_stderr")
    if value is None:
        return MISSING
    spread = f' <span class="interval">± {error:.4f}</span>' if error is not None else ""
    change = f"<small>{value - baseline:+.4f}</small>" if baseline is not None and result.cell.method != "none" else ""
    return f'<td class="num" data-v="{value!r}">{value:.4f}{spread}{change}</td>'


def _stages(stages: list[dict]) -> str:
    rows = "".join(
        f"<tr><td>{escape(stage['stage'])}</td>{_value(stage['jobs'], '{:,}'.format)}"
        f"{_value(stage['seconds'], '{:,.1f}'.format)}{_value(stage['peak_rss_mib'], '{:,.0f}'.format)}</tr>"
        for stage in stages
    )
    heads = ["stage", "jobs", "seconds, all jobs", "peak MiB of one job"]
    return _table(heads, rows, numeric=heads[1:]) if stages else ""


def _files(study: Study) -> str:
    return (
        '<p>Every perplexity of this page: <a href="cells.csv"><code>cells.csv</code></a>, a row a cell and corpus.</p>'
        "<p>Every metric of lm-eval: <code>tasks.csv</code>, a row a cell and metric.</p>"
        f"<p>Runs in MLflow, experiment <code>{escape(study.name)}</code>; if no server was configured, see them with "
        f"<code>mlflow ui --backend-store-uri sqlite:///{escape(paths.MLFLOW)}</code></p>"
    )


def _windows(results: list[CellResult]) -> str:
    nll = next((result.nll for result in results if result.nll), {})
    counts = ", ".join(f"{len(values)} windows of {corpus}" for corpus, values in nll.items())
    return f"Here: {escape(counts)}." if counts else ""


def _table(heads: list[str], rows: str, numeric: Iterable[str] = ()) -> str:
    cells = "".join(f"<th{' class=num' if head in numeric else ''}>{escape(head)}</th>" for head in heads)
    return f'<div class="scroll fit"><table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div>'


def _chip(name: str, text: str = "") -> str:
    symbol = f"{SYMBOLS[name]} " if name in SYMBOLS else ""
    return f'<span class="chip {_class(name)}">{symbol}{escape(text or name)}</span>'


def _class(name: str) -> str:
    return name.replace(" ", "-")

"""The error matrices E = W - Ŵ that LoRC decomposes: how large they are over the depth of a model, and their spectra.

Factors that know the inputs decompose E R^½, with R of the inputs (`lorcbench.core.lorc`), so theirs is another spectrum.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib import figure as mpl_figure
from matplotlib.ticker import MaxNLocator

from lorcbench.common.artifacts import read_json
from lorcbench.config.lorc import WEIGHTED
from lorcbench.config.paired import PAIRED
from lorcbench.config.variants import Variant
from lorcbench.report.equal_bits import PLAIN, kind_of, kinds
from lorcbench.report.figures.style import (
    GREY,
    Figure,
    Looks,
    axis_labels,
    canvas,
    format_of,
    log_axis,
    row_title,
    save,
    unique,
)
from lorcbench.report.results import CellResult
from lorcbench.study.cells import Cell

ABOUT = "Error matrices E = W − Ŵ of the linears, before any compensation"


@dataclass(frozen=True)
class _Errors:
    """What the factors of one quantized model say, block by block.

    Attributes:
        relative: ‖E‖ / ‖W‖ of each linear.
        spectra: the largest singular values of each matrix that was decomposed, divided by its norm: of E, or of E R^½ if the
            factors know the inputs.
        dead: of linears that have inputs without a single value, how many, and the share of ‖E‖² in their columns.
    """

    result: CellResult
    relative: list[dict[str, float]]
    spectra: list[dict[str, np.ndarray]]
    dead: list[dict[str, dict]]

    @property
    def kind(self) -> str:
        """The kind of LoRC that the factors are of."""
        return kind_of(self.result.cell)


def draw_depth(results: list[CellResult], folder: Path) -> Figure | None:
    """‖E‖ / ‖W‖ over the blocks: one row of panels per model, one panel per linear."""
    of_models = _fewest_bits(results)
    if not of_models:
        return None

    def show(ax, errors: _Errors, name: str, colour: str, dash, mark: str) -> None:
        values = [block[name] for block in errors.relative if name in block]
        ax.plot(range(len(values)), values, color=colour, ls=dash, marker=mark, markevery=-(-len(values) // 16), ms=4)

    title = "Where in the model is the error?"
    fig, axes = _panels(of_models, results, title, lambda errors: errors.relative, show)
    axes[0, 0].xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis_labels(fig, "decoder block", "‖W − Ŵ‖ ÷ ‖W‖")
    caption = (
        "Relative error of the weights of each linear over the depth of the model, at the fewest bits that LoRC was run with, "
        "before the compensation. The error of the weights is not that of the outputs, which is what GPTQ makes small."
    )
    return save(fig, folder, Figure("errors", title, caption, _largest(of_models)))


def draw_spectra(results: list[CellResult], folder: Path) -> Figure | None:
    """Singular values of E: one row of panels per model, one panel per linear."""
    of_models = [errors for errors in _fewest_bits(results, _ends(results)) if any(errors.spectra)]
    if not of_models:
        return None

    def show(ax, errors: _Errors, name: str, colour: str, dash, mark: str) -> None:
        values = np.mean([block[name] for block in errors.spectra if name in block], axis=0)
        marked = [place - 1 for place in (1, 4, 16, 64, 256, 1024) if place <= len(values)]  # equal steps of the axis
        ax.plot(np.arange(1, len(values) + 1), values, color=colour, ls=dash, marker=mark, markevery=marked, ms=4)

    title = "How much of the error is of low rank?"
    several = len({errors.kind for errors in of_models}) > 1

    def stroke(errors: _Errors) -> str:
        return f"{format_of(errors.result)} {errors.kind}" if several else format_of(errors.result)

    fig, axes = _panels(of_models, results, title, lambda errors: errors.spectra, show, stroke)
    axes[0, 0].set_xscale("log")
    log_axis(axes[0, 0].xaxis, narrow=True)
    for row in axes:
        row[0].set_yscale("log")
        log_axis(row[0].yaxis)
    weighted = [kind for kind in unique(errors.kind for errors in of_models) if kind in WEIGHTED]
    axis_labels(fig, "component", "singular value ÷ norm" if weighted else "singular value ÷ ‖E‖")
    matrices = "E = W − Ŵ"
    if weighted:
        matrices += f" ({' and '.join(weighted)}: of E R^½, what the error does to the outputs, with R of the inputs)"
    caption = (
        f"The largest singular values of {matrices}, divided by its Frobenius norm, so that the squares of all of them sum to "
        f"one; mean over the blocks. A flat line gives LoRC little to take. {_dead(of_models)}"
    )
    return save(fig, folder, Figure("spectra", title, caption.strip(), _captured(of_models)))


def _ends(results: list[CellResult]) -> list[str]:
    """The kinds whose spectra are shown: those that know least and most of the inputs; the others lie between."""
    present = kinds(result.cell for result in results)
    of_error = [kind for kind in present if kind in (PLAIN, "distilled")][:1]  # both begin with the same matrix
    return of_error + [kind for kind in present if kind in WEIGHTED][-1:]


def _fewest_bits(results: list[CellResult], shown: Collection[str] = ()) -> list[_Errors]:
    """The errors of each quantized model at the fewest bits that have factors, each once whatever its ranks.

    Args:
        shown: the kinds of LoRC whose factors are read, each once; () reads the first of any kind.
    """
    corrected = [result for result in results if result.cell.rank and result.status == "ok" and "factors" in result.folders]
    # Where codes are made for a correction, what is left of W without it is no error.
    corrected = [result for result in corrected if kind_of(result.cell) not in PAIRED]
    fewest: dict[str, int] = {}
    for result in corrected:
        cell = result.cell
        fewest[cell.model] = min(cell.weight_format.bits, fewest.get(cell.model, 16))
    of_models: dict[Cell, _Errors] = {}
    for result in corrected:
        cell = result.cell
        kind = kind_of(cell)
        path = result.folders["factors"] / "result.json"
        key = replace(cell.uncorrected, activation="a16", lorc=kind if shown else "none")
        asked = not shown or (kind in shown and not Variant.parse(cell.lorc).setting("inputs"))
        if asked and cell.weight_format.bits == fewest[cell.model] and key not in of_models and path.is_file():
            of_models[key] = _read(result, path)
    return list(of_models.values())


def _read(result: CellResult, path: Path) -> _Errors:
    """The errors of a quantized model from the result of its factors."""
    factors = read_json(path, "factors")
    # Factors that an earlier version made hold no spectra.
    blocks = zip(factors.get("singular_values", []), factors.get("error_norm", []), strict=True)
    spectra = [{name: np.array(values) / (norms[name] or 1) for name, values in block.items()} for block, norms in blocks]
    return _Errors(result, factors["relative_error"], spectra, factors.get("dead_inputs", []))


def _panels(
    of_models: list[_Errors],
    results: list[CellResult],
    title: str,
    blocks: Callable[[_Errors], list[dict]],
    show: Callable,
    stroke: Callable[[_Errors], str] = lambda errors: format_of(errors.result),
) -> tuple[mpl_figure.Figure, np.ndarray]:
    """One row of panels per model, one panel per linear, one line per quantized model.

    Args:
        of_models: what is shown.
        results: of the whole study.
        blocks: what is shown of a quantized model: of each block, by the linear's name.
        show: draws one line: axes, errors, name of the linear, colour, dash, mark.
        stroke: what the dashes tell apart.
    """
    looks = Looks((errors.result.cell.method for errors in of_models), map(stroke, of_models))
    models = unique(errors.result.cell.model for errors in of_models)
    of_model = {model: [errors for errors in of_models if errors.result.cell.model == model] for model in models}
    names = {model: _linears(block for errors in of_model[model] for block in blocks(errors)) for model in models}
    shape = len(models), max(map(len, names.values()))
    fig, axes = canvas(shape, 1.5, title, results, looks.methods + looks.formats, share="row", about=ABOUT)
    for row, model in zip(axes, models, strict=True):
        row_title(row[0], f"{model}, {of_model[model][0].result.cell.weight_format.bits} bits")
        for ax, name in zip(row, names[model], strict=False):
            ax.set_title(name.rpartition(".")[2], fontweight="normal", color=GREY, fontsize=9)
            for errors in of_model[model]:
                if any(name in block for block in blocks(errors)):
                    colour, mark = looks.of(errors.result.cell.method)
                    show(ax, errors, name, colour, looks.dashes[stroke(errors)], mark)
        for ax in row[len(names[model]) :]:
            ax.set_visible(False)
    return fig, axes


def _linears(blocks: Iterable[dict]) -> list[str]:
    """The names of the linears, those of the attention first."""
    return sorted({name for block in blocks for name in block}, key=lambda name: ("att" not in name, name))


def _largest(of_models: list[_Errors]) -> str:
    """Which linear has the smallest relative error and which the largest."""
    means: dict[str, dict[str, list[float]]] = {}
    for errors in of_models:
        for block in errors.relative:
            for name, value in block.items():
                means.setdefault(errors.result.cell.method, {}).setdefault(name.rpartition(".")[2], []).append(value)
    ranked = sorted((float(np.mean(values)), name, method) for method, of in means.items() for name, values in of.items())
    (low, least, by), (high, most, other) = ranked[0], ranked[-1]
    return (
        f"The relative error of a linear's weights, mean over the blocks, is from {low:.2f} ({least} with {by}) to {high:.2f} "
        f"({most} with {other})."
    )


def _captured(of_models: list[_Errors]) -> str:
    """How much of the error the first eight components hold, for the caption."""
    shares: dict[str, dict[str, list[float]]] = {}  # matrix → method → of each linear
    for errors in of_models:
        of_matrix = shares.setdefault("‖E R^½‖²" if errors.kind in WEIGHTED else "‖E‖²", {})
        for block in errors.spectra:
            for values in block.values():
                of_matrix.setdefault(errors.result.cell.method, []).append(float((values[:8] ** 2).sum()))
    spelled = []
    for matrix, of_methods in shares.items():
        ranked = sorted((float(np.mean(values)), method) for method, values in of_methods.items())
        ends = [f"{100 * share:.0f} % of {matrix} with {method}" for share, method in dict.fromkeys([ranked[0], ranked[-1]])]
        spelled.append(" to ".join(ends))
    return f"The first 8 components hold {', '.join(spelled)}."


def _dead(of_models: list[_Errors]) -> str:
    """How many inputs were zero in calibration, whose columns of E have whole weights after GPTQ; for the caption."""
    spelled = []
    for errors in of_models:
        if noted := [linear for block in errors.dead for linear in block.values()]:
            count, share = sum(linear["count"] for linear in noted), max(linear["error_share"] for linear in noted)
            cell = errors.result.cell
            spelled.append(f"{cell.model} with {cell.method} {count:,}, up to {100 * share:.0f} % of ‖E‖² of a linear")
    return (
        f"Inputs that were zero in calibration, whose columns of E hold whole weights: {'; '.join(spelled)}." if spelled else ""
    )

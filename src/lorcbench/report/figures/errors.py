"""The error matrices E = W - Ŵ that LoRC decomposes: how large they are over the depth of a model, and their spectra."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import figure as mpl_figure
from matplotlib.ticker import MaxNLocator

from lorcbench.common.artifacts import read_json
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
    weight_of,
)
from lorcbench.report.results import CellResult

ABOUT = "Error matrices E = W − Ŵ of the linears, before any compensation"


@dataclass(frozen=True)
class _Errors:
    """What the factors of one quantized model say, block by block.

    Attributes:
        relative: ‖E‖ / ‖W‖ of each linear.
        spectra: the largest singular values of each matrix that was decomposed, divided by ‖E‖.
    """

    result: CellResult
    relative: list[dict[str, float]]
    spectra: list[dict[str, np.ndarray]]


def draw_depth(results: list[CellResult], folder: Path) -> Figure | None:
    """‖E‖ / ‖W‖ over the blocks, a row of panels a model, a panel a linear."""
    found = _fewest_bits(results)
    if not found:
        return None

    def show(ax, errors: _Errors, name: str, colour: str, dash, mark: str) -> None:
        values = [block[name] for block in errors.relative if name in block]
        ax.plot(range(len(values)), values, color=colour, ls=dash, marker=mark if len(values) < 16 else "", ms=4)

    title = "Where in the model is the error?"
    fig, axes = _panels(found, results, title, lambda errors: errors.relative, show)
    axes[0, 0].xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis_labels(fig, "decoder block", "‖W − Ŵ‖ ÷ ‖W‖")
    caption = (
        "Relative error of the weights of each linear over the depth of the model, at the fewest bits that LoRC was run with, "
        "before the compensation. The error of the weights is not that of the outputs, which is what GPTQ makes small."
    )
    return save(fig, folder, Figure("errors", title, caption))


def draw_spectra(results: list[CellResult], folder: Path) -> Figure | None:
    """Singular values of E, a row of panels a model, a panel a linear."""
    found = [errors for errors in _fewest_bits(results) if any(errors.spectra)]
    if not found:
        return None

    def show(ax, errors: _Errors, name: str, colour: str, dash, mark: str) -> None:
        values = np.mean([block[name] for block in errors.spectra if name in block], axis=0)
        ax.plot(np.arange(1, len(values) + 1), values, color=colour, ls=dash)

    title = "How much of the error is of low rank?"
    fig, axes = _panels(found, results, title, lambda errors: errors.spectra, show)
    axes[0, 0].set_xscale("log")
    log_axis(axes[0, 0].xaxis, narrow=True)
    for row in axes:
        row[0].set_yscale("log")
        log_axis(row[0].yaxis)
    axis_labels(fig, "component", "singular value ÷ ‖E‖")
    caption = (
        "The largest singular values of E = W − Ŵ, divided by its Frobenius norm, of which the squares of all sum to one; mean "
        "over the blocks. "
        f"A flat line gives LoRC little to take. {_captured(found)}"
    )
    return save(fig, folder, Figure("spectra", title, caption.strip()))


def _fewest_bits(results: list[CellResult]) -> list[_Errors]:
    """The errors of each quantized model at the fewest bits that have factors, each once whatever its ranks."""
    corrected = [result for result in results if result.cell.rank and "factors" in result.folders]
    fewest: dict[str, int] = {}
    for result in corrected:
        fewest[result.cell.model] = min(weight_of(result).bits, fewest.get(result.cell.model, 16))
    found: dict[tuple, _Errors] = {}
    for result in corrected:
        cell, path = result.cell, result.folders["factors"] / "result.json"
        key = (cell.model, cell.method, cell.calibration, cell.weight, cell.trained)
        if weight_of(result).bits == fewest[cell.model] and key not in found and path.is_file():
            factors = read_json(path, "factors")
            # Factors that an earlier version made hold no spectra.
            blocks = zip(factors.get("singular_values", []), factors.get("error_norm", []), strict=True)
            spectra = [{name: np.array(values) / (norms[name] or 1) for name, values in of.items()} for of, norms in blocks]
            found[key] = _Errors(result, factors["relative_error"], spectra)
    return list(found.values())


def _panels(
    found: list[_Errors], results: list[CellResult], title: str, blocks: Callable[[_Errors], list[dict]], show: Callable
) -> tuple[mpl_figure.Figure, np.ndarray]:
    """A row of panels a model, a panel a linear, a line a quantized model."""
    looks = Looks((errors.result.cell.method for errors in found), (format_of(errors.result) for errors in found))
    models = unique(errors.result.cell.model for errors in found)
    names = {
        model: sorted(
            {name for errors in found if errors.result.cell.model == model for block in blocks(errors) for name in block},
            key=lambda name: ("att" not in name, name),  # attention first
        )
        for model in models
    }
    shape = len(models), max(map(len, names.values()))
    fig, axes = canvas(shape, 1.5, title, results, looks.methods + looks.formats, share="row", about=ABOUT)
    for row, model in zip(axes, models, strict=True):
        of_model = [errors for errors in found if errors.result.cell.model == model]
        row_title(row[0], f"{model}, {weight_of(of_model[0].result).bits} bits")
        for ax, name in zip(row, names[model], strict=False):
            ax.set_title(name.rpartition(".")[2], fontweight="normal", color=GREY, fontsize=9)
            for errors in of_model:
                if any(name in block for block in blocks(errors)):
                    dash, mark = looks.strokes[format_of(errors.result)]
                    show(ax, errors, name, looks.colours[errors.result.cell.method], dash, mark)
        for ax in row[len(names[model]) :]:
            ax.set_visible(False)
    return fig, axes


def _captured(found: list[_Errors]) -> str:
    """How much of the error the first eight components hold, for the caption."""
    shares: dict[str, list[float]] = {}
    for errors in found:
        for block in errors.spectra:
            for values in block.values():
                shares.setdefault(errors.result.cell.method, []).append(float((values[:8] ** 2).sum()))
    spelled = [f"{100 * np.mean(share):.0f} % of ‖E‖² with {method}" for method, share in shares.items()]
    return f"The first 8 components hold {', '.join(spelled)}."

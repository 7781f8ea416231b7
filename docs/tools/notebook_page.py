"""A notebook as a page of the site, and its code, without Jupyter: a notebook is JSON."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import sys
from pathlib import Path


def cells(path: Path) -> list[dict]:
    """The cells of a notebook; ``source`` is one text."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return [cell | {"source": "".join(cell["source"])} for cell in content["cells"]]


def as_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown with the outputs that are stored in it, and its pictures by their file names."""
    parts, pictures = [], {}
    for cell in cells(path):
        if cell["cell_type"] == "markdown":
            parts.append(cell["source"])
            continue
        parts.append(f"```python\n{cell['source']}\n```")
        for output in cell["outputs"]:
            if output["output_type"] == "stream":
                parts.append(f"```text\n{''.join(output['text']).rstrip()}\n```")
            else:
                name = f"{path.stem}-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(output["data"]["image/png"])
                parts.append(f"![{output['metadata']['alt']}]({name})")
    return "\n\n".join(parts) + "\n", pictures


def run(source: str, names: dict) -> str:
    """Run the code of a cell; what it printed.

    Args:
        names: the variables of the notebook, read and changed.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, "<cell>", "exec"), names)  # the code is a committed file of ours
    return printed.getvalue()


def execute(path: Path) -> None:
    """Run a notebook in the working folder and store its outputs: what each cell prints, and the figure that it leaves."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    content = json.loads(path.read_text(encoding="utf-8"))
    names: dict = {}
    for cell in content["cells"]:
        if cell["cell_type"] != "code":
            continue
        printed = run("".join(cell["source"]), names)
        cell["outputs"] = []
        if printed:
            cell["outputs"].append({"output_type": "stream", "name": "stdout", "text": printed.splitlines(keepends=True)})
        for number in pyplot.get_fignums():
            figure, picture = pyplot.figure(number), io.BytesIO()
            figure.savefig(picture, dpi=110, metadata={"Software": None})
            data = {"image/png": base64.b64encode(picture.getvalue()).decode()}
            alt = figure.get_suptitle()
            cell["outputs"].append({"output_type": "display_data", "data": data, "metadata": {"alt": alt}})
        pyplot.close("all")
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":  # in a folder with results/demo: python docs/tools/notebook_page.py docs/results.ipynb
    execute(Path(sys.argv[1]))

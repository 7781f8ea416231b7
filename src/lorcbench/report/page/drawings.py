"""A figure of the study on the page: its drawing, what it shows in a sentence, its caption, and links to its files."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from lorcbench.report.figures import Figure
from lorcbench.report.page.parts import region


def drawn(figure: Figure, folder: Path) -> str:
    """A figure with what it shows, its caption, and links to its files and to those with further models."""
    shown, *further = figure.files
    # As a data URI an SVG stays sharp and shares no ids or styles with the page.
    image = _uri((folder / "figures" / f"{shown}.svg").read_text(encoding="utf-8"))
    finding = f"<b>{escape(figure.finding)}</b> " if figure.finding else ""
    more = f" Further models: {', '.join(_links(file) for file in further)}." if further else ""
    picture = f'<img alt="{escape(figure.finding or figure.title)}" src="data:image/svg+xml,{image}">'
    return (
        f'<figure id="figure-{figure.stem}">{region(picture, figure.title)}'
        f"<figcaption>{finding}{escape(figure.caption)} {_links(shown)}.{more}</figcaption></figure>"
    )


def _uri(svg: str) -> str:
    """A drawing as the rest of a data URI, without what nobody sees: comments, line ends, and digits below a hundredth."""
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    text = re.sub(r"\s+", " ", text).replace("> <", "><")
    text = re.sub(r' id="[a-zA-Z.]+[0-9]*_[0-9]+"', "", text)  # of groups, which nothing refers to
    parts = re.split(r'( (?:x|y|d)="[^"]*")', text)
    parts[1::2] = [re.sub(r"(\.\d\d)\d+", r"\1", part) for part in parts[1::2]]
    encoded = "".join(parts).replace('"', "'").replace("%", "%25").replace("#", "%23").replace("http:", "http%3A")
    return encoded.replace("&", "&amp;")  # all that has to be escaped between double quotes, of which there are none left


def _links(file: str) -> str:
    """Links to a drawing; they say which one."""
    name = file.replace("/", " ")
    return ", ".join(f'<a href="figures/{file}.{kind}">{name} as {kind.upper()}</a>' for kind in ("svg", "png"))

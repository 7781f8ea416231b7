"""Put the site together: `make docs` runs `python docs/tools/site_pages.py FOLDER`, and mkdocs builds what lies there.

The pages of docs/ link to files outside docs/, as they must on a page that is read in the repository. A site has only what it
is given. So the pages of docs/ and some others are copied, their links are mended, and files that they link to come along. One
page is made from the notebook (`notebook_page`). Nothing here needs mkdocs.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Collection
from pathlib import Path

import notebook_page

ROOT = Path(__file__).resolve().parents[2]
# Pages that do not lie in docs/ → their names on the site. Those that are not there yet are left out.
OUTSIDE = {
    "README.md": "index.md",
    "benchmarks/README.md": "benchmarks.md",
    "config/README.md": "settings.md",
    "tests/README.md": "tests.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
FILES = "files"  # the folder of the site for files of the repository that pages link to
NOTEBOOK = "results.ipynb"
_LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)\s#]+)((?:#[^)]*)?\))")
_FENCE = re.compile(r"^( *```.*?^ *```[ ]*$)", re.MULTILINE | re.DOTALL)


class LinkError(Exception):
    """A page links to what is not there."""


def sources() -> dict[str, str]:
    """Every page of the site that is a file of the repository → its name on the site."""
    pages = {f"docs/{page.name}": page.name for page in sorted((ROOT / "docs").glob("*.md"))}
    pages |= {page: name for page, name in OUTSIDE.items() if (ROOT / page).is_file()}
    return pages


def mended(page: str, text: str, add_file: Callable[[str], None], own: Collection[str] = ()) -> str:
    """The text of a page with links as the site has them.

    Args:
        page: its place in the repository.
        add_file: is told every file of the repository that the page links to.
        own: names of files that come with the page; they stay.

    Raises:
        LinkError: a link leads to nothing, or to a folder.
    """
    pages = sources()

    def mend(match: re.Match) -> str:
        opening, link, rest = match.groups()
        if link in own:
            return match.group()
        target = os.path.normpath(os.path.join(os.path.dirname(page), link))
        if target in pages:
            return f"{opening}{pages[target]}{rest}"
        if target == f"docs/{NOTEBOOK}" and page != target:
            return f"{opening}{NOTEBOOK.replace('.ipynb', '.md')}{rest}"
        if not (ROOT / target).is_file():
            raise LinkError(f"{page}: {link} is no file")
        add_file(target)
        return f"{opening}{_place(target)}{rest}"

    parts = _FENCE.split(text)  # every second part is a fence, in which nothing is a link
    return "".join(part if index % 2 else _LINK.sub(mend, part) for index, part in enumerate(parts))


def _place(file: str) -> str:
    """Where a file of the repository lies on the site: what docs/ holds in the same place, all else under `FILES`."""
    return file.removeprefix("docs/") if file.startswith("docs/") else f"{FILES}/{file}"


def stage(folder: Path) -> list[str]:
    """Write all that mkdocs needs into an empty folder; the names of the pages.

    Raises:
        LinkError: a link leads to nothing.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files: dict[str, None] = {}
    pages = {}
    for page, name in sources().items():
        pages[name] = mended(page, (ROOT / page).read_text(encoding="utf-8"), files.setdefault)
    text, pictures = notebook_page.as_page(ROOT / "docs" / NOTEBOOK)
    pages[NOTEBOOK.replace(".ipynb", ".md")] = mended(f"docs/{NOTEBOOK}", text, files.setdefault, pictures)
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name, content in pictures.items():
        (folder / name).write_bytes(content)
    for file in files:
        place = folder / _place(file)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, place)
    shutil.copyfile(ROOT / "docs/site.css", folder / "site.css")
    return sorted(pages)


if __name__ == "__main__":
    try:
        print(f"{len(stage(Path(sys.argv[1])))} pages")
    except LinkError as error:
        sys.exit(f"error: {error}")

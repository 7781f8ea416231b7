"""The picture of a page's table in docs/start.md: ``python docs/tools/page_picture.py docs/page.png``, where results/demo is.

It needs Chromium, which the tests of pages drive, too.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests/support"))
from browser import Browser

_SIZE = (1200, 700)
_FILTER = "w2 bloom"
_BY_LOSS = (
    "[...document.querySelectorAll('#cell-table th')].find(th => th.textContent.startsWith('ΔPPL')).querySelector('button')"
)


def main(picture: Path) -> None:
    """Write the picture."""
    browser = Browser(*_SIZE)
    try:
        browser.open(Path("results/demo/report.html").resolve().as_uri())
        browser.run(
            "{const field = document.querySelector('#cells input[type=search]');"
            f"field.value = '{_FILTER}'; field.dispatchEvent(new Event('input', {{bubbles: true}}))}}"
        )
        browser.run(f"({_BY_LOSS}).click()")
        browser.run("document.activeElement.blur(); document.querySelector('#cells .controls').scrollIntoView()")
        browser.resize(*_SIZE)  # waits until all is drawn
        browser.screenshot(picture)
    finally:
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

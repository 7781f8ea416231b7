"""Read the report page as a browser would see it: its elements, and its tables as text."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "img", "input", "br", "wbr"}


class Reader(HTMLParser):
    """Checks that tags nest, and collects the attributes of every element and the rows of tables as text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack, self.elements, self.rows = [], [], []
        self.feed(text)
        assert not self.stack

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.stack.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if "td" in self.stack or "th" in self.stack:
            self.rows[-1][-1] += data

    def row(self, *words: str) -> list[str]:
        """The one row of a table whose first cells are `words`."""
        (row,) = [row for row in self.rows if row[: len(words)] == list(words)]
        return row

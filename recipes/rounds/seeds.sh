#!/usr/bin/env bash
# Three rounds on the quickstart runs of several seeds (recipes/quickstart/seeds.sh), and the table of them all in docs/results.
#   bash recipes/rounds/seeds.sh 0 1 2
set -euo pipefail
cd "$(dirname "$0")/../.."
for seed in "$@"; do
  SEED=$seed FROM=runs/running_value-seed$seed OUT=runs/rounds-seed$seed ROUNDS=3 bash recipes/rounds/run.sh
done
python recipes/quickstart/results.py rounds "${@/#/runs/rounds-seed}"

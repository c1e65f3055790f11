#!/usr/bin/env bash
# The quickstart at several seeds (new data, new base model, new everything), and the table of them all in docs/results.
#   TASK=number_walk bash recipes/quickstart/seeds.sh 0 1 2
set -euo pipefail
cd "$(dirname "$0")/../.."
TASK=${TASK:-running_value}
for seed in "$@"; do
  TASK=$TASK SEED=$seed OUT=runs/$TASK-seed$seed bash recipes/quickstart/run.sh
done
python recipes/quickstart/results.py "$TASK" "${@/#/runs/$TASK-seed}"

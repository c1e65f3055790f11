#!/usr/bin/env bash
# Chooses the settings of every arm on a validation set: five settings an arm, the same for all arms of a kind.
# Starts from a quickstart run that has come as far as its sets; prints a table and leaves it in $OUT/search.
set -euo pipefail
cd "$(dirname "$0")/../.."
source recipes/quickstart/lib.sh
search=$OUT/search
mkdir -p "$search/models"
models_of=(sft="$models/sft")
stage search_problems negdata problems --task "$TASK" --split test --count 2000 --seed 778 --output "$search/validation.jsonl"

# try ARM.SETTING TRAINER SET FLAGS...: train the SFT policy on a set of the quickstart, in the background.
try() {
  local name=$1 trainer=$2 set=$3
  shift 3
  beside "search_$name" "${TRAIN[@]}" "openrlhf_negdata.cli.$trainer" --model.model_name_or_path "$models/sft" \
    --data.dataset "$data/$set.jsonl" --ckpt.output_dir "$search/models/$name" "${SMALL[@]}" "$@"
  models_of+=("$name=$search/models/$name")
}

for lr in 1e-4 2.5e-4 5e-4 1e-3 2e-3; do
  try "control.lr$lr" train_sft syn "${CONTROL_FLAGS[@]}" --adam.lr $lr
  try "rft.lr$lr" train_sft rft "${RFT_FLAGS[@]}" --adam.lr $lr
done
for arm in dpo step_dpo_algorithm1 step_dpo_shared_prefix step_dpo_siblings; do
  for lr in 3e-5 1e-4 3e-4; do
    try "$arm.lr${lr}_nll0" train_step_dpo $arm "${DPO_FLAGS[@]}" --adam.lr $lr --model.nll_loss_coef 0
  done
  for lr in 1e-4 3e-4; do
    try "$arm.lr${lr}_nll1" train_step_dpo $arm "${DPO_FLAGS[@]}" --adam.lr $lr --model.nll_loss_coef 1
  done
done
finish

stage search_evaluate negdata evaluate --task "$TASK" --problems "$search/validation.jsonl" --models "${models_of[@]}" \
  --output "$search/evaluation"
negdata report --evaluation "$search/evaluation" --output "$search"
mkdir -p "docs/results/$TASK" && cp "$search/summary.json" "docs/results/$TASK/search.json"

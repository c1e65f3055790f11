#!/usr/bin/env bash
# Chooses the settings of every arm on a validation set: five settings an arm, the same for all arms of a kind.
# Starts from a quickstart run that has come as far as `build`; prints a table and leaves it in $OUT/search.
set -euo pipefail
cd "$(dirname "$0")/../.."
source recipes/quickstart/lib.sh

search=$OUT/search
mkdir -p "$search/models"
stage search_problems negdata problems --task "$TASK" --split test --count 2000 --seed 778 --output "$search/validation.jsonl"

arms=()
jobs=()
add() { # add ARM DATASET MODULE SETTING FLAGS
  arms+=("$1.$4=$search/models/$1.$4")
  jobs+=("stage search_$1.$4 train $3 '$models/sft' '$data/$2.jsonl' '$search/models/$1.$4' $5")
}
for lr in 1e-4 2.5e-4 5e-4 1e-3 2e-3; do
  add control syn train_sft "lr$lr" "$CONTROL_FLAGS --adam.lr $lr"
  add rft rft train_sft "lr$lr" "$RFT_FLAGS --adam.lr $lr"
done
for setting in "3e-5 0" "1e-4 0" "3e-4 0" "1e-4 1" "3e-4 1"; do
  read -r lr nll <<<"$setting"
  for arm in dpo step_dpo_algorithm1 step_dpo_shared_prefix step_dpo_siblings; do
    add "$arm" "$arm" train_step_dpo "lr${lr}_nll$nll" "$DPO_FLAGS --adam.lr $lr --model.nll_loss_coef $nll"
  done
done
two_at_a_time "${jobs[@]}"
stage search_evaluate negdata evaluate --task "$TASK" --problems "$search/validation.jsonl" --models "sft=$models/sft" "${arms[@]}" \
  --output "$search/evaluation"
negdata report --evaluation "$search/evaluation" --output "$search"
mkdir -p "docs/results/$TASK" && cp "$search/summary.json" "docs/results/$TASK/search.json"

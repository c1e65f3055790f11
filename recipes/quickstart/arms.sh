#!/usr/bin/env bash
# Every other arm of the paper on the answers and values of a finished quickstart: builds the sets, trains each from the
# SFT policy, and prints a table as the quickstart's. Settings are the quickstart's own, not searched for these arms.
set -euo pipefail
cd "$(dirname "$0")/../.."
source recipes/quickstart/lib.sh
sets=$OUT/arms/data trained=$OUT/arms/models
mkdir -p "$sets" "$trained"
models_of=(sft="$models/sft")

# set_of NAME ARM FLAGS...: build a set; arm NAME TRAINER FLAGS...: train on it, in the background.
set_of() {
  local name=$1 arm=$2
  shift 2
  stage "build_$name" negdata build "$arm" --input "$OUT/values" --output "$sets/$name.jsonl" --seed "$SEED" "$@"
}
arm() {
  local name=$1 trainer=$2
  shift 2
  beside "arm_$name" "${TRAIN[@]}" "openrlhf_negdata.cli.$trainer" --model.model_name_or_path "$models/sft" \
    --data.dataset "$sets/$name.jsonl" --ckpt.output_dir "$trained/$name" "${SMALL[@]}" "$@"
  models_of+=("$name=$trained/$name")
}

set_of rft_equations rft --with_solutions --distinct equations --per_problem 2 --most_different
set_of step_rft step-rft
set_of spurious_low_advantage spurious --seeding low_advantage --per_problem 2
set_of spurious_recovered spurious --seeding recovered --per_problem 2
set_of advantage_weighted advantage-weighted --normalise set
set_of dpo_edit_distance dpo-edit-distance --per_problem 2
set_of algorithm1_positives algorithm1 --positives "${PITS[@]}"
set_of algorithm1_teacher algorithm1 --chosen_teacher "${PITS[@]}"
set_of shared_prefix_rest shared-prefix --rejected_rest "${PITS[@]}"
set_of prm_trl prm --form trl
set_of prm_openrlhf prm --form openrlhf --labels soft

for name in rft_equations step_rft spurious_low_advantage spurious_recovered; do arm "$name" train_sft "${RFT_FLAGS[@]}"; done
arm advantage_weighted train_advantage_weighted "${RFT_FLAGS[@]}"
for name in dpo_edit_distance algorithm1_positives algorithm1_teacher shared_prefix_rest; do
  arm "$name" train_step_dpo "${DPO_FLAGS[@]}"
done
finish

stage arms_evaluate negdata evaluate --task "$TASK" --problems "$data/test.problems.jsonl" --models "${models_of[@]}" \
  --output "$OUT/arms/evaluation" --seed "$SEED" "${EVALUATE_FLAGS[@]}"
negdata report --evaluation "$OUT/arms/evaluation" --output "$OUT/arms"

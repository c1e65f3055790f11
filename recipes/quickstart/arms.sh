#!/usr/bin/env bash
# Every other arm of the paper on the answers and values of a finished quickstart: builds the sets, trains each from the SFT
# policy, and prints a table as the quickstart's. Settings are the quickstart's own, not searched for these arms.
set -euo pipefail
cd "$(dirname "$0")/../.."
source recipes/quickstart/lib.sh

out=$OUT/arms sets=$OUT/arms/data trained=$OUT/arms/models
mkdir -p "$sets" "$trained"
arms=("sft=$models/sft")
jobs=()
arm() { # arm NAME MODULE TRAINING-FLAGS BUILD-WORDS
  # shellcheck disable=SC2086  # the words are a list
  stage "build_$1" negdata build $4 --output "$sets/$1.jsonl" --seed "$SEED"
  [ -z "$2" ] && return
  arms+=("$1=$trained/$1")
  jobs+=("stage arm_$1 train $2 '$models/sft' '$sets/$1.jsonl' '$trained/$1' $3")
}

values="--input $OUT/values"
arm rft_equations train_sft "$RFT_FLAGS" "rft $values --with_solutions --distinct equations --per_problem 2 --most_different"
arm step_rft train_sft "$RFT_FLAGS" "step-rft $values"
arm spurious_low_advantage train_sft "$RFT_FLAGS" "spurious $values --seeding low_advantage --per_problem 2"
arm spurious_recovered train_sft "$RFT_FLAGS" "spurious $values --seeding recovered --per_problem 2"
arm advantage_weighted train_advantage_weighted "$RFT_FLAGS" "advantage-weighted $values --normalise set"
arm dpo_edit_distance train_step_dpo "$DPO_FLAGS" "dpo-edit-distance $values --per_problem 2"
arm algorithm1_positives train_step_dpo "$DPO_FLAGS" "step-dpo $values --positives $STEP_DPO_SET"
arm algorithm1_teacher train_step_dpo "$DPO_FLAGS" "step-dpo $values --chosen_teacher $STEP_DPO_SET"
arm shared_prefix_rest train_step_dpo "$DPO_FLAGS" "step-dpo $values --pairing shared_prefix --rejected_rest $STEP_DPO_SET"
arm prm_trl "" "" "prm $values --form trl"
arm prm_openrlhf "" "" "prm $values --form openrlhf --labels soft"

two_at_a_time "${jobs[@]}"
# shellcheck disable=SC2086
stage arms_evaluate negdata evaluate --task "$TASK" --problems "$data/test.problems.jsonl" --models "${arms[@]}" --output "$out/evaluation" \
  --seed "$SEED" $EVALUATE_FLAGS
negdata report --evaluation "$out/evaluation" --output "$out"

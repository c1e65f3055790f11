#!/usr/bin/env bash
# Several rounds of sample -> grade -> value -> build -> train. Each starts from the policy of the round before, which is its reference too:
# its answers are sampled, its steps valued by its own rollouts. Takes the problems and the SFT policy of a finished quickstart, $FROM.
#   make quickstart && PATH="$PWD/.venv/bin:$PATH" ROUNDS=3 bash recipes/rounds/run.sh
# Run it again after a kill, or with more ROUNDS: it goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/../.."
FROM=${FROM:-runs/quickstart} ROUNDS=${ROUNDS:-3} OUT=${OUT:-runs/rounds}
source recipes/quickstart/lib.sh

policy=$FROM/models/sft
arms=("sft=$policy")
# shellcheck disable=SC2086  # the settings are lists of flags
for ((round = 1; round <= ROUNDS; round++)); do
  here=$OUT/round$round seed=$((100 * SEED + round))
  stage "sample$round" negdata sample --task "$TASK" --problems "$FROM/data/syn.problems.jsonl" --model.model_name_or_path "$policy" \
    --output "$here/traces" --seed $seed $SAMPLE_FLAGS
  stage "grade$round" negdata grade --input "$here/traces" --output "$here/graded"
  stage "value$round" negdata value --input "$here/graded" --model.model_name_or_path "$policy" --output "$here/values" --seed $seed $VALUE_FLAGS
  stage "build$round" negdata build step-dpo --input "$here/values" --pairing siblings --output "$data/round$round.jsonl" --seed $seed $STEP_DPO_SET
  stage "train$round" train train_step_dpo "$policy" "$data/round$round.jsonl" "$models/round$round" $STEP_DPO_FLAGS
  policy=$models/round$round
  arms+=("round$round=$policy")
  wc -l <"$data/round$round.jsonl" | awk -v round=$round '{ printf "round %d: %d pairs\n", round, $1 }'
done
# shellcheck disable=SC2086
stage "evaluate$ROUNDS" negdata evaluate --task "$TASK" --problems "$FROM/data/test.problems.jsonl" --models "${arms[@]}" \
  --output "$OUT/evaluation" --seed "$SEED" $EVALUATE_FLAGS
negdata report --evaluation "$OUT/evaluation" --times "$OUT/times.jsonl" --output "$OUT"

#!/usr/bin/env bash
# Several rounds of sample -> grade -> value -> build -> train. Each starts from the policy of the round before, which is
# its reference too: its answers are sampled, its steps valued by its own rollouts. Takes the problems and the SFT policy
# of a finished quickstart, $FROM.
#   make quickstart && PATH="$PWD/.venv/bin:$PATH" ROUNDS=3 bash recipes/rounds/run.sh
# Run it again after a kill, or with more ROUNDS: it goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/../.."
FROM=${FROM:-runs/quickstart} ROUNDS=${ROUNDS:-3} OUT=${OUT:-runs/rounds}
source recipes/quickstart/lib.sh

policy=$FROM/models/sft
models_of=(sft="$policy")
for ((round = 1; round <= ROUNDS; round++)); do
  here=$OUT/round$round seed=$((100 * SEED + round))
  stage "sample$round" negdata sample --task "$TASK" --problems "$FROM/data/syn.problems.jsonl" --model.model_name_or_path "$policy" \
    --output "$here/traces" --seed $seed "${SAMPLE_FLAGS[@]}"
  stage "grade$round" negdata grade --input "$here/traces" --output "$here/graded"
  stage "value$round" negdata value --input "$here/graded" --model.model_name_or_path "$policy" --output "$here/values" \
    --seed $seed "${VALUE_FLAGS[@]}"
  stage "build$round" negdata build siblings --input "$here/values" --output "$data/round$round.jsonl" --seed $seed
  stage "train$round" "${TRAIN[@]}" openrlhf_negdata.cli.train_step_dpo --model.model_name_or_path "$policy" \
    --data.dataset "$data/round$round.jsonl" --ckpt.output_dir "$models/round$round" "${SMALL[@]}" "${STEP_DPO_FLAGS[@]}"
  policy=$models/round$round
  models_of+=("round$round=$policy")
  echo "round $round: $(wc -l <"$data/round$round.jsonl") pairs"
done
stage "evaluate$ROUNDS" negdata evaluate --task "$TASK" --problems "$FROM/data/test.problems.jsonl" --models "${models_of[@]}" \
  --output "$OUT/evaluation" --seed "$SEED" "${EVALUATE_FLAGS[@]}"
negdata report --evaluation "$OUT/evaluation" --times "$OUT/times.jsonl" --output "$OUT"

#!/usr/bin/env bash
# The method on a real model, in English, on two cores: SmolLM2-135M-Instruct on word problems of three to four steps.
# Every command goes on where it was stopped and does nothing when it is done, so this script is run again after a kill.
#   SYN_PROBLEMS=100 TEST_PROBLEMS=100 OUT=runs/look bash recipes/smollm2/run.sh      # a look, in a tenth of the time
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)}
TASK=word_problems OUT=${OUT:-runs/smollm2} SETTINGS=recipes/smollm2/settings.sh
source recipes/quickstart/lib.sh
sft=$models/sft
FLAGS=(--data.max_len 320 --ds.zero_stage 0 --train.seed "$SEED" --ckpt.save_steps 20)

stage prepare python recipes/smollm2/prepare.py "$models/instruct"
stage problems negdata problems --task "$TASK" --split syn --count "$SYN_PROBLEMS" --seed "$SEED" --output "$data/syn.problems.jsonl"
stage problems negdata problems --task "$TASK" --split test --count "$TEST_PROBLEMS" --seed $TEST_SEED --output "$data/test.problems.jsonl"
stage problems negdata build sft --task "$TASK" --problems_from "$data/syn.problems.jsonl" --tokenizer "$models/instruct" \
  "${PROMPT[@]}" --output "$data/syn.jsonl"

# The SFT policy, its answers, their grades, and the value of every step.
stage sft "${TRAIN[@]}" openrlhf_negdata.cli.train_sft --model.model_name_or_path "$models/instruct" \
  --data.dataset "$data/syn.jsonl" --ckpt.output_dir "$sft" "${FLAGS[@]}" "${SFT_FLAGS[@]}"
stage sample negdata sample --task "$TASK" --problems "$data/syn.problems.jsonl" --model.model_name_or_path "$sft" \
  "${PROMPT[@]}" --output "$OUT/traces" --seed "$SEED" "${SAMPLE_FLAGS[@]}"
stage grade negdata grade --input "$OUT/traces" --output "$OUT/graded"
negdata value --input "$OUT/graded" --model.model_name_or_path "$sft" --output "$OUT/values" "${VALUE_FLAGS[@]}" --dry_run
stage value negdata value --input "$OUT/graded" --model.model_name_or_path "$sft" --output "$OUT/values" --seed "$SEED" \
  "${VALUE_FLAGS[@]}"

# Training sets.
stage build negdata build rft --input "$OUT/graded" --with_solutions --per_problem 4 --seed "$SEED" --output "$data/rft.jsonl"
stage build negdata build dpo --input "$OUT/graded" --per_problem 2 --seed "$SEED" --output "$data/dpo.jsonl"
stage build negdata build algorithm1 --input "$OUT/values" --seed "$SEED" --output "$data/algorithm1.jsonl" "${PITS[@]}"
stage build negdata build shared-prefix --input "$OUT/values" --seed "$SEED" --output "$data/shared_prefix.jsonl" "${PITS[@]}"
stage build negdata build siblings --input "$OUT/values" --seed "$SEED" --output "$data/siblings.jsonl"

# Every arm, from the SFT policy. The control trains on, on the same solutions.
stage control "${TRAIN[@]}" openrlhf_negdata.cli.train_sft --model.model_name_or_path "$sft" \
  --data.dataset "$data/syn.jsonl" --ckpt.output_dir "$models/control" "${FLAGS[@]}" "${CONTROL_FLAGS[@]}"
stage rft "${TRAIN[@]}" openrlhf_negdata.cli.train_sft --model.model_name_or_path "$sft" \
  --data.dataset "$data/rft.jsonl" --ckpt.output_dir "$models/rft" "${FLAGS[@]}" "${RFT_FLAGS[@]}"
for arm in dpo algorithm1 shared_prefix siblings; do
  stage "$arm" "${TRAIN[@]}" openrlhf_negdata.cli.train_step_dpo --model.model_name_or_path "$sft" \
    --data.dataset "$data/$arm.jsonl" --ckpt.output_dir "$models/$arm" "${FLAGS[@]}" "${DPO_FLAGS[@]}"
done

# The same held-out problems, of templates that no training problem has, for all of them.
stage evaluate negdata evaluate --task "$TASK" --problems "$data/test.problems.jsonl" "${PROMPT[@]}" --models \
  instruct="$models/instruct" sft="$sft" control="$models/control" rft="$models/rft" dpo="$models/dpo" \
  algorithm1="$models/algorithm1" shared_prefix="$models/shared_prefix" siblings="$models/siblings" \
  --output "$OUT/evaluation" --seed "$SEED" "${EVALUATE_FLAGS[@]}"
negdata report --evaluation "$OUT/evaluation" --values "$OUT/values" "${PITS[@]:0:2}" --times "$OUT/times.jsonl" \
  --runs "$OUT/traces" --output "$OUT"

#!/usr/bin/env bash
# The whole method on running_value, from random weights to the report. Every command goes on where it was stopped and
# does nothing when it is done, so this script is run again after a kill.
set -euo pipefail
cd "$(dirname "$0")/../.."
source recipes/quickstart/lib.sh
sft=$models/sft

# Problems: to pre-train on, D_syn with the teacher's solutions, held-out ones; and a model with random weights.
stage problems negdata problems --task "$TASK" --split base --count $BASE_PROBLEMS --seed "$SEED" --output "$data/base.problems.jsonl"
stage problems negdata problems --task "$TASK" --split syn --count $SYN_PROBLEMS --seed "$SEED" --output "$data/syn.problems.jsonl"
stage problems negdata problems --task "$TASK" --split test --count $TEST_PROBLEMS --seed $TEST_SEED --output "$data/test.problems.jsonl"
stage problems negdata new_model --task "$TASK" --layers $LAYERS --seed "$SEED" --output "$models/new"
stage problems negdata build sft --task "$TASK" --problems_from "$data/base.problems.jsonl" --tokenizer "$models/new" \
  --output "$data/base.jsonl"
stage problems negdata build sft --task "$TASK" --problems_from "$data/syn.problems.jsonl" --tokenizer "$models/new" \
  --output "$data/syn.jsonl"

# The SFT policy.
stage base "${TRAIN[@]}" openrlhf_negdata.cli.train_sft --model.model_name_or_path "$models/new" \
  --data.dataset "$data/base.jsonl" --ckpt.output_dir "$models/base" "${SMALL[@]}" "${BASE_FLAGS[@]}"
stage sft "${TRAIN[@]}" openrlhf_negdata.cli.train_sft --model.model_name_or_path "$models/base" \
  --data.dataset "$data/syn.jsonl" --ckpt.output_dir "$sft" "${SMALL[@]}" "${SFT_FLAGS[@]}"

# Its answers to D_syn, their grades, and the value of every step.
stage sample negdata sample --task "$TASK" --problems "$data/syn.problems.jsonl" --model.model_name_or_path "$sft" \
  --output "$OUT/traces" --seed "$SEED" "${SAMPLE_FLAGS[@]}"
stage grade negdata grade --input "$OUT/traces" --output "$OUT/graded"
stage value negdata value --input "$OUT/graded" --model.model_name_or_path "$sft" --output "$OUT/values" --seed "$SEED" \
  "${VALUE_FLAGS[@]}"

# Training sets.
stage build negdata build rft --input "$OUT/graded" --with_solutions --per_problem 4 --seed "$SEED" --output "$data/rft.jsonl"
stage build negdata build dpo --input "$OUT/graded" --per_problem 2 --seed "$SEED" --output "$data/dpo.jsonl"
stage build negdata build algorithm1 --input "$OUT/values" --seed "$SEED" --output "$data/step_dpo_algorithm1.jsonl" "${PITS[@]}"
stage build negdata build shared-prefix --input "$OUT/values" --seed "$SEED" --output "$data/step_dpo_shared_prefix.jsonl" "${PITS[@]}"
stage build negdata build siblings --input "$OUT/values" --seed "$SEED" --output "$data/step_dpo_siblings.jsonl"

# Every arm, from the SFT policy. The control trains on, on D_syn, for at least as many updates as any other.
beside control "${TRAIN[@]}" openrlhf_negdata.cli.train_sft --model.model_name_or_path "$sft" \
  --data.dataset "$data/syn.jsonl" --ckpt.output_dir "$models/control" "${SMALL[@]}" "${CONTROL_FLAGS[@]}"
beside rft "${TRAIN[@]}" openrlhf_negdata.cli.train_sft --model.model_name_or_path "$sft" \
  --data.dataset "$data/rft.jsonl" --ckpt.output_dir "$models/rft" "${SMALL[@]}" "${RFT_FLAGS[@]}"
beside dpo "${TRAIN[@]}" openrlhf_negdata.cli.train_step_dpo --model.model_name_or_path "$sft" \
  --data.dataset "$data/dpo.jsonl" --ckpt.output_dir "$models/dpo" "${SMALL[@]}" "${DPO_FLAGS[@]}"
beside step_dpo "${TRAIN[@]}" openrlhf_negdata.cli.train_step_dpo --model.model_name_or_path "$sft" \
  --data.dataset "$data/step_dpo_siblings.jsonl" --ckpt.output_dir "$models/step_dpo" "${SMALL[@]}" "${STEP_DPO_FLAGS[@]}"
beside step_dpo_algorithm1 "${TRAIN[@]}" openrlhf_negdata.cli.train_step_dpo --model.model_name_or_path "$sft" \
  --data.dataset "$data/step_dpo_algorithm1.jsonl" --ckpt.output_dir "$models/step_dpo_algorithm1" "${SMALL[@]}" "${STEP_DPO_FLAGS[@]}"
beside step_dpo_shared_prefix "${TRAIN[@]}" openrlhf_negdata.cli.train_step_dpo --model.model_name_or_path "$sft" \
  --data.dataset "$data/step_dpo_shared_prefix.jsonl" --ckpt.output_dir "$models/step_dpo_shared_prefix" "${SMALL[@]}" "${STEP_DPO_FLAGS[@]}"
finish

# The same held-out problems for all of them.
stage evaluate negdata evaluate --task "$TASK" --problems "$data/test.problems.jsonl" --models \
  base="$models/base" sft="$sft" control="$models/control" rft="$models/rft" dpo="$models/dpo" step_dpo="$models/step_dpo" \
  step_dpo_algorithm1="$models/step_dpo_algorithm1" step_dpo_shared_prefix="$models/step_dpo_shared_prefix" \
  --output "$OUT/evaluation" --seed "$SEED" "${EVALUATE_FLAGS[@]}"
negdata report --evaluation "$OUT/evaluation" --runs "$OUT/traces" --values "$OUT/values" "${PITS[@]:0:2}" --times "$OUT/times.jsonl" --output "$OUT"

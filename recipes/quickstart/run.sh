#!/usr/bin/env bash
# The whole method on running_value, from random weights to the report. Run it again after a kill: it goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/../.."

TASK=${TASK:-running_value}
SEED=${SEED:-0}
OUT=${OUT:-runs/quickstart}
source "recipes/quickstart/$TASK.sh" # the settings of the task, chosen on a validation set (see README.md here)

# Small models gain nothing from a second thread; two trainings run side by side instead.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 PYTHONWARNINGS=ignore
mkdir -p "$OUT/data" "$OUT/models" "$OUT/logs"

# stage NAME COMMAND...: run a command with its output in a log, and note how long it took when it is done for the first time.
stage() {
  local name=$1 log="$OUT/logs/$1.log" begin=$EPOCHREALTIME
  shift
  printf '%(%H:%M:%S)T  %s\n' -1 "$name"
  if ! "$@" >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "quickstart: stage $name failed; its log is $log. Run the same command again to go on." >&2
    return 1
  fi
  grep -qs "\"stage\": \"$name\"" "$OUT/times.jsonl" || awk -v name="$name" -v begin="$begin" -v end="$EPOCHREALTIME" \
    'BEGIN { printf "{\"stage\": \"%s\", \"seconds\": %.1f}\n", name, end - begin }' >>"$OUT/times.jsonl"
}

# side_by_side A -- B: two functions at once.
side_by_side() {
  "$1" & local first=$!
  "$2" & local second=$!
  wait "$first" && wait "$second"
}

train() { # train MODULE START DATASET OUTPUT FLAGS...
  local module=$1 start=$2 dataset=$3 output=$4
  shift 4
  negdata launch --num_processes 1 "openrlhf_negdata.cli.$module" --model.model_name_or_path "$start" --data.dataset "$dataset" \
    --ckpt.output_dir "$output" --data.max_len 64 --ds.zero_stage 0 --train.seed "$SEED" --adam.betas 0.9 0.98 \
    --ckpt.save_steps 200 "$@"
}

data=$OUT/data models=$OUT/models
stage problems bash -c "
  negdata problems --task $TASK --split base --count $BASE_PROBLEMS --seed 0 --output '$data/base.problems.jsonl'
  negdata problems --task $TASK --split syn --count $SYN_PROBLEMS --seed $SEED --output '$data/syn.problems.jsonl'
  negdata problems --task $TASK --split test --count $TEST_PROBLEMS --seed $TEST_SEED --output '$data/test.problems.jsonl'
  negdata new_model --task $TASK --layers $LAYERS --seed $SEED --output '$models/new'
  for name in base syn; do
    mkdir -p '$data/'\$name
    ln -f '$data/'\$name.problems.jsonl '$data/'\$name/problems.jsonl
    negdata build sft --task $TASK --input '$data/'\$name --tokenizer '$models/new' --output '$data/'\$name.jsonl
  done"

# shellcheck disable=SC2086  # the settings are lists of flags
{
  stage base train train_sft "$models/new" "$data/base.jsonl" "$models/base" $BASE_FLAGS
  stage sft train train_sft "$models/base" "$data/syn.jsonl" "$models/sft" $SFT_FLAGS

  stage sample negdata sample --task "$TASK" --problems "$data/syn.problems.jsonl" --model.model_name_or_path "$models/sft" \
    --output "$OUT/traces" --seed "$SEED" $SAMPLE_FLAGS
  stage grade negdata grade --input "$OUT/traces" --output "$OUT/graded"
  stage value negdata value --input "$OUT/graded" --model.model_name_or_path "$models/sft" --output "$OUT/values" --seed "$SEED" \
    $VALUE_FLAGS

  stage build bash -c "
    negdata build rft --input '$OUT/graded' --tokenizer '$models/sft' --with_solutions --output '$data/rft.jsonl' --seed $SEED $RFT_SET
    negdata build dpo --input '$OUT/graded' --output '$data/dpo.jsonl' --seed $SEED $DPO_SET
    for pairing in algorithm1 shared_prefix siblings; do
      negdata build step-dpo --input '$OUT/values' --pairing \$pairing --output '$data/step_dpo_'\$pairing.jsonl --seed $SEED $STEP_DPO_SET
    done"

  control() { stage control train train_sft "$models/sft" "$data/syn.jsonl" "$models/control" $CONTROL_FLAGS; }
  rft() { stage rft train train_sft "$models/sft" "$data/rft.jsonl" "$models/rft" $RFT_FLAGS; }
  dpo() { stage dpo train train_step_dpo "$models/sft" "$data/dpo.jsonl" "$models/dpo" $DPO_FLAGS; }
  algorithm1() { stage step_dpo_algorithm1 train train_step_dpo "$models/sft" "$data/step_dpo_algorithm1.jsonl" "$models/step_dpo_algorithm1" $STEP_DPO_FLAGS; }
  shared_prefix() { stage step_dpo_shared_prefix train train_step_dpo "$models/sft" "$data/step_dpo_shared_prefix.jsonl" "$models/step_dpo_shared_prefix" $STEP_DPO_FLAGS; }
  siblings() { stage step_dpo train train_step_dpo "$models/sft" "$data/step_dpo_siblings.jsonl" "$models/step_dpo" $STEP_DPO_FLAGS; }
  side_by_side control rft
  side_by_side dpo siblings
  side_by_side algorithm1 shared_prefix

  arms=()
  for arm in base sft control rft dpo step_dpo step_dpo_algorithm1 step_dpo_shared_prefix; do arms+=("$arm=$models/$arm"); done
  stage evaluate negdata evaluate --task "$TASK" --problems "$data/test.problems.jsonl" --models "${arms[@]}" --output "$OUT/evaluation" \
    --seed "$SEED" $EVALUATE_FLAGS
}
negdata report --evaluation "$OUT/evaluation" --values "$OUT/values" --times "$OUT/times.jsonl" --output "$OUT"

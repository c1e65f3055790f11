# What run.sh and search.sh share. Sourced from the root of the repository. shellcheck shell=bash
TASK=${TASK:-running_value}
SEED=${SEED:-0}
OUT=${OUT:-runs/quickstart}
data=$OUT/data models=$OUT/models
source "recipes/quickstart/$TASK.sh" # the settings of the task

# Small models gain nothing from a second thread; two trainings run side by side instead.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 PYTHONWARNINGS=ignore
mkdir -p "$data" "$models" "$OUT/logs"

# stage NAME COMMAND...: run a command with its output in a log, and note how long it took when it is done for the first time.
stage() {
  local name=$1 log="$OUT/logs/$1.log" begin=$EPOCHREALTIME
  shift
  printf '%(%H:%M:%S)T  %s\n' -1 "$name"
  if ! "$@" >>"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "quickstart: stage $name failed; its log is $log. Run the same command again to go on." >&2
    return 1
  fi
  grep -qs "\"stage\": \"$name\"" "$OUT/times.jsonl" || awk -v name="$name" -v begin="$begin" -v end="$EPOCHREALTIME" \
    'BEGIN { printf "{\"stage\": \"%s\", \"seconds\": %.1f}\n", name, end - begin }' >>"$OUT/times.jsonl"
}

# two_at_a_time COMMAND...: run the commands, each one string, two at a time (one after the other where there is a GPU to share).
two_at_a_time() {
  local at_once=2
  if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then at_once=1; fi
  export -f stage train
  export OUT SEED data models
  printf '%s\0' "$@" | xargs -0 -n 1 -P "$at_once" bash -c 'set -euo pipefail; eval "$1"' job
}

train() { # train MODULE START DATASET OUTPUT FLAGS...
  local module=$1 start=$2 dataset=$3 output=$4
  shift 4
  negdata launch --num_processes 1 "openrlhf_negdata.cli.$module" --model.model_name_or_path "$start" --data.dataset "$dataset" \
    --ckpt.output_dir "$output" --data.max_len 64 --ds.zero_stage 0 --train.seed "$SEED" --adam.betas 0.9 0.98 \
    --ckpt.save_steps 200 "$@"
}

# What the recipes share: the settings of a task, and how a stage is run. Sourced from the root of the repository.
# shellcheck shell=bash
TASK=${TASK:-running_value}
SEED=${SEED:-0}
OUT=${OUT:-runs/quickstart}
data=$OUT/data models=$OUT/models
source "${SETTINGS:-recipes/quickstart/$TASK.sh}"

# Small models gain nothing from a second thread; two trainings run side by side instead, one where there is a GPU.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 PYTHONWARNINGS=ignore
at_once=2
if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then at_once=1; fi
mkdir -p "$data" "$models" "$OUT/logs"

# How every model here is trained.
SMALL=(--data.max_len 64 --ds.zero_stage 0 --train.seed "$SEED" --adam.betas 0.9 0.98 --ckpt.save_steps 200)
TRAIN=(negdata launch --num_processes 1)

# stage NAME COMMAND...: run a command with its output in a log; note how long it took when it is first done.
stage() {
  local name=$1 log="$OUT/logs/$1.log" begin=$EPOCHREALTIME id
  shift
  printf '%(%H:%M:%S)T  %s\n' -1 "$name"
  if ! "$@" >>"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "stage $name failed; its log is $log. Run the same command again to go on." >&2
    return 1
  fi
  id=$(printf '%s\n' "$@" | md5sum | cut -c1-12)
  grep -qs "\"command\": \"$id\"" "$OUT/times.jsonl" || awk -v name="$name" -v id="$id" -v begin="$begin" \
    -v end="$EPOCHREALTIME" 'BEGIN { printf "{\"stage\": \"%s\", \"command\": \"%s\", \"seconds\": %.1f}\n", name, id, end - begin }' \
    >>"$OUT/times.jsonl"
}

# beside NAME COMMAND...: a stage in the background, at most $at_once of them at a time; finish: wait for them all.
running=()
beside() {
  if ((${#running[@]} >= at_once)); then
    wait "${running[0]}"
    running=("${running[@]:1}")
  fi
  stage "$@" &
  running+=($!)
}
finish() {
  local job
  for job in "${running[@]}"; do wait "$job"; done
  running=()
}

#!/usr/bin/env bash
# The whole method on running_value, from random weights to the report. Run it again after a kill: it goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/../.."

source recipes/quickstart/lib.sh

stage problems bash -ec "
  negdata problems --task $TASK --split base --count $BASE_PROBLEMS --seed $SEED --output '$data/base.problems.jsonl'
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

  stage build bash -ec "
    negdata build rft --input '$OUT/graded' --tokenizer '$models/sft' --with_solutions --output '$data/rft.jsonl' --seed $SEED $RFT_SET
    negdata build dpo --input '$OUT/graded' --output '$data/dpo.jsonl' --seed $SEED $DPO_SET
    for pairing in algorithm1 shared_prefix siblings; do
      negdata build step-dpo --input '$OUT/values' --pairing \$pairing --output '$data/step_dpo_'\$pairing.jsonl --seed $SEED $STEP_DPO_SET
    done"

  two_at_a_time \
    "stage control train train_sft $models/sft $data/syn.jsonl $models/control $CONTROL_FLAGS" \
    "stage rft train train_sft $models/sft $data/rft.jsonl $models/rft $RFT_FLAGS" \
    "stage dpo train train_step_dpo $models/sft $data/dpo.jsonl $models/dpo $DPO_FLAGS" \
    "stage step_dpo train train_step_dpo $models/sft $data/step_dpo_siblings.jsonl $models/step_dpo $STEP_DPO_FLAGS" \
    "stage step_dpo_algorithm1 train train_step_dpo $models/sft $data/step_dpo_algorithm1.jsonl $models/step_dpo_algorithm1 $ALGORITHM1_FLAGS" \
    "stage step_dpo_shared_prefix train train_step_dpo $models/sft $data/step_dpo_shared_prefix.jsonl $models/step_dpo_shared_prefix $SHARED_PREFIX_FLAGS"

  arms=()
  for arm in base sft control rft dpo step_dpo step_dpo_algorithm1 step_dpo_shared_prefix; do arms+=("$arm=$models/$arm"); done
  stage evaluate negdata evaluate --task "$TASK" --problems "$data/test.problems.jsonl" --models "${arms[@]}" --output "$OUT/evaluation" \
    --seed "$SEED" $EVALUATE_FLAGS
}
negdata report --evaluation "$OUT/evaluation" --values "$OUT/values" --times "$OUT/times.jsonl" --output "$OUT"

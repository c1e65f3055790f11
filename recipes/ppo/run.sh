#!/usr/bin/env bash
# PPO with step advantages on CPU, from the SFT policy of a finished quickstart, $FROM, and its test error beside it.
#   make quickstart && PATH="$PWD/.venv/bin:$PATH" bash recipes/ppo/run.sh
# Every command does nothing when it is done; a training that was killed goes on from its last checkpoint.
set -euo pipefail
cd "$(dirname "$0")/../.."
FROM=${FROM:-runs/quickstart} OUT=${OUT:-runs/ppo} UPDATES=${UPDATES:-20}
source recipes/quickstart/lib.sh
sft=$FROM/models/sft

# An update: 64 problems, 2 answers each, 4 rollouts before every step.
problems=$data/prompts.jsonl
head -n $((64 * UPDATES)) "$FROM/data/syn.problems.jsonl" >"$problems"
[ -f "$OUT/ppo/config.json" ] || stage ppo python -m openrlhf_negdata.cli.train_ppo_ray \
  --step_advantage.task "$TASK" --step_advantage.n_rollouts 4 \
  --data.prompt_dataset "$problems" --data.max_len 64 --rollout.max_new_tokens 18 \
  --rollout.batch_size 64 --rollout.n_samples_per_prompt 2 --rollout.micro_batch_size 32 \
  --actor.model_name_or_path "$sft" --actor.num_gpus_per_node 1 --actor.adam.lr 1e-4 --actor.adam.betas 0.9 0.98 \
  --train.batch_size 128 --train.micro_batch_size 32 --train.seed "$SEED" \
  --algo.advantage.estimator reinforce --algo.kl.init_coef 0 \
  --vllm.num_engines 1 --vllm.enable_prefix_caching \
  --ckpt.output_dir "$OUT/ppo" --ckpt.path "$OUT/checkpoints" --ckpt.save_steps 10 --ckpt.load_enable

stage evaluate negdata evaluate --task "$TASK" --problems "$FROM/data/test.problems.jsonl" --models sft="$sft" \
  ppo="$OUT/ppo" --output "$OUT/evaluation" --seed "$SEED" --rollout.temperature 1.0
negdata report --evaluation "$OUT/evaluation" --output "$OUT"

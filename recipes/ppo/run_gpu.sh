#!/usr/bin/env bash
# PPO with step advantages for a 7B instruct model on one node of 8 GPUs, every flag spelt out. NOT RUN YET: nothing of
# this package has run on CUDA. Four GPUs train, four sample and roll out.
#   MODEL=Qwen/Qwen2.5-7B-Instruct bash recipes/ppo/run_gpu.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
MODEL=${MODEL:?a model folder, or a model in the Hugging Face cache} OUT=${OUT:-runs/ppo_gpu}

PROBLEMS=(
  --step_advantage.task gsm8k # how prompts are written, where steps end, what is right
  --data.prompt_dataset hf:openai/gsm8k:main:train
  --eval.dataset hf:openai/gsm8k:main:test
  --data.apply_chat_template
  --data.max_len 1536
)
ADVANTAGES=(
  --step_advantage.n_rollouts 8 # before every step of every answer: the cost, see docs/ppo.md
  --step_advantage.best_of 1    # Q of the policy itself
  --step_advantage.steps task
  --algo.advantage.estimator reinforce # nothing of it is left but the flag: the advantages are the steps'
  --algo.kl.use_loss                   # KL belongs in the loss, not in the values
  --algo.kl.init_coef 1e-3
  --algo.kl.estimator k3
)
ROLLOUTS=(
  --rollout.batch_size 64
  --rollout.n_samples_per_prompt 4
  --rollout.micro_batch_size 8
  --rollout.max_new_tokens 1024
  --rollout.temperature 1.0
  --rollout.top_p 1.0
  --vllm.num_engines 4
  --vllm.tensor_parallel_size 1
  --vllm.enable_prefix_caching # rollouts share their prefixes
  --vllm.gpu_memory_utilization 0.85
  --vllm.sync_backend nccl
)
TRAINING=(
  --actor.model_name_or_path "$MODEL"
  --actor.num_nodes 1
  --actor.num_gpus_per_node 4
  --ref.num_nodes 1
  --ref.num_gpus_per_node 4
  --train.colocate_actor_ref
  --actor.gradient_checkpointing_enable
  --actor.adam.lr 1e-6
  --actor.max_norm 1.0
  --actor.eps_clip 0.2
  --actor.loss_agg_mode token-mean
  --train.batch_size 256
  --train.micro_batch_size 4
  --train.num_episodes 1
  --train.max_epochs 1
  --train.seed 42
  --ds.zero_stage 3
  --ds.param_dtype bf16
  --ds.packing_samples
  --ds.attn_implementation flash_attention_2
)
OUTPUT=(
  --eval.steps 10
  --eval.temperature 1.0
  --eval.n_samples_per_prompt 1
  --ckpt.output_dir "$OUT/policy"
  --ckpt.path "$OUT/checkpoints"
  --ckpt.save_steps 10
  --ckpt.max_num 3
  --ckpt.load_enable # goes on from the last checkpoint, if there is one
  --logger.logging_steps 1
  --logger.tensorboard_dir "$OUT/tensorboard"
)
python -m openrlhf_negdata.cli.train_ppo_ray "${PROBLEMS[@]}" "${ADVANTAGES[@]}" "${ROLLOUTS[@]}" "${TRAINING[@]}" \
  "${OUTPUT[@]}"

# Settings of the quickstart on number_walk. shellcheck shell=bash disable=SC2034
LAYERS=3
BASE_PROBLEMS=230400 SYN_PROBLEMS=4000 TEST_PROBLEMS=4000 TEST_SEED=777

SFT_ALIKE=(--adam.weight_decay 0.1 --train.batch_size 32 --train.micro_batch_size 32)
BASE_FLAGS=(--adam.lr 2e-3 --adam.weight_decay 0.1 --train.batch_size 64 --train.micro_batch_size 64 --train.max_epochs 1
  --lr_warmup_ratio 0.006)
SFT_FLAGS=(--adam.lr 5e-4 --adam.weight_decay 0.1 --train.batch_size 64 --train.micro_batch_size 64 --train.max_epochs 4
  --lr_warmup_ratio 0.08)
CONTROL_FLAGS=(--adam.lr 1e-4 --train.max_epochs 8 "${SFT_ALIKE[@]}")
RFT_FLAGS=(--adam.lr 2.5e-4 --train.max_epochs 2 "${SFT_ALIKE[@]}")
DPO_FLAGS=(--adam.lr 3e-4 --model.nll_loss_coef 1 --model.beta 0.1 --train.batch_size 32 --train.max_epochs 2)
STEP_DPO_FLAGS=("${DPO_FLAGS[@]}" --adam.lr 1e-4)

SAMPLE_FLAGS=(--rollout.n_samples_per_prompt 8 --rollout.temperature 1.0)
VALUE_FLAGS=(--value.n_rollouts 8 --value.correct_per_problem 1 --value.wrong_per_problem 2)
PITS=(--pit lowest_advantage --min_drop 0.25)
EVALUATE_FLAGS=(--q_problems 200 --q_rollouts 8 --rollout.temperature 1.0)

# Settings of the quickstart on running_value. shellcheck disable=SC2034
LAYERS=2
BASE_PROBLEMS=44800 SYN_PROBLEMS=2000 TEST_PROBLEMS=4000 TEST_SEED=777
BASE_FLAGS="--adam.lr 2e-3 --adam.weight_decay 0.1 --train.batch_size 64 --train.micro_batch_size 64 --lr_warmup_ratio 0.03"
SFT_FLAGS="--adam.lr 5e-4 --adam.weight_decay 0.1 --train.batch_size 64 --train.micro_batch_size 64 --train.max_epochs 4 --lr_warmup_ratio 0.1"
SAMPLE_FLAGS="--rollout.n_samples_per_prompt 8 --rollout.temperature 1.0"
VALUE_FLAGS="--value.n_rollouts 8 --value.correct_per_problem 2 --value.wrong_per_problem 2"
RFT_SET="--per_problem 4"
DPO_SET="--per_problem 2"
STEP_DPO_SET="--pit lowest_advantage --min_drop 0.25"
CONTROL_FLAGS="--adam.lr 2.5e-4 --adam.weight_decay 0.1 --train.batch_size 32 --train.micro_batch_size 32 --train.max_epochs 8 --lr_warmup_ratio 0.03"
RFT_FLAGS="--adam.lr 1e-4 --adam.weight_decay 0.1 --train.batch_size 32 --train.micro_batch_size 32 --train.max_epochs 2 --lr_warmup_ratio 0.03"
DPO_FLAGS="--adam.lr 1e-4 --model.beta 0.1 --train.batch_size 32 --train.max_epochs 2 --lr_warmup_ratio 0.03"
STEP_DPO_FLAGS="$DPO_FLAGS" ALGORITHM1_FLAGS="$DPO_FLAGS" SHARED_PREFIX_FLAGS="$DPO_FLAGS"
EVALUATE_FLAGS="--q_problems 200 --q_rollouts 8 --rollout.temperature 1.0"

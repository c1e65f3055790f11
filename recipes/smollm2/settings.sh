# Settings of SmolLM2-135M-Instruct on word_problems. shellcheck shell=bash disable=SC2034
SYN_PROBLEMS=${SYN_PROBLEMS:-800} TEST_PROBLEMS=${TEST_PROBLEMS:-1000} TEST_SEED=777
PROMPT=(--data.apply_chat_template)
ROWS=(--train.batch_size 16 --train.micro_batch_size 8)
PAIRS=(--model.beta 0.1 --train.batch_size 16 --train.max_tokens_per_gpu 2048)
SFT_FLAGS=(--adam.lr 2e-4 --train.max_epochs 1 "${ROWS[@]}")
CONTROL_FLAGS=(--adam.lr 1e-4 --train.max_epochs 2 "${ROWS[@]}")
RFT_FLAGS=(--adam.lr 1e-4 --train.max_epochs 1 "${ROWS[@]}")
DPO_FLAGS=(--adam.lr 2e-5 --train.max_epochs 1 "${PAIRS[@]}")

SAMPLE_FLAGS=(--rollout.n_samples_per_prompt 8 --rollout.temperature 1.0 --rollout.max_new_tokens 96)
VALUE_FLAGS=(--value.n_rollouts 8 --value.correct_per_problem 1 --value.wrong_per_problem 2)
PITS=(--pit lowest_advantage --min_drop 0.25)
EVALUATE_FLAGS=(--rollout.max_new_tokens 96)

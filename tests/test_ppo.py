"""Step advantages inside OpenRLHF's PPO: from steps to tokens, what is refused, and a run read on both sides."""

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from openrlhf_negdata import cpu
from openrlhf_negdata.cli import train_ppo_ray
from openrlhf_negdata.cli.main import main
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.ppo.settings import NEEDED, NEEDED_ON_CPU, Asked, StepAdvantage, check
from openrlhf_negdata.records import Problem
from openrlhf_negdata.rollouts.prompts import Prompting
from openrlhf_negdata.rollouts.sampling import encode_response
from openrlhf_negdata.steps import split_steps
from openrlhf_negdata.tasks import load

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def ppo():
    """The modules that import OpenRLHF's trainers."""
    cpu._import_without_flash_attn()
    from openrlhf_negdata.ppo import executor, experience

    return SimpleNamespace(executor=executor, experience=experience)


# From steps to tokens.


def test_every_token_has_the_advantage_of_its_own_step(ppo):
    """Three tokens of prompt, and steps that end after 2, 3 and 7 tokens of the answer."""
    made = ppo.executor.by_token([0.5, -1.0, 0.25], [2, 3, 7], 3, 64)
    assert made == [0, 0, 0.5, 0.5, -1.0, 0.25, 0.25, 0.25, 0.25]


def test_there_is_an_advantage_for_each_action_that_openrlhf_keeps(ppo):
    assert ppo.executor.by_token([0.5, -1.0], [2, 6], 2, 6) == [0, 0.5, 0.5, -1.0, -1.0]
    assert len(ppo.executor.by_token([0.5, -1.0], [2, 6], 2, 8)) == 7


def experiences():
    """Two micro-batches of two answers each, as OpenRLHF's experience maker has them before it computes advantages."""
    import torch
    from openrlhf.trainer.ppo_utils.experience import Experience

    made, numbers = [], iter(range(1, 100))
    for first, width in ((0, 5), (2, 7)):
        mask = torch.zeros(2, width)
        mask[0, 2:], mask[1, 3 : width - 1] = 1, 1
        dense = mask.clone()
        dense[mask == 1] = torch.tensor([next(numbers) / 8 for _ in range(int(mask.sum()))])
        info = {"step_advantage": dense, "reward": torch.tensor([1.0, 0.0])}
        rewards = torch.tensor([1.0, 0.0])
        made.append(
            Experience(
                action_mask=mask, kl=torch.zeros(2, width), rewards=rewards, index=[first, first + 1], info=info
            )
        )
    return made


@pytest.fixture
def maker(ppo):
    advantage = SimpleNamespace(estimator="reinforce", gamma=1.0, no_std_norm=False)
    reward = SimpleNamespace(clip_range=(-10, 10), overlong_buffer_len=None, stop_properly_penalty_coef=None)
    args = SimpleNamespace(
        algo=SimpleNamespace(advantage=advantage), reward=reward, rollout=SimpleNamespace(n_samples_per_prompt=2)
    )
    rest = (SimpleNamespace(value=0.0), SimpleNamespace(args=args), None)
    return ppo.experience.StepAdvantageExperienceMaker(None, None, None, None, *rest)


def test_advantages_are_neither_whitened_nor_scaled(maker):
    before = [experience.info["step_advantage"].clone() for experience in experiences()]
    after = maker.compute_advantages_and_returns(experiences())
    for wanted, experience in zip(before, after, strict=True):
        assert experience.advantages.equal(wanted)
        assert experience.returns.equal(wanted)
        assert "step_advantage" not in experience.info  # it is no figure to be logged


def test_advantages_of_other_tokens_are_an_error(maker):
    one, other = experiences()
    one.info["step_advantage"] = one.info["step_advantage"][:, 1:]
    with pytest.raises(ValueError, match=r"advantages of \(2, 4\) tokens for actions of \(2, 5\)"):
        maker.compute_advantages_and_returns([one, other])
    one, other = experiences()
    one.info["step_advantage"] = one.info["step_advantage"].roll(1, dims=1)
    with pytest.raises(ValueError, match="a token that is no action has an advantage"):
        maker.compute_advantages_and_returns([one, other])


def test_an_answer_that_was_not_valued_cannot_be_trained_on(maker):
    one, other = experiences()
    del other.info["step_advantage"]
    with pytest.raises(KeyError):
        maker.compute_advantages_and_returns([one, other])


# What is refused.

ASKED = StepAdvantage(task="running_value", identity="running_value")
FLAGS = {
    **{name: needed for name, (needed, _) in NEEDED.items()},
    **NEEDED_ON_CPU,
    **{"algo.kl.init_coef": 0.0, "algo.kl.use_loss": False, "rollout.temperature": 1.0, "vllm.num_engines": 1},
    "rollout.n_samples_per_prompt": 2,
    **{"actor.model_name_or_path": "model", "data.prompt_dataset": "problems.jsonl"},
}


@pytest.mark.parametrize("on_cpu", [True, False])
def test_a_run_that_is_right_is_let_through(on_cpu):
    check(FLAGS, ASKED, on_cpu)
    check(FLAGS | {"algo.kl.init_coef": 0.01, "algo.kl.use_loss": True}, ASKED, on_cpu)
    check(FLAGS | {"reward.clip_range": [-10, 10]}, ASKED, on_cpu)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"algo.advantage.estimator": "gae"}, "--algo.advantage.estimator must be reinforce, not gae: "),
        ({"algo.advantage.estimator": "group_norm"}, "must be reinforce, not group_norm: "),
        ({"algo.advantage.gamma": 0.99}, "--algo.advantage.gamma must be 1.0, not 0.99: "),
        ({"algo.kl.init_coef": 0.01}, "--algo.kl.init_coef above 0 needs --algo.kl.use_loss: "),
        ({"reward.clip_range": [0.0, 0.5]}, "--reward.clip_range must be -10.0 10.0, not 0.0 0.5: "),
        ({"reward.stop_properly_penalty_coef": 0.0}, "must be left out, not 0.0: it would change the reward"),
        ({"reward.overlong_buffer_len": 8.0}, "--reward.overlong_buffer_len must be left out, not 8.0: "),
        ({"reward.remote_url": "reward.py"}, "--reward.remote_url must be left out, not reward.py: the grader"),
        ({"train.agent_func_path": "agent.py"}, "--train.agent_func_path must be left out, not agent.py: "),
        ({"train.partial_rollout_enable": True}, "--train.partial_rollout_enable must be left out, not given: "),
        ({"data.input_template": "Q: {}"}, "--data.input_template must be left out, not Q: {}: write the name"),
        ({"rollout.temperature": 0.0}, "--rollout.temperature must be above 0"),
        ({"vllm.num_engines": None}, "--vllm.num_engines must be at least 1"),
        ({"data.prompt_dataset": None}, "--data.prompt_dataset is required"),
    ],
)
def test_what_would_train_on_other_advantages_is_refused(change, says):
    with pytest.raises(UserError) as refused:
        check(FLAGS | change, ASKED, on_cpu=False)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_cannot_run_without_cuda_is_refused_there_alone():
    packed = FLAGS | {"ds.packing_samples": True}
    check(packed, ASKED, on_cpu=False)
    with pytest.raises(UserError, match="--ds.packing_samples must be left out without CUDA, not given"):
        check(packed, ASKED, on_cpu=True)


def test_the_best_of_k_needs_k_rollouts():
    with pytest.raises(UserError, match=r"--step_advantage.best_of 9 needs as many rollouts"):
        check(FLAGS, StepAdvantage(task="running_value", best_of=9), on_cpu=False)


@pytest.mark.parametrize("name", ["skip_all_right", "skip_all_wrong"])
def test_a_single_answer_is_no_group_that_could_be_skipped(name):
    asked = dataclasses.replace(ASKED, **{name: True})
    check(FLAGS, asked, on_cpu=False)
    with pytest.raises(UserError, match=f"--step_advantage.{name} needs --rollout.n_samples_per_prompt 2 at least"):
        check(FLAGS | {"rollout.n_samples_per_prompt": 1}, asked, on_cpu=False)


def test_a_mistake_in_our_own_flags_is_one_line(capsys):
    for words, says in (
        ([], "error: --step_advantage.task is required"),
        (["--step_advantage.task", "no_task"], "error: unknown task: no_task"),
        (
            ["--step_advantage.task", "gsm8k", "--step_advantage.n_rollouts", "0"],
            "--step_advantage.n_rollouts must be ",
        ),
    ):
        assert train_ppo_ray.main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert says in line


def test_what_an_actor_raised_or_that_it_died_is_one_line():
    from ray.exceptions import ActorDiedError, RayTaskError

    def told(error):
        """As Ray tells the driver of it, when the trainer was told of it by an engine."""
        for actor in ("RolloutRayActor", "PPOTrainer"):
            error = RayTaskError(actor, "Traceback (most recent call last): ...", error).as_instanceof_cause()
        return error

    mistake, fault = UserError("the grader returned None"), ZeroDivisionError()
    assert train_ppo_ray.cause(mistake) is mistake
    assert train_ppo_ray.cause(told(mistake)) is mistake
    assert train_ppo_ray.cause(told(fault)) is fault
    died = train_ppo_ray.cause(told(ActorDiedError()))
    assert isinstance(died, UserError)
    assert "--ckpt.load_enable" in str(died)
    assert "\n" not in str(died)


def test_prompts_are_those_of_negdata_sample(tokenizers, gsm8k_rows, tmp_path):
    tokenizer, task, path = tokenizers["sentencepiece"], load("gsm8k"), tmp_path / "prompts.jsonl"
    problems = [
        task.problem({"question": row["question"], "gold": row["answer"]}, i) for i, row in enumerate(gsm8k_rows)
    ]
    encode = Prompting().encoder(tokenizer, task)
    train_ppo_ray.write_prompts(problems, encode, tokenizer, 2000, path)
    labels = [json.loads(json.loads(line)["label"]) for line in path.read_text(encoding="utf-8").splitlines()]
    assert labels == [{"gold": problem.gold, "prompt_ids": encode(problem.question)} for problem in problems]


def test_a_prompt_that_openrlhf_would_cut_is_refused(tokenizers, tmp_path):
    tokenizer, path = tokenizers["character"], tmp_path / "prompts.jsonl"
    encode = Prompting().encoder(tokenizer, load("gsm8k"))
    problem = Problem("seven", "What is 9 + 9?", "18")
    tokens = len(encode(problem.question))
    train_ppo_ray.write_prompts([problem], encode, tokenizer, tokens, path)
    with pytest.raises(UserError, match=f"problem seven has {tokens} tokens, .* leaves {tokens - 1}"):
        train_ppo_ray.write_prompts([problem], encode, tokenizer, tokens - 1, path)


class Engine:
    """Answers ``answer``, and of the draws from a prefix every second one with what is missing of it."""

    def __init__(self, prompt_ids, answer):
        self.prompt_ids, self.answer, self.asked = prompt_ids, answer, []

    async def generate(self, prompt_ids, params, multi_modal_data=None):
        self.asked.append((prompt_ids, params.n, params.seed, params.min_tokens, params.max_tokens))
        rest = self.answer[len(prompt_ids) - len(self.prompt_ids) :]
        made = [rest if i % 2 == 0 else self.answer[-1:] for i in range(params.n)]
        outputs = [SimpleNamespace(token_ids=list(ids), finish_reason="stop", text="", logprobs=None) for ids in made]
        return SimpleNamespace(outputs=outputs, prompt_token_ids=prompt_ids, num_cached_tokens=0)


@pytest.mark.parametrize("valued", [True, False])
def test_rollouts_are_drawn_as_the_answer_is_and_from_its_very_tokens(ppo, tiny_model, valued):
    """The prompt begins with a token that no text of it would be read as."""
    from transformers import AutoTokenizer
    from vllm import SamplingParams

    tokenizer, task = AutoTokenizer.from_pretrained(tiny_model), load("running_value")
    problem = next(task.generate(1, 0, "test"))
    prompt_ids = [tokenizer.pad_token_id, *tokenizer(problem.question)["input_ids"]]
    engine = Engine(prompt_ids, encode_response(tokenizer, problem.solution))
    label = Asked(problem.gold, prompt_ids, dataclasses.replace(ASKED, n_rollouts=4), valued, 1)
    params = SamplingParams(temperature=1.0, max_tokens=30, min_tokens=1)
    executor = ppo.executor.AgentExecutor()
    sample = asyncio.run(executor.execute("shown", label, params, 64, tokenizer, engine))
    first, *draws = engine.asked
    assert first == (prompt_ids, 1, None, 1, 30)
    assert sample["observation_tokens"] == prompt_ids + engine.answer
    assert sample["reward"] == 1.0
    if not valued:
        assert not draws
        return
    starts = [0, 3, 6, 9, 12, 15]
    assert draws == [(prompt_ids + engine.answer[:start], 4, None, int(start == 0), 30 - start) for start in starts]
    # Half of the draws are right from everywhere but the last step, where "= rN" is as good as begun.
    assert sample["extra_logs"]["step_advantage"][len(prompt_ids) - 1 :] == [0.0] * 15 + [0.5] * 3


class RightOrWrong(Engine):
    """Answers what is right or wrong, as ``right`` says of one answer after the other. Rollouts are right."""

    def __init__(self, prompt_ids, answer, right):
        super().__init__(prompt_ids, answer)
        self.right = list(right)

    async def generate(self, prompt_ids, params, multi_modal_data=None):
        output = await super().generate(prompt_ids, params)
        if prompt_ids == self.prompt_ids and self.right:
            output.outputs[0].token_ids = self.answer if self.right.pop(0) else self.answer[:3] + self.answer[-1:]
        # The answers of a group end one after the other, the first last.
        await asyncio.sleep(0.01 * len(self.right))
        return output


@pytest.fixture
def sampled(ppo, tiny_model):
    """What the executor logs of groups of answers to one prompt that RolloutRayActor samples all at once, by its own
    coroutine, in this process. ``right``: of every group, which of its answers are."""
    from openrlhf.trainer.ray.vllm_engine import RolloutRayActor
    from transformers import AutoTokenizer
    from vllm import SamplingParams

    tokenizer, task = AutoTokenizer.from_pretrained(tiny_model), load("running_value")
    problem = next(task.generate(1, 0, "test"))
    prompt_ids = tokenizer(problem.question)["input_ids"]
    sample = RolloutRayActor.__ray_actor_class__.generate_responses
    params = SamplingParams(temperature=1.0, max_tokens=30, min_tokens=1)

    def samples(flags, *right):
        executor = ppo.executor.AgentExecutor()
        settings = dataclasses.replace(ASKED, n_rollouts=4, **flags)

        async def ask(of_group):
            engine = RightOrWrong(prompt_ids, encode_response(tokenizer, problem.solution), of_group)
            engine.executor = executor
            label = Asked(problem.gold, prompt_ids, settings, True, len(of_group))
            return await sample(engine, "shown", label, params, 64, tokenizer, num_samples=len(of_group))

        async def ask_all():
            return await asyncio.wait_for(asyncio.gather(*map(ask, right)), 20)

        return [[one["extra_logs"] for one in group] for group in asyncio.run(ask_all())], executor

    return samples


SKIP = {"skip_all_right": True}, {"skip_all_wrong": True}
GROUPS = [True, True], [True, False], [False, False]


@pytest.mark.parametrize(
    ("flags", "skipped"),
    [
        ({}, [0, 0, 0]),
        (SKIP[0], [1, 0, 0]),
        (SKIP[1], [0, 0, 1]),
        (SKIP[0] | SKIP[1], [1, 0, 1]),
    ],
)
def test_groups_that_are_all_right_or_all_wrong_are_skipped_by_flag(sampled, flags, skipped):
    """The prompt of all three groups is the same, asked at once: a group is of one label, not of one text."""
    groups, executor = sampled(flags, *GROUPS)
    for group, wanted in zip(groups, skipped, strict=True):
        for logs in group:
            assert logs["step_advantage/skipped"] == wanted
            assert (logs["step_advantage/rollouts"] == 0) == wanted
            assert (logs["step_advantage/rollout_tokens"] == 0) == wanted
            if wanted:
                assert not any(logs["step_advantage"])
                assert logs["step_advantage/zero_share"] == 1
    assert not executor.groups.waiting


def test_a_skipped_answer_has_as_many_advantages_and_figures_as_one_that_is_valued(sampled):
    """OpenRLHF joins what is logged of answers by name: one that lacked a figure would shift those of others."""
    (skipped, *_), _ = sampled(SKIP[0], *GROUPS)
    (valued, *_), _ = sampled({}, *GROUPS)
    for one, other in zip(skipped, valued, strict=True):
        assert one.keys() == other.keys()
        assert len(one["step_advantage"]) == len(other["step_advantage"])
        assert one["step_advantage/steps"] == other["step_advantage/steps"]


# A run on CPU, read on both sides: what the executor returned, and what the policy's loss was given.


def train(folder, model, *more):
    """Updates of 16 answers. What the executors returned, for training and evaluation, and what the loss was given."""
    if " " in sys.executable:
        pytest.skip("the command refuses an interpreter whose path holds a space")
    (folder / "probe").mkdir()
    for name, count in (("train", 16), ("test", 4)):
        words = ["--split", "syn", "--count", count, "--output", folder / f"{name}.jsonl"]
        assert main(["problems", "--task", "running_value", *map(str, words)]) == 0
    words = ["--step_advantage.task", HERE / "parity_task.py", "--step_advantage.n_rollouts", 4]
    words += ["--data.prompt_dataset", folder / "train.jsonl", "--data.max_len", 64, "--rollout.max_new_tokens", 24]
    words += ["--rollout.batch_size", 8, "--rollout.n_samples_per_prompt", 2, "--rollout.micro_batch_size", 4]
    words += ["--train.batch_size", 16, "--train.micro_batch_size", 4]
    words += ["--algo.advantage.estimator", "reinforce", "--algo.kl.init_coef", 0]
    # So that OpenRLHF hands the engine's log-probabilities to the loss, which changes as good as nothing of it.
    words += ["--algo.advantage.is_correction_level", "token", "--algo.advantage.is_correction_mode", "clip"]
    words += ["--algo.advantage.is_correction_threshold", 0, 1000]
    words += ["--actor.model_name_or_path", model, "--actor.adam.lr", 1e-2, "--vllm.enable_prefix_caching"]
    words += ["--ckpt.output_dir", folder / "out", "--ckpt.path", folder / "ckpt", "--ckpt.best_metric_key", "none"]
    environment = os.environ | {
        "PPO_PROBE": str(folder / "probe"),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH")))),
        "HF_DATASETS_CACHE": str(folder / "datasets"),
    }
    command = [sys.executable, str(HERE / "ppo_probe.py"), *map(str, [*words, *more])]
    with open(folder / "log", "w+", encoding="utf-8") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=folder, timeout=500)
        log.seek(0)
        told = log.read()
    assert done.returncode == 0, told[-5000:]

    def rows(kind):
        return [json.loads(line) for file in (folder / "probe").glob(f"{kind}.*") for line in file.open()]

    answers = rows("executor")
    return SimpleNamespace(
        told=told,
        trained=[row for row in answers if "step_advantage" in row["logs"]],
        evaluated=[row for row in answers if "step_advantage" not in row["logs"]],
        loss=rows("loss"),
    )


@pytest.fixture(scope="module")
def run(tiny_model, tmp_path_factory):
    """Four updates, and evaluations of 4 problems after the second and the fourth."""
    folder = tmp_path_factory.mktemp("ppo")
    evaluation = ["--eval.dataset", folder / "test.jsonl", "--eval.steps", 2, "--eval.n_samples_per_prompt", 2]
    one = ["--actor.num_gpus_per_node", 1, "--vllm.num_engines", 1, "--train.num_episodes", 2]
    return train(folder, tiny_model, *one, *evaluation)


def key(log_probs):
    """What tells an answer from any other: the engine's log-probabilities of its tokens."""
    return tuple(np.asarray(log_probs, dtype=np.float32).tolist())


def of_actions(row, name):
    return [number for number, action in zip(row[name], row["mask"], strict=True) if action]


def assert_that_the_loss_was_given_what_the_executors_returned(run, answers):
    returned, given = Counter(), Counter()
    for answer in run.trained:
        ((start, end),) = answer["action_ranges"]
        advantages = answer["logs"]["step_advantage"][start - 1 : end - 1]
        returned[key(answer["rollout_log_probs"][start:end]), key(advantages)] += 1
    for row in run.loss:
        given[key(of_actions(row, "rollout")), key(of_actions(row, "advantages"))] += 1
        assert not any(number for number, action in zip(row["advantages"], row["mask"], strict=True) if not action)
    assert returned == given
    assert given.total() == answers


def test_advantages_reach_the_loss_token_for_token(run):
    assert_that_the_loss_was_given_what_the_executors_returned(run, 4 * 16)


def test_advantages_reach_the_loss_where_engines_and_ranks_are_several_and_asynchronous(tiny_model, tmp_path):
    several = ["--train.async_enable", "--actor.num_gpus_per_node", 2, "--vllm.num_engines", 2]
    assert_that_the_loss_was_given_what_the_executors_returned(train(tmp_path, tiny_model, *several), 2 * 16)


def test_the_run_holds_what_could_go_wrong(run):
    """Truncated answers that have advantages, and answers whose steps before the last have others than the last."""
    assert any(row["truncated"] and any(row["logs"]["step_advantage"]) for row in run.trained)
    of_steps = [[n for n in row["logs"]["step_advantage"] if n] for row in run.trained]
    assert any(len(set(numbers)) > 1 for numbers in of_steps)
    assert any(row["reward"] for row in run.trained)


def test_advantages_of_an_answer_add_up_to_its_reward_less_the_first_value(run, tiny_model):
    from transformers import AutoTokenizer

    tokenizer, task = AutoTokenizer.from_pretrained(tiny_model), load(str(HERE / "parity_task.py"))
    for row in run.trained:
        ((start, end),) = row["action_ranges"]
        tokens, advantages = row["observation_tokens"][start:end], row["logs"]["step_advantage"][start - 1 :]
        assert len(advantages) == len(tokens)
        steps = split_steps(tokens, tokenizer, task)
        first_value = row["reward"] - sum(advantages[first] for first, _ in steps)
        assert first_value in (0, 0.25, 0.5, 0.75, 1)
        assert row["logs"]["step_advantage/steps"] == len(steps)
        assert row["logs"]["step_advantage/rollouts"] == 4 * len(steps)


def test_an_evaluation_pays_for_no_rollouts(run):
    assert len(run.evaluated) == 2 * 4 * 2
    assert not any("rollout" in name for row in run.evaluated for name in row["logs"])


def test_new_weights_reach_the_engine(run, tiny_model):
    """In the last update, the engine's log-probabilities are the trainer's, and far from the first policy's."""
    import torch
    from transformers import AutoModelForCausalLM

    first = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    ids = {}
    for answer in run.trained:
        ((start, end),) = answer["action_ranges"]
        ids[key(answer["rollout_log_probs"][start:end])] = answer["observation_tokens"], start
    of_engine, of_trainer, of_first = [], [], []
    for row in run.loss[-16:]:
        tokens, start = ids[key(of_actions(row, "rollout"))]
        with torch.no_grad():
            logits = first(torch.tensor([tokens])).logits[0, start - 1 : -1].float()
        chosen = logits.log_softmax(-1).gather(1, torch.tensor(tokens[start:])[:, None])[:, 0]
        # OpenRLHF draws a token at least (min_tokens=1): the engine's first is of a policy that cannot end there.
        of_engine += of_actions(row, "rollout")[1:]
        of_trainer += of_actions(row, "old")[1:]
        of_first += chosen.tolist()[1:]
    engine = np.asarray(of_engine)
    assert np.abs(engine - of_trainer).mean() < (1e-4 if cpu.without_cuda() else 0.03)  # fp32, bf16
    assert np.abs(engine - of_first).mean() > 0.3


def test_what_step_advantages_cost_and_are_is_logged(run):
    for name in ("steps", "rollouts", "rollout_tokens", "rollout_time_share", "first_step", "last_step", "zero_share"):
        assert f"'step_advantage/{name}': " in run.told


def test_an_interpreter_whose_path_holds_a_space_is_refused_at_once(monkeypatch):
    """Ray's own worker start would fail for ever, and say nothing."""
    from openrlhf_negdata import cpu

    monkeypatch.setattr(sys, "executable", "/with space/python")
    with pytest.raises(UserError, match="a Python whose path holds no space"):
        cpu.start_ray(1, 1)

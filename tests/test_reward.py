"""The reward for OpenRLHF, loaded and called as OpenRLHF does: from a file, in a thread, and it never raises."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from openrlhf_negdata.errors import UserError
from openrlhf_negdata.grading.reward import LOGGED, for_task

HANGS = r"\boxed{5^{5^{5^{5^{5}}}}}"
PROMPT = "Question: 9 + 9?\nAnswer:\n"


@pytest.fixture(scope="module")
def executor_of():
    agent = pytest.importorskip("openrlhf.utils.agent")
    return lambda path: agent.SingleTurnAgentExecutor(str(path))


@pytest.fixture(scope="module")
def reward_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("reward") / "my_reward.py"
    path.write_text('from openrlhf_negdata.grading.reward import for_task\nreward_func = for_task("gsm8k")\n')
    return path


def check(result: dict, count: int) -> list[float]:
    """The rewards, after the checks that hold for every result."""
    assert set(result) == {"rewards", "scores", "extra_logs"}
    assert tuple(result["extra_logs"]) == LOGGED
    for value in (result["rewards"], result["scores"], *result["extra_logs"].values()):
        assert isinstance(value, torch.Tensor)
        assert value.dtype == torch.float32
        assert value.shape == (count,)
    assert torch.equal(result["rewards"], result["scores"])
    assert torch.equal(result["rewards"], result["extra_logs"]["correct"])
    return result["rewards"].tolist()


def flags(result: dict) -> set[str]:
    return {name for name, value in result["extra_logs"].items() if value.any()}


def call(executor, *row) -> dict:
    """As OpenRLHF calls a reward function: in a thread, lists of one."""
    (result,) = asyncio.run(executor._fetch_rewards_via_func(*([part] for part in row)))
    return result


@pytest.mark.parametrize(
    ("query", "right"),
    [
        (PROMPT + "9 + 9 = 18\nA: 18</s>", True),
        (PROMPT + "9 + 9 = 18\nA: 18<|im_end|>\n<|endoftext|>", True),
        (PROMPT + "#### 18<eos><pad><pad>", True),
        (PROMPT + "A: 18<end_of_turn>\n", True),
        (PROMPT + r"\boxed{17}</s>", False),
        # Cut off at its start, the prompt is not found: all is read.
        (PROMPT[9:] + "#### 18</s>", True),
        (PROMPT + "we get 18 apples, and now we", False),
    ],
)
def test_what_openrlhf_decodes_is_graded_without_its_prompt_and_special_tokens(executor_of, reward_file, query, right):
    executor = executor_of(reward_file)
    assert check(call(executor, query, PROMPT, "18"), 1) == [float(right)]
    assert check(call(executor, query, PROMPT, 18), 1) == [float(right)]
    few_shot = r"Question: 1? \boxed{18} " + PROMPT
    assert check(call(executor, few_shot + r"\boxed{17}</s>", few_shot, "18"), 1) == [0.0]
    assert flags(call(executor, few_shot + "no idea</s>", few_shot, "18")) == {"no_answer"}


def test_a_whole_rollout_of_openrlhf_is_rewarded(executor_of, reward_file):
    class Tokenizer:
        def __call__(self, text, **_):
            return {"input_ids": torch.tensor([[ord(character) for character in text]])}

        def decode(self, ids, skip_special_tokens):
            return "".join(map(chr, ids)) + "</s>"

    class Engine:
        async def generate(self, ids, params, multi_modal_data):
            output = SimpleNamespace(token_ids=[*map(ord, "#### 18")], finish_reason="stop", logprobs=None)
            return SimpleNamespace(outputs=[output])

    sampling = SimpleNamespace(max_tokens=16, logprobs=None)
    output = asyncio.run(executor_of(reward_file).execute(PROMPT, "18", sampling, 100, Tokenizer(), Engine()))
    assert output["reward"].tolist() == output["scores"].tolist() == [1.0]
    assert tuple(output["extra_logs"]) == LOGGED


def test_a_task_that_does_not_exist_is_an_error():
    with pytest.raises(UserError, match="unknown task"):
        for_task("gsm9k")


def test_several_rows_are_graded_together():
    rows = [("1", "1"), ("2", "3"), ("4", "4")]
    result = for_task("gsm8k")([f"#### {said}" for said, _ in rows], [""] * 3, [gold for _, gold in rows])
    assert check(result, 3) == [1.0, 0.0, 1.0]


GARBAGE = [None, 7, float("nan"), b"#### 18", "", [], {}, object(), ["#### 18"], torch.zeros(2), "\ud800", 10**5000]


@pytest.mark.parametrize("task", ["gsm8k", "math"])
def test_garbage_has_reward_zero_and_nothing_raises(task, caplog):
    reward_func = for_task(task, timeout=20, workers=1)
    for garbage in GARBAGE:
        if garbage != "":
            assert check(reward_func([garbage], [PROMPT], ["18"]), 1) == [0.0]
        assert check(reward_func([PROMPT], [PROMPT], [garbage]), 1) == [0.0]
        check(reward_func([r"\boxed{18}"], [garbage], ["18"]), 1)
        check(reward_func(garbage, garbage, garbage), len(garbage) if isinstance(garbage, list) else 1)
    result = reward_func([r"\boxed{18}"] * 3, [""] * 2, ["18"])
    assert check(result, 3) == [1.0, 0.0, 0.0]
    assert result["extra_logs"]["failed"].tolist() == [0.0, 1.0, 1.0]
    assert "no reward for a response" in caplog.text
    caplog.clear()
    assert flags(reward_func([r"\boxed{18}"], [""], [""])) == {"failed"}
    assert "--data.label_key" in caplog.text


@pytest.mark.parametrize("text", ["</s>", " ", "x", "\\boxed{", "<|", "</s> " + " " * 70])
def test_a_huge_response_is_read_in_no_time(text):
    huge = text * (4_000_000 // len(text))
    result = for_task("gsm8k")([huge, huge + "#### 18</s>"], [huge[:100], ""], ["18", huge])
    assert check(result, 2) == [0.0, 0.0]


def test_mathematics_that_hangs_is_timed_out_and_the_next_response_is_graded():
    reward_func = for_task("math", timeout=1, workers=1)
    result = asyncio.run(asyncio.to_thread(reward_func, [HANGS + "</s>"], [""], ["5"]))
    assert check(result, 1) == [0.0]
    assert flags(result) == {"timed_out"}
    assert check(reward_func([r"\boxed{5.0}</s>"], [""], ["5"]), 1) == [1.0]


def test_a_grader_that_cannot_start_is_no_reason_to_raise(monkeypatch, caplog):
    reward_func = for_task("math", workers=1)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/nonexistent")
        result = reward_func([r"\boxed{5}"], [""], ["5"])
    assert check(result, 1) == [0.0]
    assert flags(result) == {"failed"}
    assert "FileNotFoundError" in caplog.text
    assert check(reward_func([r"\boxed{5}"], [""], ["5"]), 1) == [1.0]


def test_a_process_that_graded_ends_by_itself():
    code = (
        "from openrlhf_negdata.grading.reward import for_task; "
        r"print(for_task('math', timeout=2)([r'\boxed{5}'], [''], ['5'])['rewards'])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=os.environ, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "tensor([1.])\n")


@pytest.mark.parametrize(
    "end",
    ["</s>", "<|im_end|>", "<|eot_id|>", "<|endoftext|>", "<｜end▁of▁sentence｜>", "<end_of_turn>\n<eos>", "<|end|>",
     "<|END_OF_TURN_TOKEN|>", "[/INST]", "</s><pad><pad>", "<|user|>"],
)  # fmt: skip
def test_no_end_token_of_any_family_hides_an_answer(end):
    reward = for_task("gsm8k")(["q The answer is 18" + end], ["q "], ["18"])
    assert reward["rewards"].tolist() == [1.0]


def test_a_label_that_is_no_gold_answer_fails_and_a_whole_solution_is_read():
    made = for_task("gsm8k")(["#### 18"] * 3, [""] * 3, ["9 * 2 = 18\n#### 18", "eighteen", None])
    assert made["rewards"].tolist() == [1.0, 0.0, 0.0]
    assert made["extra_logs"]["failed"].tolist() == [0.0, 1.0, 1.0]

"""The driver of rollouts with an engine of one's own, which any coroutine that draws can be."""

import asyncio

import pytest

from openrlhf_negdata.grading import Grader
from openrlhf_negdata.rollouts.engines import Continuation, Request, Sampling
from openrlhf_negdata.rollouts.sampling import encode_response
from openrlhf_negdata.steps.driver import ValueJob, ValueRun, value_answers
from openrlhf_negdata.steps.monte_carlo import Budget
from openrlhf_negdata.steps.split import PRESETS
from openrlhf_negdata.tasks import load

PROMPT = [7, 8]


class Engine:
    """Of ``n`` draws the i-th ends as ``endings[i % 2]`` says. It remembers what it was asked for."""

    def __init__(self, *endings: list[int]) -> None:
        self.endings = endings
        self.asked: list[Request] = []

    async def generate(self, request: Request) -> list[Continuation]:
        self.asked.append(request)
        return [Continuation(self.endings[i % 2], "stop") for i in range(request.n)]


@pytest.fixture
def valued(tiny_model):
    from transformers import AutoTokenizer

    task = load("running_value")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    problem = next(task.generate(1, 0, "syn"))
    whole = encode_response(tokenizer, problem.solution)
    run = ValueRun(
        "running_value", "running_value", 5.0, str(tiny_model), "sha256:0", PRESETS["task"], Sampling(), 64,
        Budget(n_rollouts=4), 0,
    )  # fmt: skip
    job = ValueJob(run, PROMPT, problem.gold, [(whole, "correct"), (whole, "correct")])
    engine = Engine(whole, [tokenizer.eos_token_id])
    with Grader(task) as grader:
        yield job, engine, asyncio.run(value_answers(job, engine.generate, tokenizer, task, grader)), whole


def test_each_distinct_prefix_is_asked_for_once_within_the_budget_of_tokens(valued):
    job, engine, result, whole = valued
    starts = [0, *result.step_ends[0][:-1]]
    assert result.step_ends[0] == result.step_ends[1]
    assert len(starts) > 2
    assert engine.asked == [
        Request([*PROMPT, *whole[:start]], 4, 64 - start, job.run.seed_of(PROMPT, tuple(whole[:start])))
        for start in starts
    ]


def test_a_draw_is_graded_as_the_end_of_the_response_that_it_completes(valued):
    """From the empty prefix, the whole solution is right and nothing at all is no answer."""
    _, _, result, whole = valued
    assert [draw.outcome for draw in result.draws[()]] == ["correct", "no_answer"] * 2
    correct, count = result.counts(0, whole)
    assert correct[0] == 2
    assert count == [4] * len(result.step_ends[0])


def test_a_race_rolls_out_the_first_steps_of_what_was_drawn_and_records_it_all(tiny_model):
    """From the prompt, right and wrong responses that part in their first step; after it, each goes on as it began."""
    from transformers import AutoTokenizer

    task = load("running_value")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    problem = next(task.generate(1, 0, "test"))
    words = problem.solution.split()
    words[1] = str((int(words[1]) + 1) % 31)
    words[-1] = f"r{(int(words[-1][1:]) + 1) % 3}"
    right, wrong = (encode_response(tokenizer, text) for text in (problem.solution, " ".join(words)))

    async def generate(request: Request) -> list[Continuation]:
        prefix = request.prompt_ids[len(PROMPT) :]
        going = [one for one in (right, wrong) if one[: len(prefix)] == list(prefix)]
        return [Continuation(going[(request.seed + i) % len(going)][len(prefix) :], "stop") for i in range(request.n)]

    run = ValueRun(
        "running_value", "running_value", 5.0, str(tiny_model), "sha256:0", PRESETS["task"], Sampling(), 64,
        Budget("race"), 0,
    )  # fmt: skip
    job = ValueJob(run, PROMPT, problem.gold, [(wrong, "wrong")])
    with Grader(task) as grader:
        result = asyncio.run(value_answers(job, generate, tokenizer, task, grader))
    first = result.step_ends[0][0]
    assert set(result.draws) == {(), tuple(right[:first]), tuple(wrong[:first])}
    _, rollouts = result.records(job, "p")
    assert len(rollouts) == sum(map(len, result.draws.values())) < 8 + 8 + 8
    assert {one.outcome for one in rollouts if list(one.prefix_ids) == wrong[:first]} == {"wrong"}

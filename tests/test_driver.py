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

"""Word problems: every solution is true, and no story of the test is one of the training set."""

import random
import re

import pytest

from openrlhf_negdata.tasks import load
from openrlhf_negdata.tasks.word_problems import LARGEST, calculate, of_split, write
from openrlhf_negdata.tasks.word_templates import TEMPLATES

TASK = load("word_problems")
#: Tokens of SmolLM2 a word, about.
TOKENS = 1.4


@pytest.fixture(scope="module")
def problems() -> list:
    return list(TASK.generate(10_000, 0, "syn"))


def test_every_calculation_is_true_and_the_last_is_the_gold_answer(problems):
    for problem in [*problems, *TASK.generate(1_000, 0, "test")]:
        *lines, last = problem.solution.split("\n")
        assert 3 <= len(lines) <= 4
        for line in lines:
            a, sign, b, equals, c = line.split()
            a, b, c = int(a), int(b), int(c)
            assert equals == "="
            assert {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[sign] == c
            assert all(0 <= number <= LARGEST for number in (a, b, c))
        assert last == f"#### {c}" == f"#### {problem.gold}"
        assert TASK.grade(problem.gold, problem.solution).outcome == "correct"
        assert TASK.grade(problem.gold, problem.solution.replace(last, f"#### {c + 1}")).outcome == "wrong"


def test_a_calculation_uses_what_the_story_says_and_every_result_is_used():
    for template in TEMPLATES:
        written = " ".join(template.calculations)
        numbers = set(re.findall(r"{([a-e])}", template.story))
        assert numbers == set(template.ranges) == set(re.findall(r"\b[a-e]\b", written))
        assert set(re.findall(r"r\d", written)) == {f"r{place}" for place in range(1, len(template.calculations))}
        constants = set(re.findall(r"\b\d\b", written))
        assert all({"2": "tw", "5": "five"}[constant] in template.story for constant in constants)


def test_ten_thousand_problems_differ_and_equal_seeds_give_equal_ones(problems):
    assert len({problem.question for problem in problems}) == len({problem.id for problem in problems}) == 10_000
    assert list(TASK.generate(50, 7, "syn")) == list(TASK.generate(50, 7, "syn")) != list(TASK.generate(50, 8, "syn"))


def test_no_template_of_the_test_is_one_of_the_training_set():
    train, test = of_split("syn"), of_split("test")
    assert of_split("base") == train
    assert len(train) + len(test) == len(TEMPLATES) >= 40
    assert len(test) >= 8
    plain = [re.sub(r"\W+", " ", template.story) for template in TEMPLATES]
    assert len(set(plain)) == len(TEMPLATES)
    asked = {re.sub(r"\d+", "0", problem.question).rsplit(".", 1)[-1] for problem in TASK.generate(2000, 0, "test")}
    assert not asked & {
        re.sub(r"\d+", "0", problem.question).rsplit(".", 1)[-1] for problem in TASK.generate(2000, 0, "syn")
    }


def test_a_story_leaves_nothing_open_and_begins_and_ends_as_english_does():
    rng = random.Random(0)
    for template in TEMPLATES:
        for _ in range(20):
            question, _ = write(template, rng)
            assert not re.search(r"[][{}|]|  ", question)
            assert question[0].isupper()
            assert question.endswith("?")
            assert all(re.match(r"[A-Z0-9]", sentence) for sentence in re.split(r"(?<=[.?]) ", question))
            assert not re.search(r"\b1 \w", question)  # 1 dollars


def test_prompts_are_short(problems):
    words = [len(TASK.prompt(problem.question).split()) for problem in problems]
    assert TOKENS * sum(words) / len(words) < 110


def test_a_story_whose_numbers_do_not_work_out_is_not_told():
    assert calculate(("a - b", "r1 / 2"), {"a": 9, "b": 3}) == ["9 - 3 = 6", "6 / 2 = 3"]
    assert calculate(("a - b",), {"a": 3, "b": 9}) is None
    assert calculate(("a - b",), {"a": 3, "b": 3}) is None
    assert calculate(("a / b",), {"a": 9, "b": 2}) is None
    assert calculate(("a * b",), {"a": 100, "b": 100}) is None

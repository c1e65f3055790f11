"""Tasks: reading rows, steps that join to the text, answers found only where they are announced."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrlhf_negdata.tasks import BUILT_IN, load
from openrlhf_negdata.tasks.gsm8k import last_boxed, read_number

SAMPLE = Path(__file__).parent / "data" / "gsm8k"
SMALL = ("number_walk", "running_value", "star_graph")


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (SAMPLE / name).read_text(encoding="utf-8").splitlines()]


def steps(task, text: str) -> list[str]:
    ends = [0, *task.step_ends(text), len(text)]
    return [text[start:end] for start, end in zip(ends, ends[1:], strict=False) if start < end]


@pytest.mark.parametrize("name", BUILT_IN)
@settings(deadline=None)
@given(text=st.text(alphabet="ab \n.;$\\[]|3", max_size=60))
def test_step_ends_ascend_within_the_text_so_that_steps_join_to_it(name, text):
    task = load(name)
    ends = task.step_ends(text)
    assert ends == sorted(set(ends))
    assert all(0 < end <= len(text) for end in ends)
    assert "".join(steps(task, text)) == text


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("split", ["base", "syn", "test"])
def test_generated_problems_stay_in_the_vocabulary_and_their_solutions_are_right(name, split):
    task = load(name)
    problems = list(task.generate(50, seed=3, split=split))
    assert problems == list(task.generate(50, seed=3, split=split))
    assert len({problem.id for problem in problems}) == 50
    for problem in problems:
        assert set(f"{problem.question} {problem.solution}".split()) <= set(task.words)
        assert task.grade(problem.gold, problem.solution).outcome == "correct"
        if split != "base":
            assert len(problem.solution.split()) < task.max_response_tokens


def test_star_graph_grades_the_exact_path_and_every_node_is_a_step():
    task = load("star_graph")
    for problem in task.generate(20, seed=0, split="test"):
        start, first, *_, goal = problem.gold.split()
        assert problem.question.endswith(f"/ {start} {goal} =")
        assert f"{start} {first}" in problem.question
        assert len(steps(task, problem.gold)) == 5
        assert task.trace_right(problem.question, problem.gold)
        assert task.grade(problem.gold, f"{problem.gold} {goal}").outcome == "wrong"
        assert not task.trace_right(problem.question, f"{start} {goal}")
    assert task.grade(problem.gold, " ").outcome == "no_answer"


def test_gsm8k_reads_its_published_rows():
    task = load("gsm8k")
    published = rows("problems.jsonl")
    assert len(published) == 60
    for number, row in enumerate(published, start=1):
        problem = task.problem(row, number)
        assert (problem.id, problem.question, problem.solution) == (str(number), row["question"], row["answer"])
        assert problem.gold == row["answer"].split("####")[1].strip().replace(",", "")
        assert task.grade(problem.gold, problem.solution).outcome == "correct"
        assert task.problem(vars(problem), 7) == problem


@pytest.mark.parametrize("row", [{"question": "q"}, {"question": "q", "answer": "18"}, {"question": "q", "gold": "?"}])
def test_gsm8k_refuses_rows_without_a_number_for_gold(row):
    with pytest.raises((KeyError, ValueError)):
        load("gsm8k").problem(row, 1)


def test_gsm8k_agrees_with_every_published_label_of_the_sample():
    labelled = rows("model_solutions.jsonl")
    assert len(labelled) == 150
    task = load("gsm8k")
    for row in labelled:
        gold = row["ground_truth"].rpartition("A: ")[2].replace(",", "")
        graded = task.grade(gold, row["solution"])
        assert (graded.outcome == "correct") == row["is_correct"], (gold, row["solution"], graded)


def test_a_published_solution_that_was_cut_off_anywhere_before_its_answer_has_none():
    task = load("gsm8k")
    for row in rows("problems.jsonl")[:20]:
        body, _, gold = row["answer"].partition("####")
        for end in range(len(body)):
            assert task.grade(gold.strip(), body[:end]).outcome == "no_answer"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18.00", 18),
        ("$1,080.00", 1080),
        (r"\$18", 18),
        (r"18 \text{ dollars}", 18),
        ("1{,}000", 1000),
        ("-$5", -5),
        ("$-5", -5),
        (r"\dfrac{1}{2}", Fraction(1, 2)),
        ("1 1/2", Fraction(3, 2)),
        (".5", Fraction(1, 2)),
        ("50%", 50),
        ("**18**.", 18),
        ("3 million", 3_000_000),
        ("18 miles/hour", 18),
        ("1,2", None),
        ("1/0", None),
        ("1e9", None),
        ("3 x 4", None),
        ("18 and a half", None),
        ("3 dozen", None),
        ("12:30", None),
        ("9" * 5000, None),
        ("", None),
    ],
)
def test_a_number_is_read_whole_or_not_at_all(text, value):
    assert read_number(text) == value


@pytest.mark.parametrize(
    ("response", "outcome", "answer"),
    [
        (r"\boxed{12} wait, \boxed{42}", "correct", "42"),
        (r"\boxed{42} wait, \boxed{12}", "wrong", "12"),
        (r"#### 12, or rather \boxed{42}", "correct", "42"),
        ("#### 12\n#### 42 apples\nDone.", "correct", "42 apples"),
        ("6 * 7 = 42\nA: 42", "correct", "42"),
        ("**Answer:** $42.00", "correct", "$42.00"),
        ("So the answer is 42.", "correct", "42."),
        ("The answer is 12, no, the answer is 42", "correct", "42"),
        ("#### 142", "wrong", "142"),
        ("we get 42 apples, and now we", "no_answer", None),
        ("The answer is 42 apples, and now we", "no_answer", None),
        ("The answer is 42\nbut 40 +", "no_answer", None),
        ("The answer is not 42", "no_answer", None),
        ("A: 42\nLet me check", "no_answer", None),
        (r"6 * 7 = 42 \boxed{", "no_answer", None),
        ("42 ####", "no_answer", None),
        ("", "no_answer", None),
    ],
)
def test_gsm8k_takes_the_last_announced_answer_and_no_other_number(response, outcome, answer):
    graded = load("gsm8k").grade("42", response)
    assert (graded.outcome, graded.answer) == (outcome, answer)


def test_last_boxed_balances_braces():
    assert last_boxed(r"\boxed{\frac{1}{2}} and \boxed {\{1, 2\}}") == r"\{1, 2\}"
    assert last_boxed(r"\boxed{\left\{ 1 \right.} {") == r"\left\{ 1 \right."
    assert last_boxed(r"\boxed{1} then \boxed{2") == "1"
    assert last_boxed(r"\boxed{" * 50_000) is None


@pytest.mark.parametrize(
    ("gold", "response", "outcome"),
    [
        (r"\frac{1}{2}", r"\boxed{0.5}", "correct"),
        (r"$\frac12$", r"\boxed{1}, no, \boxed{\dfrac{1}{2}}", "correct"),
        ("x^2+2x+1", r"\boxed{(x+1)^2}", "correct"),
        ("[1,2)", r"\boxed{[1, 2)}", "correct"),
        ("[1,2)", r"\boxed{(1, 2)}", "wrong"),
        ("(3,4)", r"\boxed{(4,3)}", "wrong"),
        (r"\{1,2\}", r"\boxed{2, 1}", "correct"),
        (r"\text{Monday}", r"\boxed{Monday}", "correct"),
        (r"\pm 5", r"\boxed{5}", "wrong"),
        # A per cent sign may be left out or put in, as MATH's own golds do.
        ("50", r"\boxed{50\%}", "correct"),
        # The gold answer comes first: an inequality may be answered by its interval, a pair not by an inequality.
        ("1<x<2", r"\boxed{(1,2)}", "correct"),
        ("(1,2)", r"\boxed{1<x<2}", "wrong"),
        ("42", "we get 42 apples, and now we", "no_answer"),
        ("42", r"so \boxed{}", "no_answer"),
    ],
)
def test_math_compares_what_is_boxed_with_gold_first(gold, response, outcome):
    assert load("math").grade(gold, response).outcome == outcome


def test_math_reads_its_published_rows():
    task = load("math")
    problem = task.problem({"problem": "p", "solution": r"so $\boxed{\frac{1}{2}}$", "level": "Level 1"}, 4)
    assert (problem.id, problem.question, problem.gold) == ("4", "p", r"\frac{1}{2}")
    assert task.problem({"problem": "p", "solution": r"so $\boxed 2$."}, 4).gold == "2"
    with pytest.raises(ValueError, match="boxed"):
        task.problem({"problem": "p", "solution": "so 2"}, 4)


def test_math_steps_are_sentences_and_lines_outside_mathematics():
    task = load("math")
    assert steps(task, "One. Two.\nThree.") == ["One.", " Two.\n", "Three."]
    assert steps(task, r"We get $x = 3. 5$ here. It is \$5. So \[a. b\] is 2.5.") == [
        "We get $x = 3. 5$ here.",
        r" It is \$5.",
        r" So \[a. b\] is 2.5.",
    ]


def test_displayed_mathematics_is_a_step_and_a_bare_delimiter_none():
    parts = [
        "We have\n",
        "\\[\nx + 1\n= 2\n\\]\n",
        "so\n",
        "$$\nx = 1.\n$$\n\n",
        "\\begin{align}\na\\\\\nb\n\\end{align}\n",
        "End.",
    ]
    for name in ("math", "gsm8k"):
        assert steps(load(name), "".join(parts)) == parts
        # A mark whose other one is missing, or stands behind a blank line.
        assert steps(load(name), "So\n\\[\n\nx\n\n\\]\nthen\n\\[\ny\n") == [
            "So\n",
            "\\[\n\nx\n\n\\]\n",
            "then\n",
            "\\[\ny\n",
        ]

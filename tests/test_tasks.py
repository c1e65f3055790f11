"""Tasks: reading rows, steps that join to the text, answers found only where they are announced."""

import json
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrlhf_negdata.tasks import BUILT_IN, load
from openrlhf_negdata.tasks.answers import last_boxed
from openrlhf_negdata.tasks.gsm8k import read_number

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
        ("2 millions", 2_000_000),
        ("2½", Fraction(5, 2)),
        ("½", Fraction(1, 2)),
        ("−5", -5),
        ("1\u200b8", 18),
        ("2³", None),
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


#: How published sets and models write 18, and what is no 18 though it holds one.
EIGHTEEN = r"""
#### 18 | #### $18/day | #### €18 | ####18 | #### **18** | #### 18 (eighteen) | #### $\$18$ | #### Answer: 18
#### \boxed{18} | \boxed{} and then #### 18 | so \boxed{3}, no: #### 18 | \boxed{18} #### Calculation: 9 times 2
\boxed{18 \, \text{\$}} | \boxed{x = 18} | \boxed{£18} | \boxed{18\,\text{m}^2} | \boxed{\text{Janet makes } 18}
\boxed{9 \times 2 = 18} | \boxed{\frac{36}{2}} | \boxed 18 | \fbox{18} | \boxed{18^\circ} | \boxed{18 \text{ sq. ft.}}
\boxed{18 \frac{\text{miles}}{\text{hour}}} | \boxed{USD 18} | \boxed{18.} | \boxed{\$18.00} | $\boxed{18}$ dollars
The answer is: 18 cm^2 | The final answer is $18$. I hope it is correct. | Final Answer: **18**
### Final Answer: ~ 18 | The answer is: ~ ~ 18 | **Final Answer** ~ ~ 18 | So, the answer is 18! | Answer: \(18\)
A:18 | The result is 18. | <think>it is \boxed{3}</think> The answer is 18 | hm \boxed{3}</think> \boxed{18}
The answer is 18 dollars per day. | <answer>18</answer> | <reasoning>20</reasoning><answer> ~ 18 eggs ~ </answer>
{"answer": "18"} | {"answer": 18} | The answer would be 18. | The answer should be 18 eggs. | The answer is $x = 18$.
\boxed{(18)} | The answer is (18). | \boxed{\left(18\right)} | \boxed{\underline{18}} | #### $\frac{36}{2}$ | #### ₩18
#### １８ | #### ١٨ | #### १८ | \boxed{１８} | #### ~ \boxed{18} | \boxed{3 \cdot 6 = 36/2 = 18}
[THINK]\boxed{20}[/THINK]\boxed{18} | ◁think▷\boxed{20}◁/think▷ The answer is 18.
#### 18 ~ ~ Question: And of 20? ~ Answer: ~ #### 20 | Question: How many? ~ Answer: 18
\boxed{18 m} | \boxed{18 L} | #### 18 milliliters
<|begin_of_thought|>\boxed{20}<|end_of_thought|> <|begin_of_solution|>\boxed{18}<|end_of_solution|>
"""
NOT_EIGHTEEN = r"""
18 | So 18. | we get 18 apples | #### 18 or 20 | #### 18-20 | #### Step 18 | #### 18. Compute the total | ### 18
#### 180 | #### 1.8 | #### -18 | #### 18/19 | #### 18 1/2 | #### 18 and a half | #### $18 and $20 | #### 18 ~ #### 20
\boxed{18 or 20} | \boxed{18} and \boxed{20} | \boxed{20} and \boxed{18} | \boxed{18, 20} | \boxed{18^2} | \boxed{18!}
\boxed{\text{not } 18} | \boxed{\text{less than } 18} | \boxed{half of 18} | \boxed{18 dozen} | \boxed{18:30}
\boxed{18 | \boxed{\pm 18} | \boxed{x > 18} | \boxed{18 \leq x} | \boxed{10^{18}} | \boxed{\sqrt{18}}
\boxed{(18)(2)} | \boxed{18x} | \boxed{0.\overline{18}} | \boxed{18_{16}} | \boxed{18 \cdot 10^3}
\boxed{18 \text{ million}} | \boxed{-18} | \boxed{18} so #### 20 | #### 18 ~ \boxed{20}
\boxed{18} ~ ~ The answer is 20. | The answer is 18, or 20 | The answer is not 18 | The answer is 18 ~ but 40 +
A: 18 ~ Let me check | Answer: 18 + 2 | Answer: 18 * 2 = 36 | <think>\boxed{18} | <think>The answer is 18</think>
<think>\boxed{18}</think>20 | The answer is 18 apples, and now we
\boxed{18n} | \boxed{18y} | #### 18M | #### 18 bn | #### 18 mil | #### 18 millions | #### 18 trillion | #### 18 lakh
#### 18 tens | #### 18 score | #### 18 squared | #### 18 factorial | #### 18 thirds | #### 18 hundredths | #### 18³
#### 18½ | #### 18万 | #### 十八 | #### ①8 | \boxed{18 Millionen} | \boxed{18 millones} | \boxed{18 тысяч}
\boxed{nicht 18} | \boxed{pas 18} | \boxed{x <= 18} | \boxed{x != 18} | \boxed{x \not= 18} | \boxed{20 \neq 18}
#### 20 = 18 | \boxed{a = 20, b = 18} | \boxed{a = 20 and b = 18} | \boxed{18 = 9 + 9} | <answer>20</answer>
<answer>18 or 20</answer> | <answer>18 | {"answer": 20, "sum": 18} | The answer was 18, not 20. | The answer is x > 18
[THINK]\boxed{18}[/THINK] I do not know. | ◁think▷\boxed{18} | <|begin_of_thought|>\boxed{18} | <THINK>\boxed{18}
\boxed{\text{18 is wrong}} | \boxed{\text{It isn't } 18} | \boxed{\text{double } 18} | \boxed{\text{a third of } 18}
\boxed{\text{nearly } 18} | \boxed{\text{ten thousand } 18} | #### 18 below zero | #### 18 doubled | #### 18 incorrect
Answer: 18 (which is wrong) | #### 18 (not 20) | \boxed{18 \text{ (no)}}
#### 20 ~ ~ Question: And of 18? ~ Answer: ~ #### 18 | The answer is 20 ~ ~ **Question:** 9 + 9? ~ Answer: 18
"""


def written(block: str) -> list[str]:
    return [
        one.strip().replace(" ~", "\n").replace("\n ", "\n").replace(" ####", "\n####")
        for line in block.strip().splitlines()
        for one in line.split(" | ")
    ]


@pytest.mark.parametrize("response", written(EIGHTEEN))
def test_gsm8k_reads_an_announced_number_however_it_is_written(response):
    assert load("gsm8k").grade("18", response).outcome == "correct"


@pytest.mark.parametrize("response", written(NOT_EIGHTEEN))
def test_gsm8k_takes_nothing_else_for_it(response):
    assert load("gsm8k").grade("18", response).outcome != "correct"


@pytest.mark.parametrize(
    "text",
    ["The answer is 1 ", "answer: ", "answer is 18. ", "<answer>", r"\boxed{", "#### 1\n", "Question:\n", "１", "="],
)
def test_a_policy_that_repeats_itself_is_graded_at_once(text):
    """GSM8K's grader runs in no process that could be killed: its time must grow with the response and no faster."""
    begin = time.process_time()
    load("gsm8k").extract(text * (100_000 // len(text)) + "x")
    assert time.process_time() - begin < 2


@pytest.mark.parametrize("response", [r"\boxed{x + y}", "#### 18 or 20", r"\boxed{2} and \boxed{3}", r"\boxed{a lot}"])
def test_what_is_announced_but_is_no_number_is_no_answer_of_gsm8k(response):
    assert load("gsm8k").grade("18", response).outcome == "no_answer"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"2\frac{1}{2}", Fraction(5, 2)),
        (r"\frac12", Fraction(1, 2)),
        (r"168,000 \, \text{\$}", 168_000),
        (r"168\,000", 168_000),
        ("100 cm^2", 100),
        (r"5\text{ sq. ft.}", 5),
        ("5 (five)", 5),
    ],
)
def test_a_number_may_be_mixed_or_have_a_unit(text, value):
    assert read_number(text) == value


@pytest.mark.parametrize("gold", ["18", 18, 18.0, "$18", "18 dollars", r"\boxed{18}", "9 * 2 = 18\n#### 18", "1,8"])
def test_gold_answers_of_gsm8k_are_read_in_every_form_or_refused(gold):
    task = load("gsm8k")
    if gold == "1,8":
        with pytest.raises(ValueError, match="not a number"):
            task.read_gold(gold)
    else:
        assert task.grade(task.read_gold(gold), "#### 18").outcome == "correct"


@pytest.mark.parametrize(
    ("gold", "response", "outcome"),
    [
        ("28", r"\boxed{28.}", "correct"),
        ("12", r"so \boxed 12", "correct"),
        (r"\{2,3\}", r"$\boxed{2}$ and $\boxed{3}$", "correct"),
        ("3", r"\boxed{2} and \boxed{3}", "wrong"),
        ("3", r"\boxed{2}. No, it is \boxed{3}", "correct"),
        (r"\text{June 20}", r"\boxed{June 20}", "correct"),
        ("June 20", r"\boxed{\text{June 20}}", "correct"),
        (r"so it is $\boxed{7}$.", r"\boxed{7}", "correct"),
        ("5", r"<think>\boxed{5}</think> so it is 5", "no_answer"),
        ("5", r"<think>\boxed{5}", "no_answer"),
        ("18", r"\boxed{１８}", "correct"),
        ("18", r"\boxed{18\text{ million}}", "wrong"),
        ("18,000,000", r"\boxed{18\text{ million dollars}}", "correct"),
        (r"\$3 million", r"\boxed{3\,000\,000}", "correct"),
        ("10", r"\boxed{10_2}", "wrong"),
        ("10", r"\boxed{10_{10}}", "correct"),
        ("11_2", r"\boxed{11_3}", "wrong"),
        ("11_{2}", r"\boxed{11_2}", "correct"),
        ("11_2", r"\boxed{11}", "correct"),
        ("x_1", r"\boxed{x_1}", "correct"),
    ],
)
def test_math_reads_what_models_box(gold, response, outcome):
    assert load("math").grade(gold, response).outcome == outcome


def test_math_reads_the_rows_of_competition_sets():
    task = load("math")
    assert task.problem({"problem": "p", "answer": 7}, 1).gold == "7"
    assert task.problem({"problem": "p", "answer": None, "solution": r"so \boxed{7}"}, 1).gold == "7"
    with pytest.raises((KeyError, ValueError)):
        task.problem({"problem": "p", "answer": None}, 1)


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

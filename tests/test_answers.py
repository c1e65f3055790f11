"""The answers that an evaluation keeps: estimators by hand, what is written is what is read, two arms side by side."""

import itertools
import json
import random
from pathlib import Path
from statistics import mean

import pytest

from openrlhf_negdata.analysis import answers
from openrlhf_negdata.analysis.at_k import NONE, RIGHT, majority_at, pass_at, sizes, votes_of
from openrlhf_negdata.analysis.summary import read_evaluation, summarize
from openrlhf_negdata.analysis.tables import of_summary
from openrlhf_negdata.cli.main import main
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.records import Problem, Trace


def test_pass_at_k_is_the_share_of_all_subsets_of_k_that_hold_a_right_sample():
    for right in range(6):
        votes = [RIGHT] * right + [2] * (5 - right)
        for k in range(1, 6):
            subsets = list(itertools.combinations(votes, k))
            assert pass_at(votes, k) == pytest.approx(sum(RIGHT in one for one in subsets) / len(subsets))


def test_majority_at_k_by_hand():
    """Groups of three: 1 1 2 right; 2 2 1 wrong; 1 2 3 a tie of three; none, none, 1 right; what is left over of a
    group counts for nothing."""
    groups = [[1, 1, 2], [2, 2, 1], [1, 2, 3], [NONE, NONE, 1], [NONE] * 3]
    assert [majority_at(group, 3) for group in groups] == pytest.approx([1, 0, 1 / 3, 1, 0])
    assert majority_at([*itertools.chain(*groups), 1, 1], 3) == pytest.approx((1 + 0 + 1 / 3 + 1 + 0) / 5)


def test_both_estimators_are_unbiased():
    """From 8 samples they have the mean that 4 samples have, of a policy that is right, or wrong in two ways."""
    draw = random.Random(0)
    chances = {RIGHT: 0.4, 2: 0.35, 3: 0.15, NONE: 0.1}

    def drawn(size, times):
        return (draw.choices(list(chances), list(chances.values()), k=size) for _ in range(times))

    of_8 = list(drawn(8, 4000))
    assert mean(pass_at(votes, 4) for votes in of_8) == pytest.approx(1 - 0.6**4, abs=0.015)
    of_4 = mean(majority_at(votes, 4) for votes in drawn(4, 20000))
    assert mean(majority_at(votes, 4) for votes in of_8) == pytest.approx(of_4, abs=0.02)


def test_votes_join_right_answers_and_equal_wrong_ones_and_leave_out_the_rest():
    made = [
        ("correct", "1/2"), ("wrong", "3 "), ("correct", "0.5"), ("wrong", "3"), ("wrong", "4"), ("truncated", "9"),
        ("no_answer", None), ("timed_out", None),
    ]  # fmt: skip
    traces = [Trace("p", i, None, None, "", "stop", outcome, said) for i, (outcome, said) in enumerate(made)]
    assert votes_of(traces) == [RIGHT, 2, RIGHT, 2, 3, NONE, NONE, NONE]


def test_the_sizes_told_are_powers_of_two_and_all():
    assert [sizes(n) for n in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]


PROBLEMS = [Problem(f"p{i}", f"[red]{i}+1?", str(i + 1)) for i in range(5)]


def trace(number, right, sample=0):
    text, outcome = (f"it is {number + 1}", "correct") if right else ("it is 0", "wrong")
    return Trace(f"p{number}", sample, [1], [1] * (number + 1), text, "stop", outcome, text[6:])


def kept(folder: Path, arm: str, right: list[int], **more) -> Path:
    """An evaluated arm as `negdata evaluate` leaves it."""
    folder.mkdir(exist_ok=True)
    answers.write_problems(folder, PROBLEMS)
    answers.write(answers.file_of(folder, arm), [trace(i, one) for i, one in enumerate(right)])
    told = {
        "arm": arm, "model": arm, "task": "t", "problems": 5, "wrong": [1 - one for one in right],
        "trace_wrong": None, "outcomes": {"correct": sum(right), "wrong": 5 - sum(right)}, "q_by_step": None,
    }  # fmt: skip
    (folder / f"{arm}.json").write_text(json.dumps(told | more))
    (folder / "settings.json").write_text("{}")
    return folder


def test_answers_are_read_as_they_were_written(tmp_path):
    kept(tmp_path, "a", [1, 0, 1, 0, 1])
    made = answers.read(tmp_path, "a")
    assert [(one.problem, one.sample, one.tokens, one.outcome, one.answer) for one in made[:2]] == [
        ("p0", 0, 1, "correct", "1"),
        ("p1", 0, 2, "wrong", "0"),
    ]
    assert not list(tmp_path.glob(".*tmp"))


def test_two_arms_are_set_side_by_side_where_one_alone_is_right(tmp_path, capsys):
    kept(tmp_path, "a", [1, 0, 1, 0, 1])
    kept(tmp_path, "b", [1, 1, 0, 0, 0])
    assert main(["show", str(tmp_path), "--compare", "a:b", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["right_by"] == {"a and b": 1, "a": 2, "b": 1, "neither": 1}
    assert [problem["id"] for problem in told["problems"]] == ["p2", "p1", "p4"]
    assert told["problems"][0]["answers"]["a"]["text"] == "it is 3"
    assert main(["show", str(tmp_path), "--compare", "a:b", "--answers", "1"]) == 0
    text = capsys.readouterr().out
    assert "2 problems: right by a\n" in text
    assert "p2: [red]2+1?" in text
    assert "it is 3" in text
    assert "it is 0" in text
    assert "p1" not in text


def test_what_cannot_be_compared_is_one_line(tmp_path, capsys):
    folder = kept(tmp_path / "e", "a", [1, 0, 1, 0, 1])
    kept(folder, "b", [1] * 5)
    answers.write(answers.file_of(folder, "b"), [trace(0, True)])
    for arms, says in (("a:c", "no answers of an arm c were kept"), ("a:b", "are not to the problems"), ("a", "A:B")):
        assert main(["show", str(folder), "--compare", arms]) == 2
        told = capsys.readouterr().err
        assert says in told
        assert told.count("\n") == 1


def test_problems_of_someone_else_are_not_replaced(tmp_path):
    (tmp_path / "problems.jsonl").write_text('{"question": "mine"}\n')
    with pytest.raises(UserError, match="is in the way: it holds other problems"):
        answers.write_problems(tmp_path, PROBLEMS)
    assert (tmp_path / "problems.jsonl").read_text() == '{"question": "mine"}\n'


def test_pass_and_majority_of_an_evaluation_have_intervals_over_problems(tmp_path):
    votes = [[1, 1, 1, 2], [1, 2, 2, 2], [2, 2, 3, 0], [1, 1, 2, 0], [0, 0, 0, 0]]
    kept(tmp_path, "a", [1, 0, 1, 0, 1], votes=votes)
    said = summarize(*read_evaluation(tmp_path), {})
    rows = {row["k"]: row for row in said["at_k"]["a"]}
    assert rows[1]["pass"] == pytest.approx(mean([3 / 4, 1 / 4, 0, 2 / 4, 0]))
    assert rows[2]["pass"] == pytest.approx(mean([1, 3 / 6, 0, 5 / 6, 0]))
    assert rows[4]["majority"] == pytest.approx(mean([1, 0, 0, 1, 0]))
    assert rows[2]["majority"] is None
    assert all(row["pass_low"] <= row["pass"] <= row["pass_high"] for row in rows.values())
    table = of_summary(said)["at_k"]
    assert table.head == ["arm", "pass@1", "pass@2", "pass@4", "maj@4"]
    assert table.rows[0][1].startswith("30.0 [")


@pytest.mark.parametrize(
    "votes", [[[1]] * 4, [[1], [1, 1], [1], [1], [1]], [[]] * 5, [[-1]] * 5, [["1"]] * 5, [[True]] * 5]
)
def test_votes_that_are_none_are_refused(tmp_path, votes):
    kept(tmp_path, "a", [1, 0, 1, 0, 1], votes=votes)
    with pytest.raises(UserError, match=r"a\.json: malformed: votes are not"):
        read_evaluation(tmp_path)

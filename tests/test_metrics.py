"""The rows of metrics.jsonl after a kill at any byte, and the curves that a report draws of them."""

import json
from pathlib import Path

import pytest

from openrlhf_negdata.analysis import page
from openrlhf_negdata.analysis.curves import averaged, read_curves
from openrlhf_negdata.analysis.summary import Arm, summarize
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.records import OUTCOMES
from openrlhf_negdata.trainers.metrics import Metrics, size, under_way


def updates(path):
    return [json.loads(line)["update"] for line in path.read_text().splitlines()]


def test_a_run_that_goes_on_repeats_no_row_wherever_it_was_killed(tmp_path):
    """Killed at every byte of what was written, resumed from a checkpoint after update 2."""
    whole = tmp_path / "whole"
    metrics = Metrics(whole, 0)
    for update in (1, 2, 3):
        metrics.add(update, {"loss": 1 / update}, last=update == 2)
    content = whole.read_bytes()
    two = len(b"".join(content.splitlines(keepends=True)[:2]))
    for end in range(two, len(content) + 1):
        path = tmp_path / "killed"
        path.write_bytes(content[:end])
        metrics = Metrics(path, 2)
        metrics.add(3, {"loss": 0.5}, last=False)
        assert updates(path) == [1, 2, 3]
        assert json.loads(path.read_text().splitlines()[2])["loss"] == 0.5


def test_a_run_that_starts_anew_has_no_row_of_the_one_before(tmp_path):
    for _ in range(2):
        Metrics(under_way(tmp_path / "out"), 0).add(1, {"loss": float("nan"), "tokens": 7}, last=False)
    assert under_way(tmp_path / "out").read_text() == '{"update": 1, "loss": null, "tokens": 7}\n'


@pytest.mark.parametrize("content", ["mine\n", "[1]\n", '{"loss": 1}\n', '{"update": "1"}\n'])
def test_a_file_of_someone_else_is_left_alone(tmp_path, content):
    path = tmp_path / "out.metrics.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match="is in the way"):
        size(path)
    with pytest.raises(UserError, match="is in the way"):
        Metrics(path, 0)
    assert path.read_text() == content


def arm(name: str, model: Path) -> Arm:
    return Arm(name, str(model), "t", [0, 1], None, dict.fromkeys(OUTCOMES, 0), None)


def test_the_page_has_the_curve_of_every_arm_that_has_metrics(tmp_path):
    for name in ("sft", "dpo"):
        metrics = Metrics(tmp_path / name / "metrics.jsonl", 0)
        for update in range(1, 500):
            held_out = {"eval/loss": 0.7} if name == "dpo" and update % 100 == 0 else {}
            metrics.add(update, {"loss": 1 / update, **held_out}, last=False)
    arms = [arm(name, tmp_path / name) for name in ("sft", "dpo", "other")]
    curves = read_curves(arms)
    assert list(curves) == ["sft", "dpo"]
    assert curves["dpo"]["held_out"] == [(update, 0.7) for update in (100, 200, 300, 400)]
    assert curves["sft"]["held_out"] == []
    assert len(curves["sft"]["loss"]) == 167
    assert curves["sft"]["loss"][0] == pytest.approx((2, (1 + 1 / 2 + 1 / 3) / 3))
    html = page.page(summarize(arms, {}, {}), "t", [], {}, curves)
    assert "<h2>Training</h2>" in html
    assert "dots are of held-out rows" in html
    assert "<h2>Training</h2>" not in page.page(summarize(arms, {}, {}), "t", [], {}, read_curves(arms[2:]))


def test_points_are_averaged_and_none_is_lost():
    points = [(float(x), float(x)) for x in range(1, 6)]
    assert averaged(points, 2) == [(2, 2), (4.5, 4.5)]
    assert averaged(points, 5) == points


def test_metrics_that_are_none_are_one_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"update": 1, "loss": "low"}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl:1: malformed row"):
        read_curves([arm("sft", tmp_path)])

"""The report says what the inputs say, the same each time, and nothing an input holds becomes part of the page."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from openrlhf_negdata.analysis import page, tables
from openrlhf_negdata.analysis.intervals import wilson
from openrlhf_negdata.analysis.summary import Arm, read_evaluation, summarize
from openrlhf_negdata.analysis.traces import ShownTrace, choose_traces
from openrlhf_negdata.cli.main import main
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.records import OUTCOMES, Problem, StepValues, Trace
from openrlhf_negdata.rollouts.store import Run

HOSTILE = (
    "</td></li></style><script>alert(1)</script><img src=x onerror='alert(1)'>\" onmouseover=\"alert(1) &lt;b&gt;"
)


def arm(name, wrong, trace_wrong=None, q_by_step=None, **changes):
    row = {
        "arm": name,
        "model": f"models/{name}",
        "task": "running_value",
        "problems": len(wrong),
        "wrong": wrong,
        "trace_wrong": trace_wrong,
        "outcomes": {
            "correct": wrong.count(0), "wrong": wrong.count(1), "truncated": 0, "no_answer": 0, "timed_out": 0,
            "failed": 0
        },
        "q_by_step": q_by_step,
    }  # fmt: skip
    return {**row, **changes}


def evaluation(folder, *arms, settings=None):
    folder.mkdir(exist_ok=True)
    for row in arms:
        (folder / f"{row['arm']}.json").write_text(json.dumps(row))
    if settings is not None:
        (folder / "settings.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def inputs(tmp_path):
    """Three arms on 20 problems: 10, 4 and 2 wrong; Q of sft at two steps; two stages, one of them run twice."""
    q = {"correct": [[1, 2], [3, 4], [0]], "count": [[4, 4], [4, 4], [4]]}
    folder = evaluation(
        tmp_path / "evaluation",
        arm("step_dpo", [1] * 2 + [0] * 18),
        arm("sft", [1] * 10 + [0] * 10, trace_wrong=[1] * 15 + [0] * 5, q_by_step=q),
        arm("rft", [1] * 4 + [0] * 16),
        settings={"temperature": 0.0, "task": "running_value"},
    )
    times = tmp_path / "times.jsonl"
    times.write_text(
        '{"stage": "sft", "seconds": 1.5}\n{"stage": "value", "seconds": 70}\n{"stage": "sft", "seconds": 2}\n'
    )
    return folder, times


def value_run(path, traces, settings=None):
    problems = [Problem(f"p{i}", f"{i} +1 +2 ?", "r0") for i in range(len(traces))]
    run = Run.create(path, "value", {"task": "running_value", **(settings or {})}, problems)
    rows = [
        Trace(problem.id, 0, [0], list(range(len(correct))), "", "stop", outcome, "r1")
        for problem, (outcome, correct) in zip(problems, traces, strict=True)
    ]
    run.expect(1)
    run.write("traces", 0, rows)
    run.write("rollouts", 0, [])
    run.write(
        "values",
        0,
        [
            StepValues(row.problem, 0, list(range(1, len(correct) + 1)), correct, [4] * len(correct))
            for row, (_, correct) in zip(rows, traces, strict=True)
        ],
    )
    run.finish({})
    return Run.open(path)


def shown(steps, correct, outcome, count=None, **changes):
    ends = list(range(1, len(steps) + 1))
    values = StepValues("p", 0, ends, correct, count or [4] * len(steps))
    texts = {"title": "p, sample 0", "question": "1 +1 ?", "gold": "r2", "answer": "r1", **changes}
    return ShownTrace(outcome=outcome, steps=steps, values=values, **texts)


class Elements(HTMLParser):
    """Every element of a page with its attributes, and all of its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_summary_figures_equal_those_worked_by_hand(inputs, tmp_path, capsys):
    folder, times = inputs
    assert main(["report", "--evaluation", str(folder), "--times", str(times), "--output", str(tmp_path / "out")]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert list(summary["arms"]) == ["sft", "rft", "step_dpo"]
    sft = summary["arms"]["sft"]
    assert (sft["error"], sft["trace_error"], sft["problems"]) == (0.5, 0.75, 20)
    # Wilson at 10 of 20 with z = 1.96: half-width z / 2 / sqrt(20 + z²), here 0.2007.
    assert (sft["low"], sft["high"]) == pytest.approx((0.5 - 0.2007, 0.5 + 0.2007), abs=1e-4)
    assert (sft["trace_low"], sft["trace_high"]) == pytest.approx(wilson(15, 20)[1:])
    assert summary["arms"]["rft"]["trace_error"] is None
    assert sft["outcomes"] == {"correct": 10, "wrong": 10, "truncated": 0, "no_answer": 0, "timed_out": 0, "failed": 0}
    assert list(summary["q_by_step"]) == ["sft"]
    rows = summary["q_by_step"]["sft"]
    assert [(row["step"], row["problems"]) for row in rows] == [(0, 3), (1, 2)]
    assert [row["q"] for row in rows] == pytest.approx([(0.25 + 0.75 + 0) / 3, (0.5 + 1) / 2])
    assert all(0 <= row["low"] <= row["q"] <= row["high"] <= 1 for row in rows)
    assert summary["seconds"] == {"sft": 3.5, "value": 70.0}
    assert summary["settings"] == {"temperature": 0.0, "task": "running_value"}


def test_step_dpo_is_compared_with_sft_and_with_the_best_arm_of_right_answers(inputs):
    differences = summarize(*read_evaluation(inputs[0]), {})["differences"]
    found = {(row["arm"], row["minus"]): row["difference"] for row in differences}
    assert found == pytest.approx({("rft", "sft"): -0.3, ("step_dpo", "sft"): -0.4, ("step_dpo", "rft"): -0.1})
    assert all(row["low"] <= row["difference"] <= row["high"] for row in differences)


def test_step_dpo_is_compared_with_naive_dpo_first_of_all(tmp_path):
    arms, _ = read_evaluation(evaluation(tmp_path, *(arm(name, [0, 1]) for name in ("sft", "dpo", "step_dpo", "awr"))))
    pairs = [(row["arm"], row["minus"]) for row in summarize(arms, {}, {})["differences"]]
    assert pairs == [("step_dpo", "dpo"), ("step_dpo", "sft"), ("dpo", "sft"), ("awr", "sft")]


def test_any_two_arms_are_compared_when_asked(inputs, tmp_path, capsys):
    command = ["report", "--evaluation", str(inputs[0]), "--output", str(tmp_path / "out"), "--compare"]
    assert main([*command, "rft:step_dpo"]) == 0
    rows = json.loads((tmp_path / "out" / "summary.json").read_text())["differences"]
    assert (rows[0]["arm"], rows[0]["minus"], rows[0]["difference"]) == ("rft", "step_dpo", pytest.approx(0.1))
    for asked, message in (("rft:dpo", "no arm dpo"), ("rft", "write A:B")):
        assert main([*command, asked]) == 2
        assert message in capsys.readouterr().err


def test_the_terminal_and_markdown_and_the_page_tell_the_same_figures(inputs):
    arms, settings = read_evaluation(inputs[0])
    table = tables.of_summary(summarize(arms, settings, {}))["errors"]
    html = Elements(tables.as_html(table)).text
    markdown = "\n".join(tables.as_markdown(table))
    cells = [cell for row in table.rows for cell in row if cell]
    assert "50.0 [29.9, 70.1]" in cells
    assert all(cell in html and cell in markdown for cell in cells)


def test_a_table_too_wide_for_the_terminal_leaves_out_its_intervals_and_says_so():
    table = tables.Table("Q", ["steps", *"abcdefgh"], [["0", *["0.51 [0.50, 0.52]"] * 8]])
    wide, narrow = (tables.for_terminal(table, width) for width in (300, 119))
    assert ("intervals" in wide.title, "intervals" in narrow.title) == (False, True)
    assert [str(cell) for cell in narrow.columns[1].cells] == ["0.51"]


def test_q_of_no_rollouts_is_left_out_not_counted_as_zero(tmp_path):
    q = {"correct": [[0, 4], [4, 4]], "count": [[0, 4], [4, 4]]}
    arms, _ = read_evaluation(evaluation(tmp_path, arm("sft", [0, 1], q_by_step=q)))
    rows = summarize(arms, {}, {})["q_by_step"]["sft"]
    assert (rows[0]["q"], rows[0]["problems"]) == (1.0, 1)


def test_arms_stand_in_the_order_of_the_paper_then_by_name(tmp_path):
    names = ["zeta", "awr", "step_dpo_pit", "step_dpo", "dpo", "rft", "control", "sft", "base"]
    arms, _ = read_evaluation(evaluation(tmp_path, *(arm(name, [0, 1]) for name in names)))
    assert [row.name for row in arms] == [
        "base", "sft", "control", "rft", "dpo", "step_dpo", "step_dpo_pit", "awr", "zeta"
    ]  # fmt: skip


def test_the_same_inputs_give_the_same_bytes_also_in_another_process(inputs, tmp_path):
    folder, times = inputs
    for output in ("one", "two"):
        arguments = ["report", "--evaluation", folder, "--times", times, "--output", tmp_path / output]
        subprocess.run(
            [sys.executable, "-m", "openrlhf_negdata.cli.main", *map(str, arguments)], check=True, capture_output=True
        )
    for name in ("summary.json", "report.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["report.html", "summary.json"]


def test_a_report_written_into_its_own_evaluation_folder_can_be_made_again(inputs):
    arguments = ["report", "--evaluation", str(inputs[0]), "--output", str(inputs[0])]
    assert main(arguments) == 0
    first = (inputs[0] / "report.html").read_bytes()
    assert main(arguments) == 0
    assert (inputs[0] / "report.html").read_bytes() == first


def test_standard_output_ends_with_plain_tables_of_every_figure(inputs, tmp_path, capsys):
    folder, times = inputs
    main(["report", "--evaluation", str(folder), "--times", str(times), "--output", str(tmp_path / "out")])
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert max(map(len, text.splitlines()[1:])) <= 119
    assert re.search(r"sft +50\.0 \[29\.9, 70\.1\] +75\.0 \[53\.1, 88\.8\]", text)
    assert re.search(r"step_dpo +rft +-10\.0 \[", text)
    at = [text.index(word) for word in ("Test error", "Difference of", "Mean Q", "Time by stage")]
    assert at == sorted(at)
    assert text.rstrip().endswith("1 min 14 s")


def test_names_with_markup_are_printed_as_they_are(tmp_path, capsys):
    folder = evaluation(tmp_path / "evaluation", arm("[red]$x$ _y", [0, 1]))
    assert main(["report", "--evaluation", str(folder), "--output", str(tmp_path / "out")]) == 0
    assert "[red]$x$ _y" in capsys.readouterr().out
    assert "[red]$x$ _y" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("field", ["steps", "title", "question", "gold", "answer", "arm", "settings", "stage"])
def test_no_text_of_an_input_becomes_html(field):
    texts = {"steps": ["fine\n", "end"], "title": "t", "question": "q", "gold": "g", "answer": "a"}
    harmless = [shown(**texts, correct=[2, 1], outcome="wrong")]
    if field == "steps":
        texts["steps"] = [HOSTILE, "end"]
    elif field in texts:
        texts[field] = HOSTILE
    traces = [shown(**texts, correct=[2, 1], outcome="wrong")]

    def rendered(traces, name, setting, stage):
        arms = [
            Arm("sft", "m", "t", [0, 1], None, {}, [[0.5]]),
            Arm(name, "m", "t", [0, 1], None, {}, [[1]]),
        ]
        arms = [Arm(**{**vars(row), "outcomes": dict.fromkeys(OUTCOMES, 0)}) for row in arms]
        summary = summarize(arms, {setting: [setting]}, {stage: 1.0})
        return Elements(page.page(summary, "task", traces, Counter(wrong=1)))

    plain = rendered(harmless, "other", "setting", "stage")
    hostile = rendered(
        traces,
        HOSTILE if field == "arm" else "other",
        HOSTILE if field == "settings" else "setting",
        HOSTILE if field == "stage" else "stage",
    )
    assert "<script>alert(1)</script>" in hostile.text
    names = {name for _, attributes in plain.elements for name in attributes}
    assert {tag for tag, _ in hostile.elements} == {tag for tag, _ in plain.elements}
    assert {name for _, attributes in hostile.elements for name in attributes} == names


def test_a_lone_surrogate_does_not_keep_the_page_from_being_written():
    html = page.traces_section([shown(["a \ud800", "b"], [2, 1], "wrong")], Counter(wrong=1))
    assert "a ?" in html.encode("utf-8").decode("utf-8")


def test_the_page_is_one_file_that_loads_and_runs_nothing(inputs, tmp_path):
    main(["report", "--evaluation", str(inputs[0]), "--output", str(tmp_path / "out")])
    elements = Elements((tmp_path / "out" / "report.html").read_text()).elements
    assert {"script", "link", "iframe", "img", "object", "form"}.isdisjoint(tag for tag, _ in elements)
    for _, attributes in elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in {"href", "xlink:href", "src", "srcset"} or value.startswith("#")
            assert "url(" not in (value or "") or "url(#" in value
    policy = [a["content"] for tag, a in elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0].startswith("default-src 'none'")


def test_each_step_shows_its_advantage_in_sign_and_colour():
    """Q is 1/2, 3/4, 0, and 0 at the end: advantages +1/4, -3/4, 0."""
    html = page.traces_section([shown(["a", "b", "c"], [2, 3, 0], "wrong")], Counter(wrong=1))
    steps = re.findall(r'<li class="(.*?)".*?<span class="text">(.)</span>.*?</span>(.*?)</small>', html)
    assert steps == [("gain", "a", "+0.25"), ("loss pit", "b", "−0.75"), ("", "c", "0")]
    assert "0 of 4 rollouts right" in html


def test_the_first_pit_is_marked_in_wrong_traces_alone():
    assert shown(["a", "b", "c"], [2, 0, 0], "wrong").pit == 0
    assert shown(["a", "b", "c"], [2, 0, 0], "correct").pit is None


def test_the_pit_that_is_marked_is_the_one_of_the_rule_and_the_page_names_it():
    """Q is 1, 1/4, 1/2, and 0 at the end: advantages -3/4, +1/4, -1/2."""
    trace = shown(["a", "b", "c"], [4, 1, 2], "wrong")
    assert trace.pit == 2
    other = replace(trace, rule="lowest_advantage")
    assert other.pit == 0
    assert "the first step with the least advantage" in page.traces_section([other], Counter(wrong=1))
    assert "the first step with the lowest Q after it" in page.traces_section([trace], Counter(wrong=1))


def test_a_step_without_rollouts_has_an_unknown_advantage():
    html = page.traces_section([shown(["a", "b"], [2, 0], "correct", count=[4, 0])], Counter(correct=1))
    assert html.count("?</small>") == 2
    assert "nan" not in html


def test_traces_are_half_wrong_half_correct_and_span_deep_and_shallow_drops(tmp_path):
    wrong = [("wrong", [4, q]) for q in (0, 1, 2, 3, 4)]
    correct = [("correct", [4, q]) for q in (4, 3, 2, 1, 0)]
    run = value_run(tmp_path / "run", [*correct, *wrong, ("truncated", [4, 0])])
    traces, outcomes = choose_traces(run, 6, decode=lambda ids: f"<{ids}>")
    assert Counter(trace.outcome for trace in traces) == {"wrong": 3, "correct": 3}
    assert outcomes == {"wrong": 5, "correct": 5, "truncated": 1}
    assert [min(trace.advantages) for trace in traces] == [-1, -0.75, -0.5, -1, -0.5, 0]
    assert traces[0].steps == ["<[0]>", "<[1]>"]
    assert choose_traces(run, 6, decode=lambda ids: f"<{ids}>")[0] == traces


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wrong": [0, 2]}, "wrong is not one 0 or 1 for each of 2 problems"),
        ({"wrong": [0]}, "wrong is not one 0 or 1 for each of 2 problems"),
        ({"trace_wrong": [0, 1, 1]}, "trace_wrong is not one 0 or 1"),
        ({"outcomes": {"correct": 2}}, "do not add up"),
        ({"outcomes": {"correct": 1, "lost": 1}}, "outcomes: 'lost'"),
        ({"q_by_step": {"correct": [[5]], "count": [[4]]}}, "q_by_step"),
        ({"q_by_step": {"correct": [[1, 2]], "count": [[4]]}}, "q_by_step"),
        ({"arm": "other"}, "another arm"),
        ({"arm": "\x1b[2J"}, "cannot be printed"),
    ],
)
def test_a_malformed_arm_is_refused_by_the_name_of_its_file(tmp_path, changes, message):
    folder = evaluation(tmp_path, arm("sft", [0, 1]))
    (folder / "sft.json").write_text(json.dumps(arm("sft", [0, 1]) | changes))
    with pytest.raises(UserError, match=r"sft\.json.*" + re.escape(message)):
        read_evaluation(folder)


def test_arms_on_different_problems_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"sft\.json has 3 problems.*same problems"):
        read_evaluation(evaluation(tmp_path, arm("base", [0, 1]), arm("sft", [0, 1, 1])))


@pytest.mark.parametrize(
    ("content", "named"),
    [(None, "evaluation"), ({"sft.json": "{"}, "sft.json"), ({"sft.json": "{}"}, "sft.json"), ({}, "evaluation")],
)
def test_a_missing_or_broken_evaluation_exits_with_2_and_one_line(tmp_path, capsys, content, named):
    folder = tmp_path / "evaluation"
    if content is not None:
        folder.mkdir()
        for name, text in content.items():
            (folder / name).write_text(text)
    assert main(["report", "--evaluation", str(folder), "--output", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert named in message
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "row", ["{", '{"stage": "sft"}', '{"stage": "sft", "seconds": -1}', '{"stage": "a", "seconds": NaN}']
)
def test_broken_times_exit_with_2_and_name_the_line(inputs, tmp_path, capsys, row):
    times = tmp_path / "broken.jsonl"
    times.write_text('{"stage": "sft", "seconds": 1}\n' + row + "\n")
    assert (
        main(["report", "--evaluation", str(inputs[0]), "--times", str(times), "--output", str(tmp_path / "out")]) == 2
    )
    assert "broken.jsonl:2" in capsys.readouterr().err


def test_traces_of_a_value_run_are_on_the_page_in_the_words_of_its_tokenizer(inputs, tmp_path):
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    words = tokenizers.models.WordLevel({"first": 0, "<second>": 1}, unk_token="first")
    value_run(tmp_path / "values", [("wrong", [3, 1])], {})
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(words), eos_token="first"
    ).save_pretrained(tmp_path / "values" / "tokenizer")
    arguments = ["--values", str(tmp_path / "values"), "--output", str(tmp_path / "out")]
    assert main(["report", "--evaluation", str(inputs[0]), *arguments]) == 0
    html = (tmp_path / "out" / "report.html").read_text()
    assert re.findall(r'<span class="text">(.*?)</span>', html) == ["start", "first", "&lt;second&gt;"]


def test_values_without_a_tokenizer_exit_with_2(inputs, tmp_path, capsys):
    value_run(tmp_path / "none", [("wrong", [1, 0])], {})
    arguments = ["--values", str(tmp_path / "none"), "--output", str(tmp_path / "out")]
    assert main(["report", "--evaluation", str(inputs[0]), *arguments]) == 2
    assert "none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.24, "8.2 s"), (59.97, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")]
)
def test_durations_read_as_a_person_says_them(seconds, text):
    assert tables.duration(seconds) == text


def test_analysis_imports_no_heavy_library():
    code = (
        "import sys; import openrlhf_negdata.analysis.page, openrlhf_negdata.cli.report; "
        "print({'torch', 'vllm', 'ray', 'openrlhf', 'transformers', 'matplotlib'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"

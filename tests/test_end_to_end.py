"""The whole method once, with real vLLM, Ray and DeepSpeed, on a model of 70,000 parameters: what holds at every seam.

Nothing here looks at a score. Each engine takes half a minute to start, so the arrows of the data flow are run once,
and the tests look at what they left.
"""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from openrlhf_negdata import cpu
from openrlhf_negdata.cli.main import main
from openrlhf_negdata.files import read_problems
from openrlhf_negdata.records import OUTCOMES
from openrlhf_negdata.rollouts.prompts import Prompting
from openrlhf_negdata.rollouts.store import Run
from openrlhf_negdata.steps.split import split_steps
from openrlhf_negdata.steps.values import Estimator
from openrlhf_negdata.tasks import load

TASK = load("running_value")
PROBLEMS, SAMPLES, ROLLOUTS, SHARD = 60, 4, 4, 20
ARMS = {
    "rft": ("graded", "rft"),
    "dpo": ("graded", "dpo"),
    "algorithm1": ("values", "algorithm1"),
    "shared_prefix": ("values", "shared-prefix"),
    "siblings": ("values", "siblings", "--min_rollouts", "2"),
}
#: A program that is killed, as kill -9 does it, as soon as its first shard of values is written.
KILLED = """
import os, signal, sys
from openrlhf_negdata.cli.main import main
from openrlhf_negdata.rollouts.store import Run
write = Run.write
def write_and_die(self, table, *rest):
    write(self, table, *rest)
    if table == "values":
        os.kill(os.getpid(), signal.SIGKILL)
Run.write = write_and_die
main(sys.argv[1:])
"""

HURT_TITLES = ("ray::RolloutRayActor", "VLLM::EngineCore")
#: A program that kills them, one after the fifth and one after the twentieth problem, with others in flight.
HURT = f"""
import os, sys, time, psutil
from openrlhf_negdata.cli.main import main
from openrlhf_negdata.rollouts.engines import Engines
victims = dict(zip((5, 20), {HURT_TITLES}))
run = Engines.run
def kill(title):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        there = {{process.pid: process for process in psutil.process_iter(["ppid", "cmdline"])}}
        below, size = {{os.getpid()}}, 0
        while size < len(below):
            size = len(below)
            below |= {{process.pid for process in there.values() if process.info["ppid"] in below}}
        called = [there[pid] for pid in below & there.keys() if title in " ".join(there[pid].info["cmdline"] or ())]
        if called:
            max(called, key=psutil.Process.create_time).kill()
            return print("killed", title)
        time.sleep(0.5)
    sys.exit(f"no {{title}} to kill: {{[(pid, there[pid].info) for pid in below & there.keys()]}}")
def run_and_kill(self, jobs, ahead, told=None):
    for number, result in enumerate(run(self, jobs, 4, told)):
        if title := victims.get(number):
            kill(title)
        yield result
Engines.run = run_and_kill
sys.exit(main(sys.argv[1:]))
"""

#: One epoch of TRL's process-reward trainer on a set of `prm`; what it made of the rows goes to a file.
PRM = """
import json, sys
from datasets import load_dataset
from transformers import AutoModelForTokenClassification, AutoTokenizer
from trl.experimental.prm import PRMConfig, PRMTrainer
model, rows, output = sys.argv[1:]
trainer = PRMTrainer(
    model=AutoModelForTokenClassification.from_pretrained(model, num_labels=2),
    args=PRMConfig(output_dir=output + ".run", use_cpu=True, step_separator="", report_to=[], save_strategy="no",
                   num_train_epochs=1, learning_rate=1e-3),
    train_dataset=load_dataset("json", data_files=rows, split="train"),
    processing_class=AutoTokenizer.from_pretrained(model),
)
result = trainer.train()
with open(output, "w") as file:
    json.dump({"loss": result.training_loss, "epoch": result.metrics["epoch"], "rows": trainer.train_dataset[:]}, file)
"""


class Pipeline:
    """The commands, in order, in the folder ``root``; every one can be run again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}

    def here(self, words: str) -> None:
        """Run a command in this process."""
        assert main(self.words(words)) == 0, words

    def words(self, words: str) -> list[str]:
        return [re.sub(r"@", f"{self.root}/", word) for word in words.split()]

    def process(self, words: str, program: tuple[str, ...] = ("-m", "openrlhf_negdata.cli.main")) -> int:
        """Run a command in a process of its own; its exit status."""
        ended = subprocess.run(
            [sys.executable, *program, *self.words(words)], env=self.environment, capture_output=True, text=True
        )
        self.told = ended.stdout + ended.stderr
        return ended.returncode

    def done(self, words: str, program: tuple[str, ...] = ("-m", "openrlhf_negdata.cli.main")) -> None:
        assert self.process(words, program) == 0, f"{words}\n{self.told[-4000:]}"

    model = "--model.model_name_or_path @sft"
    rows = "--train.micro_batch_size 16"
    training = (
        "--data.max_len 64 --ds.zero_stage 0 --train.batch_size 16 --adam.betas 0.9 0.98 --ds.attn_implementation sdpa"
    )
    sample = f"sample --task running_value --problems @syn.jsonl {model} --output @traces" + (
        f" --rollout.n_samples_per_prompt {SAMPLES} --shard_size {SHARD}"
    )
    grade = "grade --input @traces --output @graded"
    value = f"value --input @graded {model} --value.n_rollouts {ROLLOUTS} --value.solutions --shard_size {SHARD}" + (
        " --output @"
    )
    evaluate = (
        "evaluate --task running_value --problems @syn.jsonl --q_problems 8 --q_rollouts 4 --output @evaluation"
        + (" --models sft=@sft step_dpo=@step_dpo")
    )
    report = "report --evaluation @evaluation --values @values --output @report"
    step_dpo = f"{model} --data.dataset @algorithm1.jsonl --ckpt.output_dir @step_dpo --adam.lr 3e-5 {training}"
    sft = f"--model.model_name_or_path @new --data.dataset @sft.jsonl --ckpt.output_dir @sft {training} {rows}" + (
        " --adam.lr 2e-3"
    )
    problems = "problems --task running_value --split {} --seed {} --count {} --output @{}"

    def build(self, name: str) -> str:
        source, *arm = ARMS[name]
        return f"build {' '.join(arm)} --input @{source} --output @{name}.jsonl"

    def run(self) -> None:
        self.here(self.problems.format("syn", 1, 3000, "own/problems.jsonl"))
        self.here(self.problems.format("syn", 0, PROBLEMS, "syn.jsonl"))
        self.here("new_model --task running_value --width 64 --layers 1 --heads 2 --max_len 64 --output @new")
        self.here("build sft --task running_value --input @own --tokenizer @new --output @sft.jsonl")
        self.done(f"launch --num_processes 1 openrlhf_negdata.cli.train_sft {self.sft} --train.max_epochs 1")
        self.done(self.sample)
        self.here(self.grade)
        self.done(f"{self.value}values")
        for name in ARMS:
            self.here(self.build(name))
        self.done(f"launch --num_processes 1 openrlhf_negdata.cli.train_step_dpo {self.step_dpo}")
        self.done(self.evaluate)
        self.here(self.report)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Pipeline:
    made = Pipeline(tmp_path_factory.mktemp("end_to_end"))
    made.run()
    return made


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with when it was written, but for the locks that a command holds while it writes."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.endswith(".lock"))
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_every_answer_is_what_the_engine_sampled_within_the_budget(pipeline):
    run = Run.open(pipeline.root / "traces")
    tokenizer, traces = run.tokenizer(), list(run.read("traces"))
    problems = {problem.id: problem for problem in read_problems(pipeline.root / "syn.jsonl", TASK)}
    assert [(trace.problem, trace.sample) for trace in traces] == [(p, i) for p in problems for i in range(SAMPLES)]
    eos = tokenizer.eos_token_id
    for trace in traces:
        assert trace.prompt_ids == Prompting().encoder(tokenizer, TASK)(problems[trace.problem].question)
        assert trace.token_ids.count(eos) == (trace.token_ids[-1] == eos) == (trace.finish_reason == "stop")
        assert trace.finish_reason in ("stop", "length")
        limit = TASK.max_response_tokens
        assert len(trace.token_ids) == limit if trace.finish_reason == "length" else len(trace.token_ids) <= limit
        assert trace.text == tokenizer.decode(trace.token_ids, skip_special_tokens=True)
    finished = Counter(trace.finish_reason for trace in traces)
    counts = {
        "problems": PROBLEMS,
        "traces": PROBLEMS * SAMPLES,
        "stop": finished["stop"],
        "length": finished["length"],
    }
    assert run.manifest["counts"] == counts


def test_every_answer_is_graded_and_the_outcomes_add_up(pipeline):
    sampled, graded = Run.open(pipeline.root / "traces"), Run.open(pipeline.root / "graded")
    assert graded.problems() == sampled.problems()
    gold = {problem.id: problem.gold for problem in graded.problems()}
    traces = list(graded.read("traces"))
    assert [trace.token_ids for trace in traces] == [trace.token_ids for trace in sampled.read("traces")]
    for trace in traces:
        expected = (
            "truncated" if trace.finish_reason == "length" else TASK.grade(gold[trace.problem], trace.text).outcome
        )
        assert trace.outcome == expected
    outcomes = Counter(trace.outcome for trace in traces)
    assert graded.manifest["counts"] == {"traces": len(traces), **{outcome: outcomes[outcome] for outcome in OUTCOMES}}
    assert outcomes["correct"] > 0
    assert outcomes["wrong"] > 0


def test_values_are_what_the_rollouts_say(pipeline):
    run = Run.open(pipeline.root / "values")
    tokenizer = run.tokenizer()
    gold = {problem.id: problem.gold for problem in run.problems()}
    rolled: dict[tuple, list] = {}
    for rollout in run.read("rollouts"):
        rolled.setdefault((rollout.problem, tuple(rollout.prefix_ids)), []).append(rollout)
        whole = [*rollout.prefix_ids, *rollout.token_ids]
        assert 0 < len(rollout.token_ids) <= TASK.max_response_tokens - len(rollout.prefix_ids)
        ended = rollout.token_ids[-1] == tokenizer.eos_token_id
        assert rollout.token_ids.count(tokenizer.eos_token_id) == ended
        if ended:
            text = tokenizer.decode(whole, skip_special_tokens=True)
            assert rollout.outcome == TASK.grade(gold[rollout.problem], text).outcome
        else:
            assert (rollout.outcome, len(whole)) == ("truncated", TASK.max_response_tokens)
    assert {len(made) for made in rolled.values()} == {ROLLOUTS}
    needed = set()
    traces = {(trace.problem, trace.sample): trace for trace in run.read("traces")}
    for values in run.read("values"):
        ids = traces.pop((values.problem, values.sample)).token_ids
        steps = split_steps(ids, tokenizer, TASK)
        assert values.step_ends == [end for _, end in steps]
        assert values.count == [ROLLOUTS] * len(steps)
        for (start, _), correct in zip(steps, values.correct, strict=True):
            key = (values.problem, tuple(ids[:start]))
            needed.add(key)
            assert correct == sum(rollout.outcome == "correct" for rollout in rolled[key])
    assert not traces
    # No prefix is rolled out that no answer needs; the end of an answer never is.
    assert set(rolled) == needed


def test_a_dry_run_counts_what_valuing_then_costs(pipeline, capsys):
    pipeline.here(f"{pipeline.value}never --dry_run")
    told = capsys.readouterr().out
    run = Run.open(pipeline.root / "values")
    speed = run.speed("values")
    assert f"{speed['prefixes']:,} distinct prefixes, {speed['rollouts']:,} rollouts" in told
    tokens = int(re.search(r"about ([\d,]+) tokens to generate", told)[1].replace(",", ""))
    assert tokens == pytest.approx(speed["tokens"], rel=0.15)
    assert not (pipeline.root / "never").exists()


def test_show_says_what_is_done_and_what_is_owed(pipeline, capsys, tmp_path):
    pipeline.here("show @values")
    told = capsys.readouterr().out
    assert f"{PROBLEMS // SHARD} done, complete" in told
    assert "tokens a second" in told
    assert "prefix cache hits" in told
    shutil.copytree(pipeline.root / "graded", tmp_path / "part")
    (tmp_path / "part" / "traces-00001.parquet").unlink()
    assert main(["show", str(tmp_path / "part")]) == 0
    told = capsys.readouterr().out
    assert f"{PROBLEMS // SHARD - 1} done, 1 owed: run `negdata grade` again to go on" in " ".join(told.split())


def test_every_answer_is_valued_or_accounted_for(pipeline):
    graded, valued = Run.open(pipeline.root / "graded"), Run.open(pipeline.root / "values")
    counts, distinct = valued.manifest["counts"], Counter()
    given = list(graded.read("traces"))
    seen = set()
    for trace in given:
        if trace.outcome in ("correct", "wrong", "no_answer") and (trace.problem, *trace.token_ids) not in seen:
            seen.add((trace.problem, *trace.token_ids))
            distinct[trace.outcome] += 1
    assert counts["traces"] == len(given) == sum(n for key, n in counts.items() if key.startswith("given_"))
    assert counts["solutions"] == PROBLEMS
    assert counts["valued"] == len(seen) + PROBLEMS == sum(n for key, n in counts.items() if key.startswith("valued_"))
    distinct["correct"] += PROBLEMS
    assert len(given) == len(seen) + sum(n for key, n in counts.items() if key.startswith("dropped_"))
    assert {key: n for key, n in counts.items() if key.startswith("valued_")} == {
        f"valued_{outcome}": n for outcome, n in distinct.items()
    }
    assert counts["rollouts"] == ROLLOUTS * valued.speed("values")["prefixes"] == len(list(valued.read("rollouts")))


def test_every_arm_is_built_of_what_was_sampled_and_its_card_adds_up(pipeline):
    run = Run.open(pipeline.root / "values")
    prompts = {trace.problem: trace.prompt_ids for trace in Run.open(pipeline.root / "graded").read("traces")}
    wholes = {(*t.prompt_ids, *t.token_ids) for t in Run.open(pipeline.root / "graded").read("traces")} | {
        (*prompts[r.problem], *r.prefix_ids, *r.token_ids) for r in run.read("rollouts")
    }
    starts = {whole[:count] for whole in wholes for count in range(len(whole) + 1)}
    for name in ARMS:
        built = rows(pipeline.root / f"{name}.jsonl")
        card = (pipeline.root / f"{name}.jsonl.card.md").read_text(encoding="utf-8")
        table = {
            what: int(n) for what, n in re.findall(r"^\| (in|kept|dropped: \w+) \| (\d+) \|$", card, re.MULTILINE)
        }
        assert 2 * table["in"] == sum(table.values())
        assert built
        for row in built:
            assert (*row["prompt_ids"], *row.get("chosen_ids", row.get("response_ids"))) in wholes
            assert (*row["prompt_ids"], *row.get("rejected_ids", ())) in starts


def right_answers(traces) -> dict[str, list]:
    """The token ids of the right answers, by problem."""
    found: dict[str, list] = {}
    for trace in traces:
        if trace.outcome == "correct" and trace.sample >= 0:
            found.setdefault(trace.problem, []).append(trace.token_ids)
    return found


def same_but_for(made, cut, begin):
    """``made`` are those ``cut``, but for some of ``begin``: what begins the answer that it would be rejected for is
    no pair, and chance says which right answer that is."""
    assert made
    assert not Counter(map(str, made)) - Counter(map(str, cut))
    assert not Counter(map(str, cut)) - Counter(map(str, made)) - Counter(map(str, begin))


@pytest.mark.parametrize(
    ("flags", "estimator"),
    [
        ("", Estimator()),
        ("--pit lowest_advantage --best_of 3", Estimator("lowest_advantage", best_of=3)),
        ("--pit posterior --confidence 0.8", Estimator("posterior", confidence=0.8)),
        ("--best_of 5 --best_of_biased --min_drop 0.4", Estimator(best_of=5, biased=True, min_drop=0.4)),
    ],
)
def test_algorithm1_rejects_the_wrong_answers_cut_after_their_first_pit(pipeline, tmp_path, flags, estimator):
    pipeline.here(f"build algorithm1 --input @values --output {tmp_path}/pairs.jsonl {flags}")
    run = Run.open(pipeline.root / "values")
    traces = {(trace.problem, trace.sample): trace for trace in run.read("traces")}
    correct = right_answers(traces.values())
    cut, begin = [], []
    for values in run.read("values"):
        trace = traces[values.problem, values.sample]
        pit = estimator.first_pit(values, trace.outcome)
        if trace.outcome != "correct" and trace.problem in correct and pit is not None:
            before, after = estimator.q(values, trace.outcome)[pit : pit + 2]
            if before > after and before - after >= estimator.min_drop:
                ids = trace.token_ids[: values.step_ends[pit]]
                cut.append((ids, round(before, 4), round(after, 4)))
                begin += [cut[-1]] * any(answer[: len(ids)] == ids for answer in correct[trace.problem])
    made = [(row["rejected_ids"], row["q_before"], row["q_rejected"]) for row in rows(tmp_path / "pairs.jsonl")]
    same_but_for(made, cut, begin)


@pytest.mark.parametrize(
    ("arm", "trainer"),
    [
        ("rft --distinct equations --per_problem 2 --most_different", "train_sft"),
        ("dpo-edit-distance --per_problem 1", "train_step_dpo"),
        ("shared-prefix --pit lowest_advantage --positives", "train_step_dpo"),
        ("algorithm1 --chosen_teacher", "train_step_dpo"),
        (f"{Path(__file__).with_name('shortest_arm.py')} --count 2", "train_sft"),
        ("step-rft --with_solutions", "train_sft"),
        ("spurious --per_problem 1", "train_sft"),
        ("advantage-weighted --normalise set", "train_advantage_weighted"),
        ("spurious --per_problem 1 --seeding recovered", "train_sft"),
    ],
)
def test_arms_are_built_of_the_same_values_and_trained_on(pipeline, train, tmp_path, arm, trainer):
    pipeline.here(f"build {arm} --input @values --output {tmp_path}/set.jsonl")
    words = f"{pipeline.model} --data.dataset {tmp_path}/set.jsonl --ckpt.output_dir {tmp_path}/trained"
    rows = "" if trainer == "train_step_dpo" else pipeline.rows
    flags = pipeline.words(f"{words} --train.max_epochs 1 --adam.lr 1e-5 {pipeline.training} {rows}")
    status, told = train(f"openrlhf_negdata.cli.{trainer}", flags)
    assert status == 0, told[-2000:]
    assert (tmp_path / "trained" / "config.json").is_file()


def test_trl_trains_a_process_reward_model_on_prm_and_labels_the_last_token_of_each_step(pipeline, tmp_path):
    pipeline.here(f"build prm --input @values --output {tmp_path}/prm.jsonl")
    words = f"@sft {tmp_path}/prm.jsonl {tmp_path}/trained.json"
    pipeline.done(words, ("-c", PRM))
    trained = json.loads((tmp_path / "trained.json").read_text())
    assert trained["epoch"] == 1
    assert 0 < trained["loss"] < 5
    run = Run.open(pipeline.root / "values")
    eos, expected = run.tokenizer().eos_token_id, []
    estimator = Estimator()
    for trace, values in zip(run.read("traces"), run.read("values"), strict=True):
        if trace.sample < 0:  # a teacher's solution is no answer of the policy
            continue
        ids = [token for token in trace.token_ids if token != eos]
        if not ids:  # it ended at once: there is no text to label
            continue
        labels = [-100] * (len(trace.prompt_ids) + len(ids))
        for end, q in zip(values.step_ends, estimator.q(values, trace.outcome)[1:], strict=True):
            labels[len(trace.prompt_ids) + min(end, len(ids)) - 1] = int(q > 0)
        expected.append((trace.prompt_ids + ids, labels))
    seen = [(ids, labels) for ids, labels in zip(*map(trained["rows"].get, ("input_ids", "labels")), strict=True)]
    assert sorted(seen) == sorted(expected)


def test_sequential_rolls_out_up_to_the_first_pit_and_pairs_are_cut_there(pipeline, tmp_path):
    """With the default threshold of 0.05 an answer is lost where none of K = 8 rollouts is right."""
    pipeline.done(f"{pipeline.value}sequential --value.budget sequential --value.n_rollouts 8")
    run, exhaustive = Run.open(pipeline.root / "sequential"), Run.open(pipeline.root / "values")
    assert list(run.read("traces")) == list(exhaustive.read("traces"))
    # The same seeds: where both rolled out a prefix, they drew the same.
    drawn = {(r.problem, tuple(r.prefix_ids), r.seed): r for r in exhaustive.read("rollouts")}
    made = [r for r in run.read("rollouts") if (r.problem, tuple(r.prefix_ids), r.seed) in drawn]
    assert made == [drawn[r.problem, tuple(r.prefix_ids), r.seed] for r in made] != []
    correct = right_answers(run.read("traces"))
    cut, begin = [], []
    for trace, values in zip(run.read("traces"), run.read("values"), strict=True):
        if trace.outcome == "correct":
            assert values.pit is None
            continue
        after = list(zip(values.correct, values.count, strict=True))[1:]
        assert all(right > 0 for right, _ in after[: values.pit])
        assert after[values.pit : values.pit + 1] in ([(0, 8)], [])
        if trace.problem in correct:
            ids = trace.token_ids[: values.step_ends[values.pit]]
            cut.append(ids)
            begin += [ids] * any(answer[: len(ids)] == ids for answer in correct[trace.problem])
    pipeline.here(f"build algorithm1 --input @sequential --output {tmp_path}/pairs.jsonl")
    same_but_for([row["rejected_ids"] for row in rows(tmp_path / "pairs.jsonl")], cut, begin)


def test_every_policy_is_evaluated_on_every_problem_and_reported(pipeline):
    problems = read_problems(pipeline.root / "syn.jsonl", TASK)
    for arm in ("sft", "step_dpo"):
        told = json.loads((pipeline.root / "evaluation" / f"{arm}.json").read_text())
        assert len(told["wrong"]) == len(told["trace_wrong"]) == sum(told["outcomes"].values()) == len(problems)
        assert sum(told["wrong"]) == len(problems) - told["outcomes"]["correct"]
        # A right route has the right answer.
        assert all(route >= answer for route, answer in zip(told["trace_wrong"], told["wrong"], strict=True))
        q = told["q_by_step"]
        # Five operations and the answer: six steps, rolled out from before each.
        assert [len(steps) for steps in q["count"]] == [6] * 8
        assert all(
            0 <= c <= n == 4
            for cs, ns in zip(q["correct"], q["count"], strict=True)
            for c, n in zip(cs, ns, strict=True)
        )
    summary = json.loads((pipeline.root / "report" / "summary.json").read_text())
    assert list(summary["arms"]) == ["sft", "step_dpo"]
    assert "<html" in (pipeline.root / "report" / "report.html").read_text(encoding="utf-8")


def test_the_q_by_step_of_a_policy_is_what_its_rollouts_were_valued_by(pipeline):
    """One driver draws for both commands, and the draws depend on what is asked alone: of the solutions of the same
    problems, `evaluate` counts the very rollouts that `value --value.solutions` made."""
    told = json.loads((pipeline.root / "evaluation" / "sft.json").read_text())["q_by_step"]
    values = [row for row in Run.open(pipeline.root / "values").read("values") if row.sample == -1][:8]
    assert told == {"correct": [row.correct for row in values], "count": [row.count for row in values]}


def test_a_command_that_is_done_starts_no_engine_and_changes_no_file(pipeline, monkeypatch, capsys):
    import ray

    def started(*_, **__):
        raise AssertionError("an engine or a trainer was started")

    monkeypatch.setattr(ray, "init", started)
    monkeypatch.setattr("openrlhf_negdata.cpu.setup", started)
    before = content(pipeline.root)
    builds = [pipeline.build(name) for name in ARMS]
    for words in (pipeline.sample, pipeline.grade, f"{pipeline.value}values", *builds, pipeline.evaluate):
        pipeline.here(words)
        assert "complete" in capsys.readouterr().out
    for module, words in (
        ("train_sft", f"{pipeline.sft} --train.max_epochs 1"),
        ("train_step_dpo", pipeline.step_dpo),
    ):
        monkeypatch.setattr(sys, "argv", [module, *pipeline.words(words)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(f"openrlhf_negdata.cli.{module}", run_name="__main__")
        told = capsys.readouterr()
        assert ended.value.code == 0, told.err
        assert "is trained already" in told.out
    assert content(pipeline.root) == before


def test_what_engines_and_trainers_compute_in_suits_the_device_and_is_recorded(pipeline, capsys):
    here, other = ("float32", "bfloat16") if cpu.without_cuda() else ("bfloat16", "float32")
    assert json.loads((pipeline.root / "sft" / "config.json").read_text())["dtype"] == here
    for run, words in (("traces", pipeline.sample), ("values", f"{pipeline.value}values")):
        assert Run.open(pipeline.root / run).manifest["settings"]["dtype"] == here
        assert main(pipeline.words(f"{words} --vllm.dtype {other}")) == 2
        assert f"dtype = '{here}', not '{other}'" in capsys.readouterr().err


def test_values_of_a_killed_run_are_those_of_one_left_alone(pipeline):
    """Killed after its first shard and run again, in another folder and with two engines: the same tables."""
    words = f"{pipeline.value}killed"
    assert pipeline.process(words, ("-c", KILLED)) < 0
    killed = pipeline.root / "killed"
    assert [path.name for path in sorted(killed.glob("values-*.parquet"))] == ["values-00000.parquet"]
    first = content(killed)
    pipeline.done(f"{words} --vllm.num_engines 2")
    assert all(content(killed)[name] == first[name] for name in first if name != "manifest.json")
    alone, resumed = Run.open(pipeline.root / "values"), Run.open(killed)
    for table in ("traces", "rollouts", "values"):
        assert list(resumed.read(table)) == list(alone.read(table))
    assert resumed.manifest == alone.manifest


def test_values_are_the_same_though_the_actor_and_then_its_engine_are_killed(pipeline):
    """kill -9 while they generate: Ray starts the actor again, and it is given its problems again."""
    pipeline.done(f"{pipeline.value}hurt", ("-c", HURT))
    told = pipeline.told.splitlines()
    assert [line for line in told if line.startswith("killed")] == [f"killed {title}" for title in HURT_TITLES]
    alone, hurt = Run.open(pipeline.root / "values"), Run.open(pipeline.root / "hurt")
    for table in ("traces", "rollouts", "values"):
        assert list(hurt.read(table)) == list(alone.read(table))

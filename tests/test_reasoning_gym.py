"""Tasks of the package reasoning-gym: its problems and scorers, and what its scorers must not be trusted with."""

import ast
import importlib.metadata
import json
import os
import pickle
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from openrlhf_negdata.cli.main import main
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.grading import grade_rows
from openrlhf_negdata.rollouts.store import Run
from openrlhf_negdata.tasks import is_built_in, load, reasoning_gym
from openrlhf_negdata.tasks.guarded import guarded

VERSION = importlib.metadata.version("reasoning-gym")
#: One of arithmetic and one of logic.
TASKS = ("chain_sum", "circuit_logic")
#: A wrong answer, where one more digit would not make one.
OTHER = {
    "circuit_logic": "2",
    "polynomial_equations": "0.123",
    "knights_knaves": "Zoey is a knight, and Ava is a knave",
}


def problems(name: str, count: int = 5, split: str = "syn", seed: int = 0) -> list:
    return list(load(f"reasoning_gym:{name}").generate(count, seed, split))


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def command(*words: object) -> int:
    return main(list(map(str, words)))


@pytest.mark.parametrize("name", [*TASKS, "knights_knaves", "polynomial_equations", "word_sorting"])
def test_the_packages_own_answer_is_right_and_another_is_not(name):
    task = load(f"reasoning_gym:{name}")
    for problem in problems(name):
        answer = ast.literal_eval(problem.gold)["answer"]
        assert task.grade(problem.gold, f"So:\n<answer>{answer}</answer>").outcome == "correct"
        assert task.grade(problem.gold, f"<answer>{OTHER.get(name, answer + '1')}</answer>").outcome == "wrong"
        assert task.grade(problem.gold, f"It is {answer}").outcome == "no_answer"
        assert task.problem({"question": problem.question, "gold": problem.gold, "id": problem.id}, 1) == problem


def test_a_part_of_a_point_is_wrong():
    """The package's scorer gives this one, half of which is right, 0.65."""
    entry = {"question": "?", "answer": "Ann is a knight, and Bob is a knave", "metadata": {}}
    task, half = load("reasoning_gym:knights_knaves"), "Ann is a knight, and Bob is a knight"
    assert 0 < task._score(half, entry) < 1
    assert task.grade(repr(entry), f"<answer>{half}</answer>").outcome == "wrong"


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("<answer>1</answer> no: <answer> 2 </answer>. Done.", "2"),
        ("<answer>a\nb</answer>", "a\nb"),
        ("<answer>1</answer>\n#### 2", "1"),
        ("1 + 1\n#### 2\n", "2"),
        ("#### Step 2\n1 + 1 = 2", None),
        ("<think><answer>1</answer></think> so 2", None),
        ("<answer></answer>", None),
        ("<answer>2", None),
    ],
)
def test_the_answer_is_the_last_tag_or_else_the_last_line(response, answer):
    assert load("reasoning_gym:chain_sum").extract(response) == answer


def test_problems_are_drawn_by_seed_and_no_problem_is_in_two_splits():
    assert problems("chain_sum", 40) == problems("chain_sum", 40)
    train = {problem.question for seed in range(4) for problem in problems("coin_flip", 30, "syn", seed)}
    test = {problem.question for seed in range(4) for problem in problems("coin_flip", 15, "test", seed)}
    assert train
    assert test
    assert not train & test
    assert len({problem.question for problem in problems("tower_of_hanoi", 12)}) == 12


def test_a_task_with_fewer_problems_than_are_asked_for_says_how_many_it_has():
    with pytest.raises(UserError, match=r"has \d+ different problems for the split test, and --count asks for 10000"):
        problems("tower_of_hanoi", 10_000, "test")


def test_a_scorer_that_takes_any_answer_is_refused():
    with pytest.raises(UserError, match="its scorer gives 'qwxz' full score"):
        problems("game_of_life_halting", 50)


class Raising:
    """A scorer that reads integers alone, and of those some wrongly if ``broken``."""

    def __init__(self, broken: bool) -> None:
        self.broken = broken

    def score_answer(self, answer, entry):
        return 0.0 if self.broken else float(int(answer) == int(entry["answer"]))


def test_an_answer_that_its_scorer_cannot_read_is_wrong_but_a_scorer_that_cannot_score_its_own_raises():
    task = load("reasoning_gym:prime_factorization")
    gold = repr({"question": "?", "answer": "2", "metadata": {}})
    task.__dict__["_scorer"] = Raising(broken=False)
    assert [task.is_right(gold, answer) for answer in ("2", "3", "two")] == [True, False, False]
    with pytest.raises(ValueError, match="invalid literal"):
        task.is_right(repr({"question": "?", "answer": None, "metadata": {}}), "two")


@pytest.mark.parametrize("name", ["spiral_matrix", "simple_integration", "countdown"])
def test_no_code_of_an_answer_is_run(name, tmp_path):
    """Scorers of these tasks evaluate the answer. Without the guard the file is written: by the package itself."""
    problem, written = problems(name, 1)[0], tmp_path / "written"
    code = f"[__import__('pathlib').Path({str(written)!r}).touch()]"
    task = load(f"reasoning_gym:{name}")
    entry = ast.literal_eval(problem.gold)
    assert task.grade(problem.gold, f"<answer>{code}</answer>").outcome == "wrong"
    assert not written.exists()
    if name == "spiral_matrix":
        task._scorer.score_answer(code, entry)
        assert written.exists()


@pytest.mark.parametrize(
    "code",
    ["(1).real", "open('x')", "__name__", "[c for c in ().__class__.__mro__]", "eval('1')", "(lambda: exit)()"],
)
def test_guarded_refuses_what_reaches_beyond_arithmetic_though_it_is_passed_over(code):
    with pytest.raises(ValueError, match="code that is not run"), guarded(), suppress(ValueError):
        eval(code)
    assert eval("(1).real") == 1  # outside it nothing is refused


def test_guarded_lets_formulas_be_read():
    sympy = pytest.importorskip("sympy")
    with guarded():
        read = sympy.parse_expr("x**2/2 + sqrt(3)*sin(x) + C", local_dict={"x": sympy.Symbol("x")})
        assert eval("[1, (2, -3.5)]") == [1, (2, -3.5)]
    assert str(read) == "C + x**2/2 + sqrt(3)*sin(x)"


def test_a_run_goes_on_with_the_version_that_it_was_made_with_and_no_other(monkeypatch, tmp_path):
    task = load("reasoning_gym:chain_sum")
    assert task.identity == f"reasoning_gym:chain_sum {VERSION}"
    assert load(task.identity, task.identity).identity == load("reasoning_gym:chain_sum", task.identity).identity
    run = Run.create(tmp_path / "run", "sample", {"task": task.identity}, [], task=task)
    assert run.task().dataset == "chain_sum"
    assert not is_built_in("reasoning_gym:chain_sum 0.1.25 sha256:0123456789abcdef")
    assert not is_built_in("reasoning_gym:../mine.py")
    monkeypatch.setattr(reasoning_gym, "installed_version", lambda: "9.9")
    with pytest.raises(UserError, match=f'pip install "reasoning-gym=={VERSION}"'):
        run.task()


def test_mistakes_are_one_line(tmp_path, capsys, monkeypatch):
    words = ("problems", "--split", "syn", "--count", 2, "--output", tmp_path / "out.jsonl", "--task")
    for name, says in (
        ("reasoning_gym:chain_summ", f"reasoning-gym {VERSION} has no task 'chain_summ': ab, acre"),
        ("reasoning_gym:composite", "reasoning_gym:composite cannot be made with {}: Must specify"),
        ("reasoning_gym:", "unknown task: reasoning_gym: (built in"),
    ):
        assert command(*words, name) == 2
        told = capsys.readouterr().err
        assert says in told
        assert told.count("\n") == 1

    def missing(_):
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "version", missing)
    reasoning_gym.installed_version.cache_clear()
    assert command(*words, "reasoning_gym:chain_sum") == 2
    assert 'pip install "reasoning-gym==' in capsys.readouterr().err
    reasoning_gym.installed_version.cache_clear()
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"gold": "18", "response": "x"}\n')
    monkeypatch.undo()
    assert command("grade", "--task", "reasoning_gym:chain_sum", "--input", rows, "--output", tmp_path / "out") == 2
    assert "the gold answer '18' is no entry of reasoning-gym" in capsys.readouterr().err


def test_settings_are_given_in_a_task_file_and_its_grader_runs_in_workers(tmp_path):
    file = tmp_path / "long_sums.py"
    file.write_text(
        "from openrlhf_negdata.tasks.reasoning_gym import ReasoningGym\n"
        "task = ReasoningGym('chain_sum', min_terms=6, max_terms=6)\n"
    )
    task = load(str(file))
    made = list(task.generate(4, 0, "syn"))
    assert all(problem.question.count("+") + problem.question.count(" - ") == 5 for problem in made)
    assert pickle.loads(pickle.dumps(task)).identity == task.identity
    rows = [(problem.gold, f"#### {ast.literal_eval(problem.gold)['answer']}", "stop") for problem in made]
    assert [graded.outcome for graded in grade_rows(task, rows)] == ["correct"] * 4
    file.write_text(
        "from openrlhf_negdata.tasks.reasoning_gym import ReasoningGym\ntask = ReasoningGym('lcm', terms=6)\n"
    )
    with pytest.raises(UserError, match="lcm cannot be made with {'terms': 6}"):
        load(str(file))


def a_policy(folder: Path, answers: list[str]) -> Path:
    """An untrained model that writes lines of "so", and one of ``answers`` at a time: some are right by chance."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<unk>", "</s>", "so\n", *(f"<answer>{answer}</answer>\n" for answer in dict.fromkeys(answers))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    torch.manual_seed(0)
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=len(words), max_position_embeddings=2048, bos_token_id=None, eos_token_id=1, **size
    )
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_sums_from_problems_to_sets_with_answers_from_elsewhere(tmp_path):
    """Arithmetic, without an engine: real problems, the grader's processes, and the sets of two arms."""
    own, task = tmp_path / "own", ("--task", "reasoning_gym:chain_sum")
    own.mkdir()
    assert command("problems", *task, "--split", "syn", "--count", 4, "--output", own / "problems.jsonl") == 0
    answers = []
    for row in rows(own / "problems.jsonl"):
        right = ast.literal_eval(row["gold"])["answer"]
        for text in (
            f"<answer>{right}</answer>",
            f"so\n#### {right}",
            f"<answer>{right}1</answer>",
            f"It is {right}.",
        ):
            answers.append({"problem": row["id"], "gold": row["gold"], "response": f"Add them up.\n{text}"})
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    assert command("grade", *task, "--input", tmp_path / "answers.jsonl", "--output", own / "traces.jsonl") == 0
    outcomes = [row["outcome"] for row in rows(own / "traces.jsonl")]
    assert outcomes == ["correct", "correct", "wrong", "no_answer"] * 4
    for arm, count in (("rft", 8), ("dpo", 8)):
        assert command("build", arm, *task, "--input", own, "--output", tmp_path / f"{arm}.jsonl") == 0
        assert len(rows(tmp_path / f"{arm}.jsonl")) == count


def test_logic_from_problems_to_pairs_with_real_engines(tmp_path):
    """Sampled, graded, valued and built: by chance some answers of an untrained policy are right."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}

    def run(words: str) -> None:
        argv = [word.replace("@", f"{tmp_path}/") for word in words.split()]
        done = subprocess.run(
            [sys.executable, "-m", "openrlhf_negdata.cli.main", *argv], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-4000:]

    run("problems --task reasoning_gym:circuit_logic --split syn --count 6 --output @problems.jsonl")
    gold = {row["id"]: ast.literal_eval(row["gold"])["answer"] for row in rows(tmp_path / "problems.jsonl")}
    a_policy(tmp_path / "policy", [*gold.values(), "2"])
    policy = "--model.model_name_or_path @policy"
    samples = "--rollout.n_samples_per_prompt 16 --rollout.max_new_tokens 24 --rollout.temperature 1"
    run(f"sample --task reasoning_gym:circuit_logic --problems @problems.jsonl {policy} {samples} --output @traces")
    run("grade --input @traces --output @graded")
    run(f"value --input @graded {policy} --value.n_rollouts 4 --output @values")
    run("build shared-prefix --input @values --output @pairs.jsonl")

    outcomes = set()
    for trace in Run.open(tmp_path / "values").read("traces"):
        outcomes.add(trace.outcome)
        if trace.outcome in ("correct", "wrong"):
            assert (trace.answer == gold[trace.problem]) == (trace.outcome == "correct")
    assert {"correct", "wrong"} <= outcomes
    pairs = rows(tmp_path / "pairs.jsonl")
    assert pairs
    extract = load("reasoning_gym:circuit_logic").extract
    assert all(extract(pair["prompt"] + pair["chosen"]) == gold[pair["problem"]] for pair in pairs)

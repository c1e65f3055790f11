"""Arms beside each other get the figures that each gets alone, and a model that lacks a weight gets none. With real
engines, each of which takes half a minute to start."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from openrlhf_negdata import models
from openrlhf_negdata.analysis import answers
from openrlhf_negdata.cli.main import main
from openrlhf_negdata.rollouts.store import Run

TASK = str(Path(__file__).with_name("any_answer.py"))


def edit(path, **fields):
    made = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**made, **fields}))


def command(*words):
    """A command in a process of its own: its exit status and what it said on stderr."""
    ended = subprocess.run(
        [sys.executable, "-m", "openrlhf_negdata.cli.main", *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
    )
    return ended.returncode, ended.stderr


@pytest.fixture(scope="module")
def root(tiny_model, tmp_path_factory):
    """The same weights as ``a``, ``rope`` (another base of the rotary embedding) and ``ends`` (every token ends)."""
    root = tmp_path_factory.mktemp("evaluate")
    assert (
        main(["problems", "--task", "running_value", "--split", "test", "--count", "40", "--output", f"{root}/p"]) == 0
    )
    for name in ("a", "rope", "ends"):
        shutil.copytree(tiny_model, root / name)
        edit(root / name / "generation_config.json", eos_token_id=[2, *range(3, 63, 3)])
    config = json.loads((root / "rope" / "config.json").read_text())
    edit(root / "rope" / "config.json", rope_parameters={**config["rope_parameters"], "rope_theta": 2.0})
    edit(root / "ends" / "generation_config.json", eos_token_id=list(range(2, 63)))
    return root


def figures(root, output, *arms):
    where = ["--task", TASK, "--problems", root / "p", "--output", root / output, "--q_problems", 5, "--q_rollouts", 2]
    where += ["--rollout.n_samples_per_prompt", 3]
    status, told = command("evaluate", *where, "--models", *(f"{arm}={root / arm}" for arm in arms))
    assert status == 0, told[-3000:]
    made = {arm: json.loads((root / output / f"{arm}.json").read_text()) for arm in arms}
    return {arm: {key: told[key] for key in ("wrong", "outcomes", "q_by_step", "votes")} for arm, told in made.items()}


def test_an_arm_has_the_same_figures_beside_others_and_alone(root):
    beside = figures(root, "beside", "a", "rope", "ends")
    assert beside["rope"] == figures(root, "rope_alone", "rope")["rope"]
    assert beside["ends"] == figures(root, "ends_alone", "ends")["ends"]
    # They can be told apart: what is equal above is not equal anyway.
    assert beside["a"]["wrong"] != beside["rope"]["wrong"]
    assert beside["a"]["outcomes"] != beside["ends"]["outcomes"]
    assert beside["a"]["votes"] != beside["rope"]["votes"]
    for arm, told in beside.items():
        kept = answers.read(root / "beside", arm)
        assert [int(one.outcome != "correct") for one in kept if one.sample == 0] == told["wrong"]
        assert [one.sample for one in kept] == [*range(4)] * 40
        spent = json.loads((root / "beside" / f"{arm}.json").read_text())["spent"]
        rollouts = sum(map(sum, told["q_by_step"]["count"]))
        assert (spent["answers"], spent["rollouts"]) == (160, rollouts)
        assert spent["tokens"] > sum(one.tokens for one in kept)
    pairs = answers.side_by_side(root / "beside", ("a", "rope"))
    assert len(pairs) == 40


def test_a_model_that_lacks_a_part_of_its_weights_is_refused_in_one_line(root):
    """vLLM loads q, k and v into one parameter, and says nothing where one of the three is left out."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(root / "a", root / "lacks")
    weights = load_file(root / "lacks" / "model.safetensors")
    del weights["model.layers.0.self_attn.q_proj.weight"]
    save_file(weights, root / "lacks" / "model.safetensors", {"format": "pt"})
    where = ["--task", TASK, "--problems", root / "p", "--output", root / "refused"]
    status, told = command("evaluate", *where, "--models", f"a={root / 'a'}", f"lacks={root / 'lacks'}")
    assert status == 2
    says = f"negdata evaluate: error: {root / 'lacks'}: its weights cannot be loaded: there are no or not all "
    assert told.splitlines()[-1].startswith(f"{says}weights of model.layers.0.self_attn.qkv_proj")
    assert "Traceback" not in told
    assert not (root / "refused" / "lacks.json").exists()


def test_a_tokenizer_with_code_of_its_own_is_used_where_it_is_trusted(root):
    """From sampling to values, in the actors too; each command asks for trust where it is not given."""
    model = root / "with_code"
    shutil.copytree(root / "a", model)
    edit(model / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "mine.Mine"]}, tokenizer_class="Mine")
    (model / "mine.py").write_text(
        "from transformers import PreTrainedTokenizerFast\n\n\nclass Mine(PreTrainedTokenizerFast):\n    pass\n"
    )
    problems = [json.loads(line) for line in (root / "p").read_text().splitlines()[:3]]
    (root / "three").write_text("".join(json.dumps(row) + "\n" for row in problems))
    policy = ["--model.model_name_or_path", model]
    sample = ["sample", "--task", TASK, "--problems", root / "three", *policy, "--output", root / "traces"]
    grade = ["grade", "--task", TASK, "--input", root / "traces", "--output", root / "graded"]
    value = [
        "value",
        "--task",
        TASK,
        "--input",
        root / "graded",
        *policy,
        "--value.n_rollouts",
        2,
        "--output",
        root / "values",
    ]
    build = ["build", "rft", "--task", TASK, "--input", root / "graded", "--output", root / "rft.jsonl"]
    for words in (sample, value, build):
        if words is value:
            assert command(*grade)[0] == 0
        status, told = command(*words)
        assert status == 2
        assert "read it, then pass --model.trust_remote_code" in told.splitlines()[-1]
        status, told = command(*words, "--model.trust_remote_code")
        assert status == 0, told[-3000:]
    assert type(Run.open(root / "values").tokenizer(trust_remote_code=True)).__name__ == "Mine"
    assert type(models.load_tokenizer(str(model), True)).__name__ == "Mine"


def test_an_engine_that_cannot_start_says_why_in_one_line_and_where_its_log_is(root):
    broken = root / "broken"
    shutil.copytree(root / "a", broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-2000])
    where = ["--task", TASK, "--problems", root / "p", "--output", root / "not_started"]
    status, told = command("evaluate", *where, "--models", f"a={broken}")
    assert status == 2
    assert "Traceback" not in told
    last = told.splitlines()[-1]
    assert last.startswith(f"negdata evaluate: error: an engine for {broken} cannot start: ")
    assert "SafetensorError" in last
    log = Path(last.rpartition("its log: ")[2].rstrip(")"))
    assert "SafetensorError" in log.read_text()


#: A private Ray that runs a task, and then a process that tries to join it: with the token, and without.
JOIN = """
import os, subprocess, sys
from openrlhf_negdata.rollouts import engines
engines.ask_for_a_token()
import ray
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
print("task", ray.get(ray.remote(lambda: 1).remote()))
join = f"import ray; ray.init(address='{ray.get_runtime_context().gcs_address}', log_to_driver=False); print('in')"
without = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
for who, environment in (("friend", dict(os.environ)), ("stranger", without)):
    tried = subprocess.run([sys.executable, "-c", join], env=environment, capture_output=True, text=True)
    print(who, tried.returncode, tried.stdout)
    print(tried.stderr[-2000:], file=sys.stderr)
"""


def test_a_stranger_without_the_token_cannot_join_the_private_ray():
    """A private Ray listens on all interfaces. Who holds the token joins it, and another process is turned away."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    done = subprocess.run([sys.executable, "-c", JOIN], env=mine, capture_output=True, text=True, timeout=300)
    told = done.stdout.split()
    assert told[:2] == ["task", "1"], done.stdout + done.stderr[-4000:]
    if told[2:5] != ["friend", "0", "in"]:
        pytest.skip(f"not even a holder of the token can join a Ray on this machine: {done.stderr[-4000:]}")
    assert told[5:] == ["stranger", "1"], done.stdout + done.stderr[-4000:]

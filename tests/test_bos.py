"""Prompts begin as the model's own tokenizer begins a text: with its beginning-of-sequence token where it puts one,
and as they were where it puts none."""

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from openrlhf_negdata import models
from openrlhf_negdata.cli import evaluate
from openrlhf_negdata.cli.main import main
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.files import write_jsonl
from openrlhf_negdata.rollouts import sampling
from openrlhf_negdata.rollouts.engines import Continuation, Engines, Sampling
from openrlhf_negdata.rollouts.sampling import answer_problems, beginning, encode_prompt
from openrlhf_negdata.rollouts.store import Run
from openrlhf_negdata.tasks import Problem, load

TASK = load("gsm8k")
ROW = {"question": "1 + 1?", "answer": "It is 2.\n#### 2"}


@pytest.fixture(autouse=True)
def nothing_was_said_before():
    sampling._say_once.cache_clear()


def with_template(tokenizer, template: str):
    """A copy of ``tokenizer`` that writes each text as ``template`` says, by the token ``</s>`` that all of them
    have."""
    backend = type(tokenizer._tokenizer).from_str(tokenizer._tokenizer.to_str())
    backend.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("</s>", tokenizer.eos_token_id)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="</s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture
def folder(tiny_model, tmp_path) -> Path:
    """A model folder whose tokenizer begins every text with a token."""
    shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer = models.load_tokenizer(str(tiny_model))
    backend = json.loads((tiny_model / "tokenizer.json").read_text())
    end, whole = tokenizer.eos_token, {"Sequence": {"id": "A", "type_id": 0}}
    backend["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": end, "type_id": 0}}, whole],
        "pair": [whole, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {end: {"id": end, "ids": [tokenizer.eos_token_id], "tokens": [end]}},
    }
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(backend))
    return tmp_path / "model"


@pytest.mark.parametrize("kind", ["byte_bpe", "sentencepiece", "straddling", "character"])
def test_a_prompt_is_what_the_tokenizer_makes_of_its_text(tokenizers, kind, capsys):
    plain = tokenizers[kind]
    bare = encode_prompt(plain, TASK, "How many?", begins=beginning(plain))
    assert bare == plain(TASK.prompt("How many?"), add_special_tokens=False)["input_ids"]
    assert capsys.readouterr().err == ""
    with_bos = with_template(plain, "</s> $A")
    begins = beginning(with_bos)
    assert encode_prompt(with_bos, TASK, "How many?", begins=begins) == [plain.eos_token_id, *bare]
    assert encode_prompt(with_bos, TASK, "How many?", begins=begins) == with_bos(TASK.prompt("How many?"))["input_ids"]
    assert beginning(with_bos) == begins
    assert capsys.readouterr().err.count("prompts begin with </s>") == 1
    # What a tokenizer puts after a text is no part of a prompt.
    assert encode_prompt(with_bos, TASK, "How many?", begins=beginning(with_template(plain, "$A </s>"))) == bare
    assert beginning(with_bos, no_bos=True) == []


def test_a_chat_template_and_a_task_that_write_the_token_are_given_no_second_one(tokenizers):
    tokenizer = with_template(tokenizers["byte_bpe"], "</s> $A")
    tokenizer.chat_template = "{{ bos_token }}{{ messages[0]['content'] }}"
    once = tokenizer(TASK.prompt("?"))["input_ids"]
    assert once.count(tokenizer.bos_token_id) == 1
    assert encode_prompt(tokenizer, TASK, "?", True, beginning(tokenizer, chat_template=True)) == once

    class Writes(type(TASK)):
        def prompt(self, question: str) -> str:
            return "</s>" + super().prompt(question)

    assert encode_prompt(tokenizer, Writes(), "?", begins=beginning(tokenizer)) == once


def test_the_policy_is_asked_what_the_trace_says(tokenizers):
    tokenizer, asked = with_template(tokenizers["character"], "</s> $A"), []

    class Policy:
        def generate(self, requests, _):
            for request in requests:
                asked.append(list(request.prompt_ids))
                yield [Continuation([tokenizer.eos_token_id], "stop")]

    more = {"samples": 1, "sampling": Sampling(), "max_tokens": 8, "chat_template": False, "seed": 0}
    problems = [Problem("p", "?", "1")]
    ((trace,),) = answer_problems(Policy(), problems, TASK, tokenizer, begins=beginning(tokenizer), **more)
    assert trace.prompt_ids == asked[0] == tokenizer(TASK.prompt("?"))["input_ids"]


@pytest.mark.parametrize("no_bos", [False, True])
def test_a_run_says_what_its_prompts_begin_with_and_its_sets_follow_it(
    folder, tiny_model, tmp_path, capsys, monkeypatch, no_bos
):
    """The run is begun, no engine started. What `build` writes is what was sampled, flag or no flag."""

    def no_engine(self):
        raise UserError("no engine here")

    monkeypatch.setattr(Engines, "__enter__", no_engine)
    flag = ["--data.no_bos"] if no_bos else []
    problems, run = tmp_path / "problems.jsonl", tmp_path / "run"
    write_jsonl(problems, [{"question": "1 +1 ?", "gold": "r2", "solution": "+1 2 ; = r2"}])
    words = ["sample", "--task", "running_value", "--problems", problems, "--model.model_name_or_path", folder]
    assert main(list(map(str, [*words, "--output", run, *flag]))) == 2
    assert ("prompts begin with" in capsys.readouterr().err) != no_bos
    made = Run.open(run, complete=False)
    end = models.load_tokenizer(str(folder)).eos_token_id
    assert made.sampled.get("prompts_begin_with") == (None if no_bos else [end])
    made.write("traces", 0, [])
    made.finish({})
    assert main(["build", "sft", "--input", str(run), "--output", str(tmp_path / "set.jsonl")]) == 0
    row = json.loads((tmp_path / "set.jsonl").read_text())
    bare = models.load_tokenizer(str(tiny_model))("1 +1 ?")["input_ids"]
    assert row["prompt_ids"] == ([] if no_bos else [end]) + bare
    other = ["build", "sft", "--input", str(run), "--output", str(tmp_path / "other.jsonl"), "--data.no_bos"]
    assert main(other) == (0 if no_bos else 2)
    assert ("was sampled without that flag" in capsys.readouterr().err) != no_bos


def test_a_set_of_ones_own_problems_begins_as_the_tokenizer_does(folder, tmp_path):
    write_jsonl(tmp_path / "problems.jsonl", [{"question": "1 +1 ?", "gold": "r2", "solution": "+1 2 ; = r2"}])
    words = ["build", "sft", "--task", "running_value", "--problems_from", tmp_path / "problems.jsonl"]
    prompts = {}
    for name, flags in (("with", []), ("without", ["--data.no_bos"])):
        output = tmp_path / f"{name}.jsonl"
        assert main(list(map(str, [*words, "--tokenizer", folder, "--output", output, *flags]))) == 0
        prompts[name] = json.loads(output.read_text())["prompt_ids"]
    end = models.load_tokenizer(str(folder)).eos_token_id
    assert prompts["with"] == [end, *prompts["without"]]


def test_each_policy_is_examined_with_prompts_that_begin_as_its_own_tokenizer_does(folder, tiny_model):
    exam = evaluate.Exam(load("running_value"), [Problem("p", "1 +1 ?", "r2")], [], 8, Sampling(), 8, 0)
    end = models.load_tokenizer(str(folder)).eos_token_id
    for no_bos in (False, True):
        flags = {"model.trust_remote_code": False, "data.apply_chat_template": False, "data.no_bos": no_bos}
        with_bos, without = evaluate._groups({"a": folder, "b": tiny_model}, exam, flags)
        assert with_bos.prompts["p"] == ([] if no_bos else [end]) + without.prompts["p"]

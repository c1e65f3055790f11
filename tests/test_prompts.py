"""Prompts say what the flags and the task say. They begin as the model's own tokenizer begins a text: with its
beginning-of-sequence token where it puts one, and as they were where it puts none."""

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
from openrlhf_negdata.records import Problem
from openrlhf_negdata.rollouts import prompts
from openrlhf_negdata.rollouts.engines import Continuation, Engines, Sampling
from openrlhf_negdata.rollouts.prompts import Prompting
from openrlhf_negdata.rollouts.sampling import answer_problems
from openrlhf_negdata.rollouts.store import Run
from openrlhf_negdata.tasks import load

TASK, TINY = load("gsm8k"), load("running_value")
ROW = {"question": "1 + 1?", "answer": "It is 2.\n#### 2"}


@pytest.fixture(autouse=True)
def nothing_was_said_before():
    prompts.say_once.cache_clear()


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
    bare = Prompting().encoder(plain, TASK)("How many?")
    assert bare == plain(TASK.prompt("How many?"), add_special_tokens=False)["input_ids"]
    assert capsys.readouterr().err == ""
    with_bos = with_template(plain, "</s> $A")
    begun = Prompting().encoder(with_bos, TASK)("How many?")
    assert begun == [plain.eos_token_id, *bare] == with_bos(TASK.prompt("How many?"))["input_ids"]
    assert Prompting().encoder(with_bos, TASK)("How many?") == begun
    assert capsys.readouterr().err.count("prompts begin with </s>") == 1
    # What a tokenizer puts after a text is no part of a prompt.
    assert Prompting().encoder(with_template(plain, "$A </s>"), TASK)("How many?") == bare
    assert Prompting(no_bos=True).encoder(with_bos, TASK)("How many?") == bare


def test_a_chat_template_and_a_task_that_write_the_token_are_given_no_second_one(tokenizers):
    tokenizer = with_template(tokenizers["byte_bpe"], "</s> $A")
    tokenizer.chat_template = "{{ bos_token }}{{ messages[0]['content'] }}"
    once = tokenizer(TASK.chat_prompt("?"))["input_ids"]
    assert once.count(tokenizer.bos_token_id) == 1
    assert Prompting(chat_template=True).encoder(tokenizer, TASK)("?") == once

    class Writes(type(TASK)):
        def prompt(self, question: str) -> str:
            return "</s>" + super().prompt(question)

    assert Prompting().encoder(tokenizer, Writes())("?") == tokenizer(TASK.prompt("?"))["input_ids"]


def test_the_policy_is_asked_what_the_trace_says(tokenizers):
    tokenizer, asked = with_template(tokenizers["character"], "</s> $A"), []

    class Policy:
        def generate(self, requests, *_):
            for request in requests:
                asked.append(list(request.prompt_ids))
                yield [Continuation([tokenizer.eos_token_id], "stop")]

    more = {"samples": 1, "sampling": Sampling(), "max_tokens": 8, "seed": 0}
    problems = [Problem("p", "?", "1")]
    ((trace,),) = answer_problems(Policy(), problems, Prompting().encoder(tokenizer, TASK), tokenizer, **more)
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
    assert made.sampled["prompting"]["no_bos"] == no_bos
    made.write("traces", 0, [])
    made.finish({})
    assert main(["build", "sft", "--input", str(run), "--output", str(tmp_path / "set.jsonl")]) == 0
    row = json.loads((tmp_path / "set.jsonl").read_text())
    bare = models.load_tokenizer(str(tiny_model))("1 +1 ?")["input_ids"]
    assert row["prompt_ids"] == ([] if no_bos else [end]) + bare
    other = ["build", "sft", "--input", str(run), "--output", str(tmp_path / "other.jsonl"), "--data.no_bos"]
    assert main(other) == (0 if no_bos else 2)
    assert ("its sets follow it" in capsys.readouterr().err) != no_bos


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
    end = models.load_tokenizer(str(folder)).eos_token_id
    for no_bos in (False, True):
        exam = evaluate.Exam(TINY, [Problem("p", "1 +1 ?", "r2")], [], 8, Sampling(), 8, 0, Prompting(no_bos=no_bos))
        flags = {"model.trust_remote_code": False}
        with_bos, without = evaluate._groups({"a": folder, "b": tiny_model}, exam, flags)
        assert with_bos.prompts["p"] == ([] if no_bos else [end]) + without.prompts["p"]


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def chat(tokenizers):
    """A tokenizer with ChatML's template and its two tokens; its end of sequence is another."""
    backend = type(tokenizers["byte_bpe"]._tokenizer).from_str(tokenizers["byte_bpe"]._tokenizer.to_str())
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made.chat_template = CHATML
    return made


def said(prompting, tokenizer, task, question="How many?") -> str:
    return tokenizer.decode(prompting.encoder(tokenizer, task)(question))


def test_a_chat_model_is_asked_for_what_the_grader_reads(chat):
    """Not the plain prompt, which ends in the words that a base model goes on from."""
    for name, wants in (("gsm8k", "####"), ("math", "\\boxed{}")):
        task = load(name)
        text = said(Prompting(chat_template=True), chat, task)
        assert text == f"<|im_start|>user\nHow many?\n\n{task.instruction}<|im_end|>\n<|im_start|>assistant\n"
        assert wants in text
        assert said(Prompting(), chat, task) == task.prompt("How many?")
    text = said(Prompting(chat_template=True, system_prompt="Be brief."), chat, TASK)
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHow many?\n\nThink")


def test_a_template_of_ones_own_stands_in_place_of_the_tasks_words(chat, tmp_path):
    """Its braces are left alone: a template may ask for a box."""
    (tmp_path / "asks.txt").write_text("Q: {question}\nBox it: \\boxed{}\nA: ")
    flags = {"data.apply_chat_template": False, "data.system_prompt": None, "data.no_bos": False}
    plain = prompts.read_flags(flags | {"data.input_template": str(tmp_path / "asks.txt")})
    assert said(plain, chat, TASK, "{question}{0}") == "Q: {question}{0}\nBox it: \\boxed{}\nA: "
    in_chat = Prompting(chat_template=True, input_template="{question} Why?")
    assert said(in_chat, chat, TASK) == "<|im_start|>user\nHow many? Why?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"data.system_prompt": "Be brief."}, "--data.system_prompt counts with --data.apply_chat_template alone"),
        ({"data.apply_chat_template": True, "data.no_bos": True}, "--data.no_bos counts without"),
        ({"data.input_template": "nowhere.txt"}, "--data.input_template nowhere.txt: .*No such file"),
        ({"data.input_template": "none.txt"}, "it holds no {question}, where the question goes"),
    ],
)
def test_flags_of_a_prompt_that_contradict_each_other_are_refused(flags, says, tmp_path, monkeypatch):
    (tmp_path / "none.txt").write_text("Q: {}")
    monkeypatch.chdir(tmp_path)
    none = {"data.apply_chat_template": False, "data.system_prompt": None, "data.no_bos": False}
    with pytest.raises(UserError, match=says):
        prompts.read_flags({**none, "data.input_template": None, **flags})


def test_a_template_that_is_not_used_or_whose_end_ends_nothing_is_said_once(chat, tokenizers, tmp_path, capsys):
    def told(prompting, tokenizer):
        prompts.say_once.cache_clear()
        prompts.check_fit(prompting, tokenizer, tmp_path)
        return capsys.readouterr().err

    assert "has a chat template, which is not used" in told(Prompting(), chat)
    assert told(Prompting(input_template="{question}"), chat) == told(Prompting(), tokenizers["byte_bpe"]) == ""
    end = chat.convert_tokens_to_ids("<|im_end|>")
    assert (
        f"ends an answer with <|im_end|>, which is none of its end tokens, so answers may run on: add {end}"
        in told(Prompting(chat_template=True), chat)
    )
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, end]}))
    assert told(Prompting(chat_template=True), chat) == ""


def test_an_evaluation_prompts_as_the_run_that_it_names_was(tmp_path, tiny_model):
    sampled = {"chat_template": False, "no_bos": False, "system_prompt": None, "input_template": "Q: {question}"}
    settings = {"task": "gsm8k", "prompting": sampled}
    Run.create(tmp_path / "run", "sample", settings, [Problem("p", "?", "1")], tiny_model)
    flags = {"data.apply_chat_template": False, "data.system_prompt": None, "data.no_bos": False}
    flags |= {"data.input_template": None, "prompts_of": str(tmp_path / "run")}
    assert evaluate._prompting(flags) == Prompting(**sampled)
    with pytest.raises(UserError, match="leave out the --data flags"):
        evaluate._prompting(flags | {"data.no_bos": True})


def test_show_says_how_a_run_was_prompted_and_graded(tmp_path, tiny_model, capsys):
    how = {"chat_template": True, "no_bos": False, "system_prompt": "Be brief.", "input_template": None}
    settings = {"task": "gsm8k", "grading": "flexible", "input": {"task": "gsm8k", "prompting": how}}
    Run.create(tmp_path / "run", "grade", settings, [Problem("p", "?", "1")], tiny_model)
    assert main(["show", str(tmp_path / "run")]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "prompts: chat_template yes prompts: system_prompt 'Be brief.' grading flexible" in told

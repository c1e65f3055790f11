"""How a question becomes the token ids that a policy is asked with."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from openrlhf_negdata.errors import UserError
from openrlhf_negdata.tasks import Task

#: Where the question stands in an input template.
QUESTION = "{question}"


@dataclass(frozen=True)
class Prompting:
    """What is put around a question. A run records it, and its sets and evaluations follow it.

    ``chat_template``: the question is the user's turn of the model's chat template, with the task's instruction, after
    ``system_prompt`` if there is one. ``input_template``: a text with ``{question}`` in place of the task's own words.
    ``no_bos``: without a template, no beginning-of-sequence token, though the tokenizer puts one before every text.
    """

    chat_template: bool = False
    no_bos: bool = False
    system_prompt: str | None = None
    input_template: str | None = None

    def asked(self, task: Task, question: str) -> str:
        """The text that is asked: without a chat template all of it, else the user's turn."""
        if self.input_template is not None:
            return self.input_template.replace(QUESTION, question)
        return task.chat_prompt(question) if self.chat_template else task.prompt(question)

    def encoder(self, tokenizer: Any, task: Task) -> Callable[[str], list[int]]:
        """A function from a question to the ids of its prompt.

        It raises a UserError where the tokenizer has no chat template, or one that takes no such turns.
        """
        begins: list[int] | None = [] if self.chat_template or self.no_bos else None

        def encode(question: str) -> list[int]:
            nonlocal begins
            text = self.asked(task, question)
            if self.chat_template:
                text = self._rendered(tokenizer, text)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            if begins is None:
                begins = _beginning(tokenizer, text, ids)
            return ids if ids[: len(begins)] == begins else [*begins, *ids]

        return encode

    def end(self, tokenizer: Any) -> int:
        """The token that ends a whole answer: what the chat template writes after one, where it is used and does
        (Gemma's ``<end_of_turn>`` is not its end-of-sequence token); else the end-of-sequence token."""
        end = answer_end(tokenizer) if self.chat_template else None
        return tokenizer.eos_token_id if end is None else end

    def _rendered(self, tokenizer: Any, text: str) -> str:
        turns = [{"role": "user", "content": text}]
        if self.system_prompt is not None:
            turns.insert(0, {"role": "system", "content": self.system_prompt})
        try:
            return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # no template: ValueError; a template may raise whatever it likes
            reason = str(error).split("\n")[0].split("! ")[0]
            raise UserError(f"--data.apply_chat_template: {tokenizer.name_or_path}: {reason}") from error


def _beginning(tokenizer: Any, text: str, bare: list[int]) -> list[int]:
    """The ids that the model's tokenizer puts before every text: its beginning-of-sequence token, if it has that
    habit, for the model was trained so. OpenRLHF puts none (openrlhf/utils/agent.py:216,
    datasets/sft_dataset.py:150), so it is said once where there are some. ``bare``: the ids of ``text`` alone."""
    whole = tokenizer(text)["input_ids"]
    ends = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
    if ends:
        say_once(
            f"prompts begin with {tokenizer.decode(whole[:ends])}, as every text of this tokenizer does "
            f"({tokenizer.name_or_path}). OpenRLHF's own trainers put none: for a model that they trained without "
            "a chat template give --data.no_bos"
        )
    return whole[:ends]


def add_flags(parser: argparse._ActionsContainer) -> None:
    """The flags of :class:`Prompting`, named as in OpenRLHF where it has them."""
    parser.add_argument(
        "--data.apply_chat_template",
        action="store_true",
        help="ask in the model's chat template, as instruct models expect, with the task's instruction",
    )
    parser.add_argument("--data.system_prompt", default=None, metavar="TEXT", help="the system turn of that template")
    parser.add_argument(
        "--data.input_template",
        default=None,
        metavar="FILE",
        help=f"a text file that holds {QUESTION}, in place of the task's own prompt or user's turn",
    )
    parser.add_argument(
        "--data.no_bos",
        action="store_true",
        help="without the template: leave out the beginning-of-sequence token that the tokenizer puts before a text",
    )


def read_flags(flags: dict[str, Any]) -> Prompting:
    """UserError where they contradict each other, or the file of the template cannot be read."""
    template, system = flags["data.apply_chat_template"], flags["data.system_prompt"]
    if system is not None and not template:
        raise UserError("--data.system_prompt counts with --data.apply_chat_template alone")
    if flags["data.no_bos"] and template:
        raise UserError("--data.no_bos counts without --data.apply_chat_template alone: a template writes its own")
    text = None
    if file := flags["data.input_template"]:
        try:
            text = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--data.input_template {file}: {error}") from None
        if QUESTION not in text:
            raise UserError(f"--data.input_template {file}: it holds no {QUESTION}, where the question goes")
    return Prompting(template, flags["data.no_bos"], system, text)


def check_fit(prompting: Prompting, tokenizer: Any, model: Path) -> None:
    """Say on stderr what will probably go wrong: a template that is not used, or one that ends an answer with a token
    that ends nothing."""
    if not prompting.chat_template:
        if tokenizer.chat_template and prompting.input_template is None:
            say_once(
                f"{model} has a chat template, which is not used: for an instruct model give "
                "--data.apply_chat_template"
            )
        return
    end = answer_end(tokenizer)
    if end is not None and end not in end_tokens(tokenizer, model):
        token = tokenizer.convert_ids_to_tokens(end)
        say_once(
            f"{model}: its chat template ends an answer with {token}, which is none of its end tokens, so answers may "
            f"run on: add {end} to eos_token_id in its generation_config.json"
        )


def end_tokens(tokenizer: Any, model: Path) -> set[int]:
    """The ids at which engines end an answer: the tokenizer's, and those of ``generation_config.json``."""
    ends = {tokenizer.eos_token_id}
    with suppress(OSError, ValueError):
        listed = json.loads((model / "generation_config.json").read_text(encoding="utf-8")).get("eos_token_id")
        ends |= set(listed if isinstance(listed, list) else [listed])
    return ends - {None}


def answer_end(tokenizer: Any) -> int | None:
    """The special token that the chat template writes right after an answer; None where it writes none, or takes no
    answers."""
    answer = "an answer"
    try:
        turns = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": answer}]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # a template may raise whatever it likes
        return None
    after = tokenizer(text.rpartition(answer)[2].lstrip(), add_special_tokens=False)["input_ids"]
    added = tokenizer.added_tokens_decoder
    return after[0] if after and after[0] in added and added[after[0]].special else None


@cache
def say_once(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

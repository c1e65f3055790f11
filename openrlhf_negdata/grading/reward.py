r"""A task's grader as the reward of OpenRLHF's own RL trainers: ``--reward.remote_url FILE.py``.

The file is two lines, where ``gsm8k`` may be the path of a task of one's own:

>>> from openrlhf_negdata.grading.reward import for_task
>>> reward_func = for_task("gsm8k")

Labels (``--data.label_key``) are gold answers.

>>> reward_func(["What is 9 + 9? #### 18</s>"], ["What is 9 + 9?"], ["18"])["rewards"]
tensor([1.])
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from openrlhf_negdata.grading import Grader
from openrlhf_negdata.records import CORRECT, FAILED, NO_ANSWER, TIMED_OUT, Graded
from openrlhf_negdata.tasks import load

#: What a call logs beside the reward: 1 for a response with this outcome. ``failed`` could not be graded at all.
LOGGED = (CORRECT, NO_ANSWER, TIMED_OUT, FAILED)

#: OpenRLHF decodes a response with its special tokens. What looks like one of any family, at the end, is none of the
#: answer: ``</s>``, ``<|im_end|>``, DeepSeek's ``<｜end▁of▁sentence｜>``, ``<end_of_turn>``, ``[/INST]``.
_SPECIAL = re.compile(
    r"(?:</?s>|<[|｜][^|｜<>]{1,40}[|｜]>|<(?:eos|bos|pad|unk|EOS_TOKEN|(?:end|start)_of_turn)>|\[(?:/?INST|EOS|PAD)\])\s*\Z"
)

_log = logging.getLogger(__name__)


def for_task(name: str, grading: str = "strict", **options: Any) -> Callable[[Any, Any, Any], dict[str, Any]]:
    """The reward function of the task ``name``: 1.0 for a correct response, 0.0 for any other.

    ``grading`` is one of the task's ``gradings``. ``options`` are those of
    :class:`openrlhf_negdata.grading.Grader`: ``timeout`` in seconds, ``workers``. UserError if there is no such task.

    The function takes three lists of n: queries (prompt and response, decoded), prompts and labels. It returns
    ``rewards`` and ``scores``, and in ``extra_logs`` a 0 or 1 for each of ``LOGGED``, all float tensors of shape (n,).
    It may be called from any thread, and raises nothing: the rewards of other responses would be lost with it. What it
    cannot grade has reward 0.0, is ``failed`` in the logs, and is warned of.

    OpenRLHF does not say here whether a response was cut off. One that was has no final answer as a rule, and
    ``--reward.stop_properly_penalty_coef`` deals with those that have.
    """
    grader = Grader(load(name).graded_by(grading), **options)

    def reward_func(queries: Any, prompts: Any, labels: Any) -> dict[str, Any]:
        import torch  # Whoever calls this has it; a host that only grades need not.

        rows = range(len(queries) if isinstance(queries, (list, tuple)) else 1)
        outcomes = list(map(_outcome, [_submit(grader, queries, prompts, labels, row) for row in rows]))
        shares = {name: torch.tensor([float(outcome == name) for outcome in outcomes]) for name in LOGGED}
        return {"rewards": shares[CORRECT].clone(), "scores": shares[CORRECT].clone(), "extra_logs": shares}

    return reward_func


def _submit(grader: Grader, queries: Any, prompts: Any, labels: Any, row: int) -> Future[Graded]:
    try:
        query, prompt, label = queries[row], prompts[row], labels[row]
        try:
            gold = grader.task.read_gold(label)
        except ValueError as error:
            raise ValueError(f"no gold answer in the label, see --data.label_key: {error}") from None
        # OpenRLHF cuts a prompt that is too long at its start: then it is not found, and all is read.
        response = query.removeprefix(prompt)
        end = len(response)
        while special := _SPECIAL.search(response, max(0, end - 64), end):
            end = special.start()
        return grader.submit(gold, response[:end], None)
    except (Exception, SystemExit) as error:
        failed: Future[Graded] = Future()
        failed.set_exception(error)
        return failed


def _outcome(future: Future[Graded]) -> str:
    try:
        return future.result().outcome
    except (Exception, SystemExit) as error:
        _log.warning("no reward for a response, 0.0 instead: %.1000r", error)
        return FAILED

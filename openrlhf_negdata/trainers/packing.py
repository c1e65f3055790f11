"""Shared-prefix packing: the distinct tokens of many sequences as one, so that what they share is computed once.

The sequences of a row form a trie. Its tokens are laid out depth first; a token sees its own ancestors only, and its
position is its depth. With ``ends[i]`` one past the last descendant of token i, token i sees token j exactly where
``j <= i < ends[j]``. So every token gets the keys, positions and logits it has in a sequence of its own, and the
log-probabilities and their gradients are the same to rounding.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from openrlhf_negdata.errors import UserError

#: Attention implementations of transformers that take a mask of ours.
ATTENTION = ("sdpa", "flex_attention")


@dataclass
class Trie:
    """The distinct tokens of some sequences, depth first; ``paths`` says which of them each sequence is made of."""

    ids: list[int]
    depths: list[int]
    ends: list[int]
    paths: list[list[int]]

    @classmethod
    def of(cls, sequences: Sequence[list[int]]) -> Trie:
        ids: list[int] = []
        depths: list[int] = []
        ends: list[int] = []
        paths: list[list[int]] = [[] for _ in sequences]
        last: list[int] = []
        path: list[int] = []
        # In lexical order, what a sequence shares with any earlier one it shares with the one before it.
        for index in sorted(range(len(sequences)), key=lambda index: sequences[index]):
            sequence = sequences[index]
            shared = 0
            for mine, theirs in zip(sequence, last, strict=False):
                if mine != theirs:
                    break
                shared += 1
            for node in path[shared:]:
                ends[node] = len(ids)
            path = path[:shared] + list(range(len(ids), len(ids) + len(sequence) - shared))
            ids += sequence[shared:]
            depths += range(shared, len(sequence))
            ends += [0] * (len(sequence) - shared)
            paths[index], last = path, sequence
        for node in path:
            ends[node] = len(ids)
        return cls(ids, depths, ends, paths)


@dataclass
class Packed:
    """Tries as the rows of a batch, and where the log-probabilities that are asked for are found in it.

    ``ids``, ``depths`` and ``ends`` have shape (rows, tokens); a pad sees itself alone. ``predicting`` holds the flat
    positions whose logits are needed, each once. The t-th token that is asked for is ``targets[t]``, predicted at
    ``predicting[where[t]]``, and belongs to sequence ``owner[t]`` of ``sequences``.
    """

    ids: torch.Tensor
    depths: torch.Tensor
    ends: torch.Tensor
    predicting: torch.Tensor
    where: torch.Tensor
    targets: torch.Tensor
    owner: torch.Tensor
    sequences: int

    def to(self, device: Any) -> Packed:
        moved: Any = {name: part.to(device) for name, part in vars(self).items() if isinstance(part, torch.Tensor)}
        return replace(self, **moved)


def pack(rows: Sequence[Sequence[tuple[list[int], int]]], pad: int = 0) -> Packed:
    """``rows``: of each row its sequences, and how many first tokens of each are a prompt, at least one. Asked for are
    the tokens after the prompts; sequences are numbered through, row by row."""
    tries = [Trie.of([sequence for sequence, _ in row]) for row in rows]
    length = max(len(trie.ids) for trie in tries)
    batch = [
        (
            trie.ids + [pad] * (length - len(trie.ids)),
            trie.depths + [0] * (length - len(trie.ids)),
            trie.ends + list(range(len(trie.ids) + 1, length + 1)),
        )
        for trie in tries
    ]
    parents: list[int] = []
    targets: list[int] = []
    owner: list[int] = []
    number = 0
    for row, trie in enumerate(tries):
        for path, (_, prompt) in zip(trie.paths, rows[row], strict=True):
            parents += [row * length + node for node in path[prompt - 1 : -1]]
            targets += [trie.ids[node] for node in path[prompt:]]
            owner += [number] * (len(path) - prompt)
            number += 1
    predicting, where = torch.unique(torch.tensor(parents, dtype=torch.long), return_inverse=True)
    ids, depths, ends = (torch.tensor([row[part] for row in batch]) for part in range(3))
    return Packed(ids, depths, ends, predicting, where, torch.tensor(targets), torch.tensor(owner), number)


def log_probs(model: Any, packed: Packed, separate: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Of every sequence the sum of the log-probabilities of its tokens after the prompt, and their number.

    ``model`` is a causal language model of transformers, perhaps inside a DeepSpeed engine. Only the logits that are
    needed are made. ``separate``: every row is one sequence, so that the model's own causal mask will do. Shapes
    (sequences,), fp32.
    """
    picked = _token_log_probs(model, packed, separate)
    sums = torch.zeros(packed.sequences, device=picked.device).index_add(0, packed.owner, picked)
    return sums, torch.bincount(packed.owner, minlength=packed.sequences)


def _token_log_probs(model: Any, packed: Packed, separate: bool) -> torch.Tensor:
    """Of every token that is asked for; of shape (tokens asked for,), fp32."""
    config = getattr(model, "module", model).config
    # OpenRLHF asks MoE models for the balancing loss (models/actor.py:202), which no loss here has a use for, and
    # which takes masks of shape (rows, tokens) alone.
    router = {"output_router_logits": False} if hasattr(config, "output_router_logits") else {}
    with _only(model, packed.predicting):
        output = model(
            packed.ids,
            attention_mask=_not_pads(packed) if separate else _mask(config, packed.ends),
            position_ids=packed.depths,
            use_cache=False,
            **router,
        )
    logits = output.logits.float()
    return logits[packed.where, packed.targets] - torch.logsumexp(logits, -1)[packed.where]


def check(model: Any, attention: str, longest: int, budget: int) -> None:
    """Raise where ``model`` could not be given our mask, or is not exact under it: measured on forked sequences of
    random ids, in all processes together. ``longest``: tokens of the longest sequence of the set; ``budget``: tokens
    of the longest row."""
    if attention not in ATTENTION:
        raise UserError(
            f"--ds.attn_implementation {attention} takes no mask: shared-prefix packing needs one of "
            f"{', '.join(ATTENTION)}, or --train.separate_sequences_enable"
        )
    training = model.training
    model.eval()
    with torch.no_grad():
        found = _inexact(model, longest, budget)
    model.train(training)
    if found:
        raise UserError(
            f"shared-prefix packing is not exact for this model: {found}: give --train.separate_sequences_enable"
        )


def _inexact(model: Any, longest: int, budget: int) -> str | None:
    """In what way packed log-probabilities are not those of separate sequences, if they are not: root mean squares of
    their differences over the last tokens of forked sequences, which are longer than any window that the model's
    configuration names, unless none of the set is.

    Half of the keys that the last token sees lie before the window, so that a mask without it shows.
    """
    module = getattr(model, "module", model)
    window = max(_windows(module.config.to_dict()), default=0)
    length = max(4, min(max(64, 2 * window), longest))
    branches = max(2, min(window + 2 * length, budget) // length)
    draw = random.Random(0)
    some = [
        [draw.randrange(module.get_input_embeddings().num_embeddings) for _ in range(length)] for _ in range(branches)
    ]
    early, late = length // 4, length - length // 4
    forked = [some[0][:early] + ids[early:] for ids in some] + [some[0][:late] + some[1][late:]]
    asked = [(ids, max(1, length - 32)) for ids in forked]
    device = module.get_input_embeddings().weight.device

    def seen(*batches: list[list[tuple[list[int], int]]], separate: bool) -> torch.Tensor:
        return torch.cat([_token_log_probs(model, pack(rows).to(device), separate) for rows in batches])

    apart = seen(*([[one]] for one in asked), separate=True)
    padded = seen(*([[one], [(one[0] + one[0][:7], length)]] for one in asked), separate=True)
    padded = torch.cat([part[: length - asked[0][1]] for part in padded.split(length - asked[0][1] + 7)])
    rounding = torch.finfo(next(module.parameters()).dtype).eps
    size = lambda values: values.square().mean().sqrt().item()  # noqa: E731
    # In fp32 a wrong mask has made differences of 0.007 and up, and rounding has made up to 1e-6.
    allowed = 4 * size(padded - apart) + max(4 * rounding, 1e-4)
    try:
        off = size(seen([asked], separate=False) - apart)
    except Exception as error:  # whatever a family makes of the mask, it is not exact under it
        return (str(error).strip() or repr(error)).splitlines()[-1]
    return None if off <= allowed else f"log-probabilities are off by {off:.2g} (rounding: {allowed:.2g})"


def _windows(config: dict[str, Any]) -> Iterator[int]:
    """Every length that a configuration names for what attention sees."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _windows(value)
        elif type(value) is int and any(word in str(name) for word in ("window", "chunk")) and "layers" not in name:
            yield value


def micro_batches(sizes: Sequence[int], budget: int, separate: bool = False) -> list[list[list[int]]]:
    """Micro-batches of rows of the numbers of tries of these sizes: at most ``budget`` tokens each, pads included,
    but for a trie that is larger by itself. First fit, the largest first; ``separate``: one a row."""
    left = sorted(range(len(sizes)), key=lambda trie: -sizes[trie])
    made = []
    while left:
        length = sizes[left[0]]
        room = [length] * max(1, budget // length)
        rows: list[list[int]] = [[] for _ in room]
        rest = []
        for trie in left:
            row = next((row for row, free in enumerate(room) if free >= sizes[trie]), None)
            if row is None:
                rest.append(trie)
            else:
                rows[row].append(trie)
                room[row] = 0 if separate else room[row] - sizes[trie]
        made.append([row for row in rows if row])
        left = rest
    return made


def _not_pads(packed: Packed) -> torch.Tensor:
    """The mask of rows that are one sequence each, of shape (rows, tokens): a pad's depth is 0."""
    return (packed.depths == torch.arange(packed.ids.shape[1], device=packed.ids.device)).long()


def _mask(config: Any, ends: torch.Tensor) -> Any:
    """Which token sees which: boolean, of shape (rows, 1, tokens, tokens); a BlockMask for flex_attention."""
    rows, length = ends.shape
    attention = config._attn_implementation
    if attention == "flex_attention":
        from torch.nn.attention.flex_attention import create_block_mask

        def sees(row: Any, head: Any, i: Any, j: Any) -> Any:
            return (j <= i) & (i < ends[row, j])

        return create_block_mask(sees, rows, None, length, length, device=ends.device)
    i = torch.arange(length, device=ends.device)
    seen = (i[None, None, :] <= i[None, :, None]) & (i[None, :, None] < ends[:, None, :])
    return seen[:, None]


@contextmanager
def _only(model: Any, positions: torch.Tensor) -> Iterator[None]:
    """Show the output layer the hidden states at these flat positions alone."""
    head = getattr(model, "module", model).get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, args: (args[0].flatten(0, 1)[positions],))
    try:
        yield
    finally:
        hook.remove()

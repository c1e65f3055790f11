"""What every builder shares: rows with token ids and text, and a card that accounts for all that went in."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openrlhf_negdata.files import replacing

Row = dict[str, Any]


@dataclass
class Account:
    """What went in, counted once each under ``kept`` or under the reason it was dropped for; ``notes`` are sentences
    for the card."""

    unit: str
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def keep(self) -> None:
        self.kept += 1

    def drop(self, reason: str) -> None:
        self.dropped[reason] += 1

    @property
    def total(self) -> int:
        return self.kept + self.dropped.total()


def sft_row(
    tokenizer: Any | None,
    problem: str,
    prompt: str,
    response: str,
    prompt_ids: list[int] | None,
    response_ids: list[int] | None,
) -> Row:
    """A prompt and a whole response, as text and, where they are known, as ids (the end-of-sequence token among
    them)."""
    row: Row = {"problem": problem, "prompt": prompt, "response": response}
    if prompt_ids is not None and response_ids is not None:
        row |= {"prompt_ids": prompt_ids, "response_ids": response_ids}
        if tokenizer is not None:
            row["prompt"] = decode(tokenizer, prompt_ids)
    return row


def pair_row(
    tokenizer: Any | None,
    problem: str,
    prompt: str,
    chosen: str,
    rejected: str,
    ids: tuple[list[int], ...] | None,
    **figures: Any,
) -> Row:
    """A prompt (with the shared prefix, if any), a chosen and a rejected continuation; ``ids`` in that order."""
    row: Row = {"problem": problem, "prompt": prompt, "chosen": chosen, "rejected": rejected}
    if ids is not None:
        row |= dict(zip(("prompt_ids", "chosen_ids", "rejected_ids"), map(list, ids), strict=True))
        if tokenizer is not None:
            row |= {name: decode(tokenizer, row[f"{name}_ids"]) for name in ("prompt", "chosen", "rejected")}
    return row | figures


def decode(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def write_card(path: Path, arm: str, rows: list[Row], accounts: list[Account], settings: dict[str, Any]) -> None:
    """Write ``FILE.card.md`` beside a training set: how it was made, and what became of every row that went in."""
    lines = [f"# {path.name}", "", f"{len(rows)} rows, arm `{arm}`, made by `negdata build` with:", ""]
    lines += [f"- {key}: `{value}`" for key, value in settings.items()]
    for account in accounts:
        lines += [
            "",
            f"| {account.unit} | count |",
            "|---|---|",
            f"| in | {account.total} |",
            f"| kept | {account.kept} |",
        ]
        lines += [f"| dropped: {reason} | {count} |" for reason, count in sorted(account.dropped.items())]
        lines += [line for note in account.notes for line in ("", note)]
    if rows and "chosen_ids" in rows[0]:
        lines += ["", "| tokens a row (mean) | |", "|---|---|"]
        for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
            lines.append(f"| {name} | {sum(len(row[name]) for row in rows) / len(rows):.1f} |")
    if rows:
        lines += ["", "The first row:", "", "```"]
        lines += [f"{key}: {value}" for key, value in rows[0].items() if not key.endswith("_ids")]
        lines += ["```"]
    with replacing(path.with_name(f"{path.name}.card.md")) as card:
        card.write("\n".join(lines) + "\n")

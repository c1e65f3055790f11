"""Policies whose values are known exactly, to hold estimates against: a random table, and a walker on star graphs.

A response is a list of ints, one token a step; the last step ends it. A policy's ``q(prefix)`` is exact.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from openrlhf_negdata.records import CORRECT, WRONG
from openrlhf_negdata.steps.monte_carlo import Answer, Draw, Prefix


class Policy:
    """``steps`` tokens a response. Draws are seeded by content: the i-th draw from a prefix is always the same."""

    steps: int
    seed: int

    def following(self, prefix: Prefix) -> list[tuple[int, float]]:
        """The next tokens and their chances."""
        raise NotImplementedError

    def right(self, response: Prefix) -> float:
        """The chance that a whole response is graded correct: 0 or 1, or between where it is right by accident."""
        raise NotImplementedError

    def q(self, prefix: Prefix) -> float:
        if len(prefix) == self.steps:
            return self.right(prefix)
        return sum(chance * self.q((*prefix, token)) for token, chance in self.following(prefix))

    def draw(self, prefix: Prefix, number: int) -> Draw:
        rng = random.Random(f"{self.seed} {prefix} {number}")
        response = prefix
        while len(response) < self.steps:
            tokens, chances = zip(*self.following(response), strict=True)
            response += tuple(rng.choices(tokens, chances))
        return Draw(list(response[len(prefix) :]), CORRECT if rng.random() < self.right(response) else WRONG)

    async def roll_out(self, prefix: Prefix, first: int, count: int) -> list[Draw]:
        return [self.draw(prefix, number) for number in range(first, first + count)]

    def answers(self, count: int, correct: bool) -> list[Answer]:
        """Distinct responses that were graded correct, or wrong."""
        found: dict[Prefix, Answer] = {}
        for number in range(1000 * count):
            draw = self.draw((), -1 - number)
            if (draw.outcome == CORRECT) == correct:
                found[tuple(draw.token_ids)] = Answer(draw.token_ids, range(1, self.steps + 1), correct)
            if len(found) == count:
                break
        return list(found.values())


@dataclass
class Table(Policy):
    """A random table: state 0 of a level is a lost one; every other state falls into it with a chance of its own, and
    else goes to a state of the next level that is not. A response that is lost is right with chance ``floor``."""

    seed: int
    steps: int = 8
    states: int = 5
    floor: float = 0.0
    table: list[list[list[float]]] = field(init=False)

    def __post_init__(self) -> None:
        rng = random.Random(f"table {self.seed}")
        self.table = []
        for _ in range(self.steps):
            level = [[1.0] + [0.0] * (self.states - 1)]
            for _ in range(1, self.states):
                lost = rng.betavariate(1, 5)
                shares = [rng.expovariate(1) for _ in range(1, self.states)]
                level.append([lost] + [(1 - lost) * share / sum(shares) for share in shares])
            self.table.append(level)

    def following(self, prefix: Prefix) -> list[tuple[int, float]]:
        chances = self.table[len(prefix)][prefix[-1] if prefix else 1]
        return [(state, chance) for state, chance in enumerate(chances) if chance]

    def right(self, response: Prefix) -> float:
        return 1.0 if response[-1] else self.floor


@dataclass
class Star(Policy):
    """A walker on one star graph (Bachmann and Nagarajan 2024): from the start it takes an arm, the right one with
    chance ``knows``, then follows it; at every node it slips to a node elsewhere with chance ``slips``. The path must
    be right throughout. Tokens are node numbers: arm a has the nodes 1 + a * length and on."""

    seed: int
    arms: int = 5
    length: int = 8
    knows: float = 0.6
    slips: float = 0.04

    @property
    def steps(self) -> int:  # type: ignore[override]
        return self.length

    def following(self, prefix: Prefix) -> list[tuple[int, float]]:
        if not prefix:
            others = (1 - self.knows) / (self.arms - 1)
            return [(1 + arm * self.length, others if arm else self.knows) for arm in range(self.arms)]
        ahead = prefix[-1] + 1
        nodes = [node for node in range(1, 1 + self.arms * self.length) if node not in (ahead, prefix[-1])]
        if (prefix[-1] - 1) % self.length == self.length - 1:  # the end of an arm: whatever follows is wrong
            return [(node, 1 / len(nodes)) for node in nodes]
        return [(ahead, 1 - self.slips), *((node, self.slips / len(nodes)) for node in nodes)]

    def right(self, response: Prefix) -> float:
        return float(response == tuple(range(1, 1 + self.length)))

    def q(self, prefix: Prefix) -> float:
        if prefix != tuple(range(1, 1 + len(prefix))):
            return 0.0
        return (1 - self.slips) ** (self.length - max(1, len(prefix))) * (1.0 if prefix else self.knows)

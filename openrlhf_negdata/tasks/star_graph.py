"""Star graph: find the one path from the start to the goal (Bachmann and Nagarajan 2024, arXiv 2403.06963).

``DEGREE`` arms leave the start node, each of ``PATH_LENGTH - 1`` nodes drawn from ``NODES`` labels. A prompt is the
edges, shuffled, then start and goal: ``4 17 | 8 4 | 8 30 | 30 2 / 8 17 =``. A solution is the path, ``8 4 17``. Every
node is a step. The second node, the first of the arm, is the critical one: all later nodes can be looked up, and
guessing it is right once in ``DEGREE``. The response is graded on the exact path.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from openrlhf_negdata.records import CORRECT, NO_ANSWER, WRONG, Graded, Problem
from openrlhf_negdata.tasks import Task

DEGREE = 2
#: Nodes of a path, start and goal included.
PATH_LENGTH = 5
NODES = 50


class StarGraph(Task):
    name = "star_graph"
    words = ("|", "/", "=", *map(str, range(NODES)))
    max_response_tokens = PATH_LENGTH + 1

    def step_ends(self, text: str) -> list[int]:
        return [match.end() for match in re.finditer(r"\S+\s*", text)]

    def grade(self, gold: str, response: str) -> Graded:
        words = response.split()
        if not words:
            return Graded(NO_ANSWER, None)
        return Graded(CORRECT if words == gold.split() else WRONG, " ".join(words))

    def trace_right(self, question: str, response: str) -> bool:
        return response.split() == _path(question)

    def generate(self, count: int, seed: int, split: str) -> Iterator[Problem]:
        rng = random.Random(f"star_graph {split} {seed}")
        for number in range(count):
            start, *others = map(str, rng.sample(range(NODES), 1 + DEGREE * (PATH_LENGTH - 1)))
            arms = [[start, *others[arm::DEGREE]] for arm in range(DEGREE)]
            edges = [f"{a} {b}" for arm in arms for a, b in zip(arm, arm[1:], strict=False)]
            rng.shuffle(edges)
            path = rng.choice(arms)
            yield Problem(
                id=f"{split}-{seed}-{number}",
                question=f"{' | '.join(edges)} / {start} {path[-1]} =",
                gold=" ".join(path),
                solution=" ".join(path),
            )


def _path(question: str) -> list[str]:
    """The nodes from the start to the goal, walked back: one edge leads into every node but the start."""
    edges, _, ends = question.partition("/")
    before = {b: a for a, b in (edge.split() for edge in edges.split("|"))}
    start, goal, _ = ends.split()
    path = [goal]
    while path[-1] != start:
        path.append(before[path[-1]])
    return path[::-1]


task = StarGraph()

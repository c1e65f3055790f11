"""Theorem 6.1 of Setlur et al. (2024) on a policy that is a table: per-step DPO on pairs drawn as the theorem says has
the optimum of advantage-weighted training, pi_sft exp(A / beta) / Z; on the best step against the worst it has none.

    python recipes/theorem/theorem.py

The world is a tree: --depth steps, --actions at each, and at every leaf a chance that the answer is right. The pairs
are made by the arms `theorem` and `siblings` of `negdata build`, of rollouts drawn from prefixes that the SFT policy
visits; single steps, for advantage-weighted training, have their exact advantage. Writes docs/theorem.md and
docs/theorem.png.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from openrlhf_negdata.analysis.intervals import mean_interval
from openrlhf_negdata.datasets.arms.siblings import Siblings
from openrlhf_negdata.datasets.arms.theorem import Theorem
from openrlhf_negdata.datasets.next_steps import OfNextSteps
from openrlhf_negdata.datasets.rows import Account, Answered
from openrlhf_negdata.records import CORRECT, WRONG, Problem, Rollout
from openrlhf_negdata.trainers.losses import DPOLoss

#: Rollouts from a prefix, and from each next step that one of them took.
ROLLOUTS, ROLLOUTS_A_STEP = 8, 16


@dataclass
class World:
    """A tree of prefixes. ``sft`` and ``q``, the value after a step, have shape (prefixes, actions); ``visited`` is
    the chance that a prefix is where a sampled answer is looked at, at a depth drawn evenly."""

    sft: torch.Tensor
    q: torch.Tensor
    visited: torch.Tensor

    @classmethod
    def drawn(cls, depth: int, actions: int, seed: int) -> World:
        draw = np.random.default_rng(seed)
        sft = [draw.dirichlet(np.full(actions, 2.0), actions**level) for level in range(depth)]
        visited, reached = [], np.ones(1)
        for level in range(depth):
            visited.append(reached / depth)
            reached = (reached[:, None] * sft[level]).reshape(-1)
        q = draw.beta(0.5, 0.5, (actions ** (depth - 1), actions))
        values = [q]
        for level in reversed(range(1, depth)):
            q = (sft[level] * q).sum(1).reshape(-1, actions)
            values.insert(0, q)
        parts = (np.concatenate(some) for some in (sft, values, visited))
        return cls(*(torch.tensor(part) for part in parts))

    @property
    def advantage(self) -> torch.Tensor:
        return self.q - (self.sft * self.q).sum(1, keepdim=True)

    def optimum(self, beta: float) -> torch.Tensor:
        return torch.softmax(self.sft.log() + self.advantage / beta, 1)

    def distance(self, policy: torch.Tensor, beta: float) -> float:
        """Mean total variation between ``policy`` and the optimum over the prefixes that are visited."""
        return float((self.visited * (policy - self.optimum(beta)).abs().sum(1) / 2).sum())


Loss = Callable[[torch.Tensor], torch.Tensor]


def fitted(world: World, loss: Loss) -> torch.Tensor:
    """The table of probabilities whose logarithms minimise ``loss``, from the SFT policy on."""
    logits = world.sft.log().clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=2000, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(torch.log_softmax(logits, 1))
        value.backward()
        return value

    optimizer.step(closure)
    return torch.softmax(logits, 1).detach()


def answered(world: World, prefix: int, number: int, draw: np.random.Generator) -> Answered:
    """What `negdata value` would know of ``prefix``, as if it were a problem: rollouts from it, of one token a step,
    and from each step that they took, of which only the outcome is looked at."""
    name, q = str(number), world.q[prefix].tolist()
    taken = draw.choice(len(q), ROLLOUTS, p=world.sft[prefix].numpy()).tolist()
    begun = [([], [step]) for step in taken]
    begun += [([step], []) for step in sorted(set(taken)) for _ in range(ROLLOUTS_A_STEP)]
    right = draw.random(len(begun))
    rollouts = [
        Rollout(name, before, after, CORRECT if chance < q[(before + after)[0]] else WRONG, seed)
        for seed, ((before, after), chance) in enumerate(zip(begun, right, strict=True))
    ]
    return Answered(Problem(name, "", ""), "", [prefix], None, [], rollouts=rollouts)


def built(world: World, arm: OfNextSteps, pairs: int, seed: int) -> torch.Tensor:
    """How often, of the first ``pairs`` that ``arm`` builds, which step is chosen over which: (prefixes, actions,
    actions)."""
    arm.first_step = lambda prefix, ids: min(1, len(ids))
    draw, account = np.random.default_rng(seed), Account(arm.unit)
    counts = np.zeros((*world.sft.shape, world.sft.shape[1]))
    for number in itertools.count():
        if account.kept == pairs:
            break
        prefix = int(draw.choice(len(world.visited), p=world.visited.numpy()))
        for row in arm.rows(answered(world, prefix, number, draw), account):
            counts[prefix, row["chosen_ids"][0], row["rejected_ids"][0]] += 1
    return torch.tensor(counts)


def expected(world: World) -> torch.Tensor:
    """How often the theorem's pairs choose which step over which: (prefixes, actions, actions), of sum 1."""
    wins = torch.sigmoid(world.advantage[:, :, None] - world.advantage[:, None, :])
    often = world.visited[:, None, None] * world.sft[:, :, None] * world.sft[:, None, :] * wins * 2
    return often / often.sum()


def dpo(world: World, beta: float, often: torch.Tensor) -> Loss:
    """The loss of per-step DPO on pairs that occur so ``often``, by what is chosen over what."""
    loss = DPOLoss(beta)

    def mean(log_policy: torch.Tensor) -> torch.Tensor:
        reward = log_policy - world.sft.log()
        each = loss(reward[:, :, None].expand_as(often), reward[:, None, :].expand_as(often))
        return (often * each).sum() / often.sum()

    return mean


def theorem(world: World, beta: float, pairs: int | None, seed: int = 0) -> Loss:
    """DPO on pairs of the arm `theorem`; None: its expectation under exact advantages."""
    return dpo(world, beta, expected(world) if pairs is None else built(world, Theorem(seed), pairs, seed))


def siblings(world: World, beta: float, pairs: int, seed: int = 0) -> Loss:
    """DPO on pairs of the arm `siblings`, the best step against the worst."""
    return dpo(world, beta, built(world, Siblings(seed), pairs, seed))


def advantage_weighted(world: World, beta: float, steps: int | None, seed: int = 0) -> Loss:
    """The loss of advantage-weighted training on so many sampled ``steps``; None: its expectation."""
    often = world.visited[:, None] * world.sft
    if steps is not None:
        counts = np.random.default_rng(seed).multinomial(steps, (often / often.sum()).reshape(-1).numpy())
        often = torch.tensor(counts / steps).reshape(often.shape)
    return lambda log_policy: -(often * torch.exp(world.advantage / beta) * log_policy).sum()


METHODS = {
    "DPO on pairs of `theorem`": theorem,
    "DPO on pairs of `siblings`": siblings,
    "advantage-weighted": advantage_weighted,
}
#: Those that have an optimum.
EXPECTED = (theorem, advantage_weighted)
COLOURS = ("tab:blue", "tab:green", "tab:orange")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=3, help="steps of an answer")
    parser.add_argument("--actions", type=int, default=4, help="next steps at each prefix")
    parser.add_argument("--beta", type=float, default=0.5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 3000, 10_000, 30_000], help="pairs, or steps")
    parser.add_argument("--seeds", type=int, default=5, help="worlds, each with its own samples")
    parser.add_argument("--output", type=Path, default=Path("docs/theorem"), help=".md and .png are added")
    args = parser.parse_args()
    worlds = [World.drawn(args.depth, args.actions, seed) for seed in range(args.seeds)]
    found = {
        name: {
            size: [
                world.distance(fitted(world, method(world, args.beta, size, seed)), args.beta)
                for seed, world in enumerate(worlds)
            ]
            for size in (*args.sizes, *([None] if method in EXPECTED else []))
        }
        for name, method in METHODS.items()
    }
    start = [world.distance(world.sft, args.beta) for world in worlds]
    args.output.with_suffix(".md").write_text(page(args, found, start), encoding="utf-8")
    draw(args, worlds[0], found, start)
    print(page(args, found, start))


def page(args: argparse.Namespace, found: dict[str, dict[int | None, list[float]]], start: list[float]) -> str:
    lines = [
        "# Theorem 6.1 on a table",
        "",
        "The arm `theorem` draws pairs as the theorem does: two next steps from one prefix, drawn independently, the",
        "one of value a preferred to that of value b with chance sigmoid(a - b). `siblings` and `shared-prefix` are",
        "inspired by it and do not meet that premise: the best step against the worst has no finite optimum, more",
        "pairs bring the policy no nearer, and training on them must be stopped before it is done.",
        "",
        "Made by `python recipes/theorem/theorem.py`: "
        f"{args.seeds} trees of {args.depth} steps with {args.actions} next steps each, beta {args.beta}. The",
        f"pairs are built by the two arms, of {ROLLOUTS} rollouts from a prefix and {ROLLOUTS_A_STEP} from each step",
        "that they took; advantage-weighted training learns from single steps with exact advantages. Each is trained",
        "to the minimum of its loss. Distance: total variation to `pi_sft exp(A / beta) / Z`, mean over the prefixes",
        "that the SFT policy visits; mean over trees with its 95 % interval.",
        "",
        "![distance to the common optimum](theorem.png)",
        "",
        "| pairs, or steps | " + " | ".join(found) + " |",
        "|---|" + "---|" * len(found),
    ]
    for size in (*args.sizes, None):
        cells = [interval(of_size[size]) if size in of_size else "no optimum" for of_size in found.values()]
        lines.append(f"| {'the expected loss' if size is None else f'{size:,}'} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"The SFT policy itself is {interval(start)} away. A tenfold sample should divide a distance to an",
        "optimum by 3.16.",
    ]
    return "\n".join(lines) + "\n"


def interval(values: list[float]) -> str:
    mean, low, high = mean_interval(values)
    return f"{mean:.2g} [{low:.2g}, {high:.2g}]"


def draw(args: argparse.Namespace, world: World, found: dict, start: list[float]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for (name, of_size), colour in zip(found.items(), COLOURS, strict=True):
        for values in zip(*(of_size[size] for size in args.sizes), strict=True):
            left.plot(args.sizes, values, color=colour, alpha=0.2, linewidth=1)
        left.plot(args.sizes, [np.mean(of_size[size]) for size in args.sizes], "o-", color=colour, label=name)
    left.axhline(float(np.mean(start)), color="grey", linestyle=":", label="SFT policy")
    left.set(xscale="log", yscale="log", xlabel="pairs, or steps", ylabel="distance to pi_sft exp(A/beta)/Z")
    left.legend()
    size = args.sizes[-1]
    optimum = world.optimum(args.beta).reshape(-1)
    for (name, method), colour, marker in zip(METHODS.items(), COLOURS, "o+x", strict=True):
        policy = fitted(world, method(world, args.beta, size))
        right.plot(optimum, policy.reshape(-1), marker, color=colour, markersize=4, label=f"{name}, {size:,}")
    right.plot(optimum, world.sft.reshape(-1), ".", color="grey", markersize=3, label="SFT policy")
    right.plot([0, 1], [0, 1], color="black", linewidth=0.5)
    right.set(xlabel="optimal chance of a step", ylabel="learned chance of it")
    right.legend()
    figure.savefig(args.output.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()

"""Theorem 6.1 of Setlur et al. (2024) on a policy that is a table: per-step DPO on pairs drawn as the theorem says has
the optimum of advantage-weighted training, pi_sft exp(A / beta) / Z.

    python recipes/theorem/theorem.py

The world is a tree: --depth steps, --actions at each, and at every leaf a chance that the answer is right. Advantages
are exact. A pair is two next steps that the SFT policy took from a prefix it had sampled, and the one of advantage a
is preferred to that of advantage b with chance sigmoid(a - b). Writes docs/theorem.md and docs/theorem.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from openrlhf_negdata.analysis.intervals import mean_interval
from openrlhf_negdata.trainers.losses import DPOLoss


@dataclass
class World:
    """A tree of prefixes. ``sft`` and ``advantage`` have shape (prefixes, actions); ``visited`` is the chance that a
    prefix is where a sampled answer is looked at, at a depth drawn evenly."""

    sft: torch.Tensor
    advantage: torch.Tensor
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
        advantages: list[np.ndarray] = []
        for level in reversed(range(depth)):
            value = (sft[level] * q).sum(1)
            advantages.insert(0, q - value[:, None])
            q = value.reshape(-1, actions) if level else q
        parts = (np.concatenate(some) for some in (sft, advantages, visited))
        return cls(*(torch.tensor(part) for part in parts))

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


def step_dpo(world: World, beta: float, pairs: int | None, seed: int = 0) -> Loss:
    """The loss of per-step DPO on so many sampled ``pairs``; None: its expectation."""
    prefixes, actions = world.sft.shape
    wins = torch.sigmoid(world.advantage[:, :, None] - world.advantage[:, None, :])
    often = world.visited[:, None, None] * world.sft[:, :, None] * world.sft[:, None, :] * wins * 2
    if pairs is not None:
        counts = np.random.default_rng(seed).multinomial(pairs, (often / often.sum()).reshape(-1).numpy())
        often = torch.tensor(counts / pairs).reshape(prefixes, actions, actions)
    loss = DPOLoss(beta)

    def mean(log_policy: torch.Tensor) -> torch.Tensor:
        reward = log_policy - world.sft.log()
        each = loss(reward[:, :, None].expand_as(often), reward[:, None, :].expand_as(often))
        return (often * each).sum()

    return mean


def advantage_weighted(world: World, beta: float, steps: int | None, seed: int = 0) -> Loss:
    """The loss of advantage-weighted training on so many sampled ``steps``; None: its expectation."""
    often = world.visited[:, None] * world.sft
    if steps is not None:
        counts = np.random.default_rng(seed).multinomial(steps, (often / often.sum()).reshape(-1).numpy())
        often = torch.tensor(counts / steps).reshape(often.shape)
    return lambda log_policy: -(often * torch.exp(world.advantage / beta) * log_policy).sum()


METHODS = {"per-step DPO": step_dpo, "advantage-weighted": advantage_weighted}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=3, help="steps of an answer")
    parser.add_argument("--actions", type=int, default=4, help="next steps at each prefix")
    parser.add_argument("--beta", type=float, default=0.5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**n for n in range(3, 8)], help="pairs, or steps")
    parser.add_argument("--seeds", type=int, default=10, help="worlds, each with its own samples")
    parser.add_argument("--output", type=Path, default=Path("docs/theorem"), help=".md and .png are added")
    args = parser.parse_args()
    worlds = [World.drawn(args.depth, args.actions, seed) for seed in range(args.seeds)]
    found = {
        name: {
            size: [
                world.distance(fitted(world, method(world, args.beta, size, seed)), args.beta)
                for seed, world in enumerate(worlds)
            ]
            for size in (*args.sizes, None)
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
        "Made by `python recipes/theorem/theorem.py`: "
        f"{args.seeds} trees of {args.depth} steps with {args.actions} next steps each, beta {args.beta}. Step DPO",
        "learns from pairs of next steps that share their prefix, advantage-weighted training from single steps, each",
        "to the minimum of its loss. Distance: total variation to `pi_sft exp(A / beta) / Z`, mean over the prefixes",
        "that the SFT policy visits; mean over trees with its 95 % interval.",
        "",
        "![distance to the common optimum](theorem.png)",
        "",
        "| pairs, or steps | " + " | ".join(found) + " |",
        "|---|" + "---|" * len(found),
    ]
    for size in (*args.sizes, None):
        cells = [interval(of_size[size]) for of_size in found.values()]
        lines.append(f"| {'the expected loss' if size is None else f'{size:,}'} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"The SFT policy itself is {interval(start)} away. A tenfold sample should divide a distance by 3.16.",
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
    for (name, of_size), colour in zip(found.items(), ("tab:blue", "tab:orange"), strict=True):
        for values in zip(*(of_size[size] for size in args.sizes), strict=True):
            left.plot(args.sizes, values, color=colour, alpha=0.2, linewidth=1)
        left.plot(args.sizes, [np.mean(of_size[size]) for size in args.sizes], "o-", color=colour, label=name)
    left.axhline(float(np.mean(start)), color="grey", linestyle=":", label="SFT policy")
    left.set(xscale="log", yscale="log", xlabel="pairs, or steps", ylabel="distance to pi_sft exp(A/beta)/Z")
    left.legend()
    size = args.sizes[-1]
    optimum = world.optimum(args.beta).reshape(-1)
    for (name, method), colour, marker in zip(METHODS.items(), ("tab:blue", "tab:orange"), "ox", strict=True):
        policy = fitted(world, method(world, args.beta, size))
        right.plot(optimum, policy.reshape(-1), marker, color=colour, markersize=4, label=f"{name}, {size:,}")
    right.plot(optimum, world.sft.reshape(-1), ".", color="grey", markersize=3, label="SFT policy")
    right.plot([0, 1], [0, 1], color="black", linewidth=0.5)
    right.set(xlabel="optimal chance of a step", ylabel="learned chance of it")
    right.legend()
    figure.savefig(args.output.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()

"""Theorem 6.1 on a tabular policy: per-step DPO and advantage-weighted training have one optimum."""

import importlib.util
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

RECIPE = Path(__file__).parents[1] / "recipes" / "theorem" / "theorem.py"
BETA = 0.5


@pytest.fixture(scope="module")
def theorem():
    spec = importlib.util.spec_from_file_location("theorem", RECIPE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["theorem"] = module  # where dataclasses look it up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["theorem"]


@pytest.fixture(scope="module", params=[0, 1, 2])
def world(theorem, request):
    return theorem.World.drawn(depth=3, actions=4, seed=request.param)


def test_advantages_are_those_of_the_tree(world):
    """Under the SFT policy the mean advantage at a prefix is 0, and a prefix is visited as often as it is sampled."""
    assert world.sft.shape == world.advantage.shape == (1 + 4 + 16, 4)
    torch.testing.assert_close((world.sft * world.advantage).sum(1), torch.zeros(21).double())
    assert world.visited.sum() == pytest.approx(1)
    torch.testing.assert_close(world.visited[1:5], world.sft[0] / 3)


def test_the_optimum_by_hand(theorem):
    """One prefix, two steps of chance 1/4 and 3/4, advantages 3/4 ln 3 and -1/4 ln 3 (their mean is 0), beta 1:
    pi_sft exp(A) / Z = 1/4 3^(3/4) : 3/4 3^(-1/4) = 3^(3/4) : 3^(3/4), so 1/2 each."""
    ln3 = float(torch.log(torch.tensor(3.0, dtype=torch.float64)))
    made = theorem.World(
        torch.tensor([[0.25, 0.75]]).double(),
        torch.tensor([[ln3, 0.0]]).double(),
        torch.ones(1).double(),
    )
    torch.testing.assert_close(made.advantage, torch.tensor([[0.75 * ln3, -0.25 * ln3]]).double())
    for method in theorem.EXPECTED:
        policy = theorem.fitted(made, method(made, 1.0, None))
        assert policy.tolist() == [pytest.approx([0.5, 0.5], abs=1e-5)]


@pytest.mark.parametrize("method", ["theorem", "advantage_weighted"])
def test_the_minimum_of_the_expected_loss_is_the_optimum(theorem, world, method):
    loss = getattr(theorem, method)(world, BETA, None)
    policy = theorem.fitted(world, loss)
    assert world.distance(policy, BETA) < 1e-5
    assert world.distance(policy, 2 * BETA) > 0.03
    assert world.distance(world.sft, BETA) > 0.05


def distances(theorem, world, method, sizes, seeds):
    """The mean distance to the optimum over ``seeds`` samples of each size."""
    fits = {
        size: [theorem.fitted(world, getattr(theorem, method)(world, BETA, size, seed)) for seed in range(seeds)]
        for size in sizes
    }
    return [sum(world.distance(fit, BETA) for fit in fits[size]) / seeds for size in sizes]


def test_advantage_weighted_training_is_the_optimum_to_sampling_error(theorem, world):
    """A sampling error falls with the root of the sample: by 4 for 16 times as much."""
    small, large = distances(theorem, world, "advantage_weighted", (100_000, 1_600_000), 10)
    assert small < 0.04
    assert 3 < small / large < 5.3


def test_the_pairs_that_the_arm_theorem_builds_have_the_optimum_and_those_of_siblings_have_none(theorem):
    """Nine times as many pairs should bring DPO on the arm's pairs to a third of the distance; on the best step
    against the worst it ends further away than it began, with few pairs and with many."""
    world = theorem.World.drawn(depth=2, actions=3, seed=0)
    small, large = distances(theorem, world, "theorem", (300, 2700), 6)
    assert large < min(0.06, small / 2)
    few, many = distances(theorem, world, "siblings", (300, 1200), 2)
    assert min(few, many) > 2 * world.distance(world.sft, BETA)


def test_a_built_pair_prefers_a_step_as_often_as_the_theorem_says(theorem):
    """Of every two steps, over all pairs of the arm: within four standard errors of sigmoid(a - b)."""
    world = theorem.World.drawn(depth=1, actions=3, seed=1)
    often = theorem.built(world, theorem.Theorem(0), 3000, seed=0)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        count = often[0, a, b] + often[0, b, a]
        chance = torch.sigmoid(world.advantage[0, a] - world.advantage[0, b])
        assert abs(often[0, a, b] / count - chance) < 4 * (chance * (1 - chance) / count).sqrt()

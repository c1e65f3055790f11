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
        torch.tensor([[0.75 * ln3, -0.25 * ln3]]).double(),
        torch.ones(1).double(),
    )
    for method in theorem.METHODS.values():
        policy = theorem.fitted(made, method(made, 1.0, None))
        assert policy.tolist() == [pytest.approx([0.5, 0.5], abs=1e-5)]


@pytest.mark.parametrize("method", ["per-step DPO", "advantage-weighted"])
def test_the_minimum_of_the_expected_loss_is_the_optimum(theorem, world, method):
    loss = theorem.METHODS[method](world, BETA, None)
    policy = theorem.fitted(world, loss)
    assert world.distance(policy, BETA) < 1e-5
    assert world.distance(policy, 2 * BETA) > 0.03
    assert world.distance(world.sft, BETA) > 0.05


@pytest.mark.parametrize("method", ["per-step DPO", "advantage-weighted"])
def test_of_sampled_pairs_it_is_the_optimum_to_sampling_error(theorem, world, method):
    """A sampling error falls with the root of the sample: by 4 for 16 times as much, here within 3 to 5.3 over ten
    samples of each size."""
    distances = []
    for size in (100_000, 1_600_000):
        fits = [theorem.fitted(world, theorem.METHODS[method](world, BETA, size, seed)) for seed in range(10)]
        distances.append(sum(world.distance(fit, BETA) for fit in fits) / 10)
    assert distances[0] < 0.04
    assert 3 < distances[0] / distances[1] < 5.3

"""The updates of step DPO: which pairs each holds, and how evenly their distinct tokens are spread over processes."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")


@pytest.fixture(scope="module", autouse=True)
def cpu_host():
    """OpenRLHF can be imported, as `negdata launch` makes sure on a host without CUDA."""
    from openrlhf_negdata import cpu

    with pytest.MonkeyPatch.context() as patch:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
            patch.setenv(name, "0")  # so that what setup() sets is taken back
        cpu.setup()


def pairs_of(counts):
    """So many pairs of each problem, of GSM8K's lengths, in any order: each forks from one of four answers of eight
    steps of 25 tokens, after a question of 80."""
    from openrlhf_negdata.trainers.tokens import Pair

    draw = random.Random(0)
    some = lambda count: [draw.randrange(30_000) for _ in range(count)]  # noqa: E731
    made = []
    for problem, count in enumerate(counts):
        question, answers = some(80), [some(200) for _ in range(4)]
        for _ in range(count):
            answer, cut = draw.choice(answers), 25 * draw.randrange(8)
            made.append((problem, question + answer[:cut], answer[cut : cut + 25], some(25)))
    draw.shuffle(made)
    return [Pair(number, *row) for number, row in enumerate(made)]


def updates_of(pairs, **more):
    from openrlhf_negdata.trainers.updates import PairUpdates

    return PairUpdates(pairs, **{"batch_size": 1, "epochs": 1, "seed": 3, "budget": 16192} | more)


def shares(updates):
    """This process's micro-batches of every update."""
    return [updates.share(items) for items in updates.after(0)]


def by_problem(pairs):
    problems = {}
    for pair in pairs:
        problems.setdefault(pair.problem, []).append(pair)
    return list(problems.values())


def tokens(pairs):
    from openrlhf_negdata.trainers.packing import Trie

    return len(Trie.of([side for pair in pairs for side in pair.sequences()]).ids)


def loads(pairs, ranks, **more):
    """Of every update the distinct tokens of every process; pairs of a problem that a process has share theirs."""
    by_rank = [shares(updates_of(pairs, rank=rank, ranks=ranks, **more)) for rank in range(ranks)]
    rows = lambda plan: (row for rows in plan for row in rows if not row[0].filler)  # noqa: E731
    return [[sum(map(tokens, rows(plan))) for plan in plans] for plans in zip(*by_rank, strict=True)]


def loads_of_whole_problems(pairs, ranks, batch_size):
    """The same by the rule of before: the pairs of a problem follow each other, and no problem is cut."""
    order, made = order_of_whole_problems(pairs, 3, 0), []
    for start in range(0, len(pairs) - batch_size + 1, batch_size):
        dealt = [0] * ranks
        for size in sorted(map(tokens, by_problem(order[start : start + batch_size])), reverse=True):
            dealt[dealt.index(min(dealt))] += size
        made.append(dealt)
    return made


def order_of_whole_problems(pairs, seed, epoch):
    problems = by_problem(pairs)
    random.Random(f"{seed} {epoch}").shuffle(problems)
    return [pair for problem in problems for pair in problem]


def order_of(pairs, epochs, done=0, **more):
    """The pairs one by one, as updates of one pair show them."""
    return [pair for (pair,) in updates_of(pairs, epochs=epochs, **more).after(done)]


@settings(max_examples=60, deadline=None)
@given(*(st.integers(1, most) for most in (30, 9, 3, 4, 5)))
def test_rows_are_taken_once_an_epoch_by_any_processes_and_micro_batches(rows, batch, epochs, ranks, micro):
    from openrlhf_negdata.trainers.updates import RowUpdates

    by_rank = [RowUpdates(rows, batch, epochs, 7, micro, rank, ranks) for rank in range(ranks)]
    seen = []
    for items in by_rank[0].after(0):
        plans = [updates.share(items) for updates in by_rank]
        assert len({len(plan) for plan in plans}) == 1  # as many micro-batches in each process
        assert all(len(micro_batch) <= micro for plan in plans for micro_batch in plan)
        assert sorted(row for plan in plans for part in plan for row in part) == sorted(items)
        seen += items
    assert len(seen) == rows * epochs // batch * batch
    assert all(
        len({*seen[start : start + rows]}) == len(seen[start : start + rows]) for start in range(0, len(seen), rows)
    )
    held_out = [part for updates in by_rank for items in updates.once() for part in updates.share(items)]
    assert sorted(row for part in held_out for row in part) == list(range(rows))


def test_rows_are_taken_in_the_order_of_the_hosts_sampler():
    from openrlhf.utils.distributed_sampler import DistributedSampler

    from openrlhf_negdata.trainers.updates import RowUpdates

    sampler, order = DistributedSampler(range(20), 1, 0, shuffle=True, seed=5, drop_last=True), []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        order += list(sampler)
    assert [row for items in RowUpdates(20, 4, 2, 5, 2).after(0) for row in items] == order


FEW = st.lists(st.integers(1, 8), min_size=1, max_size=12)
ANY = st.lists(st.integers(1, 40), min_size=1, max_size=8)


@settings(max_examples=50, deadline=None)
@given(FEW, st.integers(0, 9))
def test_problems_of_few_pairs_are_taken_in_the_order_they_always_were(counts, seed):
    pairs = pairs_of(counts)
    expected = [pair for epoch in range(2) for pair in order_of_whole_problems(pairs, seed, epoch)]
    assert order_of(pairs, 2, seed=seed) == expected


@settings(max_examples=30, deadline=None)
@given(ANY, st.integers(1, 40), st.data())
def test_an_epoch_has_every_pair_once_whatever_the_runs_and_a_resumed_one_the_same(counts, most, data):
    pairs = pairs_of(counts)
    order = order_of(pairs, 2, per_problem=most)
    for epoch in (order[: len(pairs)], order[len(pairs) :]):
        assert sorted(pair.number for pair in epoch) == list(range(len(pairs)))
    done = data.draw(st.integers(0, len(order)))
    assert order_of(pairs, 2, done, per_problem=most) == order[done:]


@pytest.mark.parametrize("batch", [32, 64, 128])
def test_an_update_holds_no_more_pairs_of_a_problem_than_it_may(batch):
    """16 problems of 32 pairs: an update of 128 pairs held 4 problems, and now holds 16."""
    pairs = pairs_of([32] * 16)
    before = order_of_whole_problems(pairs, 3, 0)[:batch]
    assert max(Counter(pair.problem for pair in before).values()) == 32
    order = order_of(pairs, 3)
    assert order[:512] != order[512:1024]
    for start in range(0, len(order), batch):  # 512 is a multiple of each batch: no update spans two epochs
        held = Counter(pair.problem for pair in order[start : start + batch])
        assert max(held.values()) <= 8
        assert len(held) >= batch // 8


def test_a_problem_of_many_pairs_is_spread_evenly_among_those_of_few():
    order = order_of(pairs_of([40] + [4] * 90), 1)
    held = [sum(pair.problem == 0 for pair in order[start : start + 80]) for start in range(0, 400, 80)]
    assert held == [8] * 5


@pytest.mark.parametrize(
    ("batch", "most", "uneven", "less"),
    [(128, 8, 1.1, 0.7), (128, 32, 1.2, 0.7), (64, 8, 1.3, 0.45), (64, 32, 1.3, 0.45)],
)
def test_eight_processes_have_alike_to_do_where_problems_have_many_pairs(batch, most, uneven, less):
    """32 pairs a problem, of which 8, or all 32, follow each other. Heaviest load over the mean, and heaviest load in
    tokens, means over updates:

    batch 128: 2.03 and 1655 before; 1.05 and 1122 in runs of 8, 1.17 and 1049 in runs of 32
    batch 64:  4.05 and 1649 before; 1.25 and 671 in runs of 8, 1.25 and 671 in runs of 32
    """
    pairs = pairs_of([32] * 16)
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    before = loads_of_whole_problems(pairs, 8, batch)
    after = loads(pairs, 8, batch_size=batch, per_problem=most)
    assert mean([max(update) / mean(update) for update in before]) > 0.98 * 256 / batch
    assert mean([max(update) / mean(update) for update in after]) < uneven
    assert mean(list(map(max, after))) < less * mean(list(map(max, before)))


@settings(max_examples=30, deadline=None)
@given(ANY, st.integers(1, 9), st.integers(1, 40))
def test_a_cut_never_leaves_the_most_loaded_process_more_to_do_and_one_process_cuts_nothing(counts, ranks, batch):
    pairs = pairs_of(counts)
    more = {"batch_size": min(batch, len(pairs)), "per_problem": 40}
    before = loads_of_whole_problems(pairs, ranks, more["batch_size"])
    after = loads(pairs, ranks, **more)
    assert all(max(new) <= max(old) for new, old in zip(after, before, strict=True))
    assert ranks > 1 or after == before

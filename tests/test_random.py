"""Draws: distributed as they should be, and the same wherever they are made."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sslbench.random import Random, mix

N = 20_000


def random(seed: int = 0, step: int = 0, n: int = N) -> Random:
    return Random(seed, step, torch.arange(n), n)


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_uniform_is_uniform_along_places_elements_draws_steps_and_seeds(seed):
    source = random(seed)
    source.uniform(3)
    samples = {
        "places": source.uniform().numpy(),
        "elements": random(seed, n=1).uniform(N)[0].numpy(),
        "steps": np.array([random(seed, step, 1).uniform().item() for step in range(2000)]),
        "seeds": np.array([random(seed + k, 0, 1).uniform().item() for k in range(2000)]),
        "draws": np.array([source.uniform()[0].item() for _ in range(2000)]),
    }
    for name, sample in samples.items():
        assert stats.kstest(sample, "uniform").pvalue > 1e-3, name
        assert abs(np.corrcoef(sample[1:], sample[:-1])[0, 1]) < 4 / math.sqrt(len(sample)), name


def test_neighbouring_draws_are_independent():
    source = random()
    pairs = {
        "draws": (source.uniform(), source.uniform()),
        "elements": tuple(source.uniform(2).unbind(1)),
        "steps": (random(0, 1).uniform(), random(0, 2).uniform()),
        "seeds": (random(1, 0).uniform(), random(2, 0).uniform()),
        "seed and step": (random(0, 1).uniform(), random(1, 0).uniform()),
        "shared": tuple(
            Random(seed, 0, torch.arange(4), 4).shared.uniform(N)[0] for seed in (0, 1)
        ),
    }
    for name, (a, b) in pairs.items():
        counts = np.histogram2d(a.numpy(), b.numpy(), bins=8, range=[[0, 1], [0, 1]])[0]
        assert stats.chisquare(counts.flatten()).pvalue > 1e-3, name


def test_uniform_range():
    sample = random().uniform(5, low=-2.0, high=3.0)
    assert sample.shape == (N, 5)
    assert sample.dtype == torch.float32
    assert -2 <= sample.min() < -1.999
    assert 2.999 < sample.max() < 3
    assert random().uniform(50).max() < 1


def test_normal():
    sample = random().normal(2)
    assert sample.shape == (N, 2)
    assert stats.kstest(sample.flatten().numpy(), "norm").pvalue > 1e-3
    assert sample.isfinite().all()
    assert sample.abs().max() > 3.5


@pytest.mark.parametrize("high", [1, 2, 3, 10, 1000])
def test_integers(high):
    sample = random().integers(high, 2)
    assert sample.shape == (N, 2)
    assert sample.dtype == torch.int64
    counts = sample.flatten().bincount(minlength=high).numpy()
    assert len(counts) == high
    assert high == 1 or stats.chisquare(counts).pvalue > 1e-3


def test_integers_up_to_the_largest_bound():
    sample = random().integers(2**31 - 1)
    assert sample.min() >= 0
    assert sample.max() < 2**31 - 1
    assert stats.kstest(sample.numpy() / (2**31 - 1), "uniform").pvalue > 1e-3


def test_permutations_are_permutations_and_equally_likely():
    sample = random().permutation(4)
    assert sample.sort(1).values.equal(torch.arange(4).expand(N, 4))
    words = (sample * torch.tensor([64, 16, 4, 1])).sum(1).unique(return_counts=True)[1]
    assert len(words) == math.factorial(4)
    assert stats.chisquare(words.numpy()).pvalue > 1e-3
    long = random(n=1).permutation(1000)[0]
    assert long.sort().values.equal(torch.arange(1000))
    assert not long.equal(random(1, n=1).permutation(1000)[0])


@given(
    seed=st.integers(0, 2**62),
    step=st.integers(0, 2**40),
    cuts=st.lists(st.integers(0, 12), max_size=3),
)
def test_parts_draw_what_the_whole_draws(seed, step, cuts):
    places = torch.arange(12)
    edges = [0, *sorted(cuts), 12]
    parts = [places[a:b] for a, b in itertools.pairwise(edges)]
    for draw in (
        lambda r: r.uniform(2, 3),
        lambda r: r.normal(2),
        lambda r: r.integers(7),
        lambda r: r.permutation(5),
    ):
        sources = [Random(seed, step, part, 12) for part in parts]
        whole = Random(seed, step, places, 12)
        for _ in range(2):  # the second draw too
            expected = draw(whole)
            assert torch.cat([draw(source) for source in sources]).equal(expected)


def test_shared_draws_are_the_same_for_all_and_new_each_time():
    here, there = Random(3, 5, torch.tensor([0, 1]), 8), Random(3, 5, torch.tensor([6, 7]), 8)
    first = here.shared.permutation(100)
    assert first.shape == (1, 100)
    assert first.equal(there.shared.permutation(100))
    assert not first.equal(here.shared.permutation(100))
    assert here.uniform().shape == (2,)
    there.shared.uniform()
    whole = Random(3, 5, torch.arange(8), 8)
    for _ in range(2):
        whole.shared.uniform()
    assert whole.uniform()[6:].equal(there.uniform())


def test_nothing_global_is_touched():
    state = torch.get_rng_state()
    random().normal(3)
    assert torch.get_rng_state().equal(state)


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4))
def test_mix_is_63_bits_and_cares_for_order_and_length(words):
    assert 0 <= mix(*words) < 2**63
    assert mix(*words) != mix(*words, 0)
    if words != words[::-1]:
        assert mix(*words) != mix(*words[::-1])


def test_mix_of_neighbours_spreads_over_all_bits():
    hashes = np.array([mix(0, k) for k in range(4096)], dtype=np.uint64)
    bits = (hashes[:, None] >> np.arange(63, dtype=np.uint64)) & np.uint64(1)
    assert abs(bits.mean(0) - 0.5).max() < 0.05

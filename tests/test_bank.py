"""The memory bank against loops over embeddings and entries, its state, and several processes."""

import math
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import sslbench.bank
from sslbench import distributed
from sslbench.bank import Bank
from sslbench.random import Random
from tests.conftest import run_processes
from tests.methods.loops import check_slope, check_value, cosine, dot, draw, rows, slopes

N, D, M = 8, 5, 3
INDEX = [3, 0, 6, 5]
NOISE = [[1, 3, 7], [0, 4, 2], [5, 5, 1], [2, 7, 6]]  # also own entries, and one twice


def make(
    negatives: int = M, temperature: float = 0.2, momentum: float = 0.5, seed: int = 0
) -> Bank:
    torch.manual_seed(seed)
    bank = Bank(N, D, negatives=negatives, temperature=temperature, momentum=momentum)
    return bank.double()


def embeddings(seed: int = 1) -> Tensor:
    """(4, D) of unit length."""
    return F.normalize(draw(4, D, seed=seed), dim=1)


def contrast(bank: Bank, f: Tensor) -> Tensor:
    return bank.contrast(f, torch.tensor(INDEX), torch.tensor(NOISE))


# ------------------------------------------------------------------------------------ the loops


def constant(f, entries, temperature):
    """Equation 8: n times the mean of exp(v_jᵀ f / τ) over the noise samples of all images."""
    values = [
        math.exp(dot(entries[j], x) / temperature)
        for x, noise in zip(f, NOISE, strict=True)
        for j in noise
    ]
    return len(entries) * sum(values) / len(values)


def nce(f, entries, z, temperature):
    """Equation 7, with equations 4 and 6."""
    total = 0.0
    for x, i, noise in zip(f, INDEX, NOISE, strict=True):

        def h(j, x=x):
            p = math.exp(dot(entries[j], x) / temperature) / z
            return p / (p + len(NOISE[0]) / len(entries))

        total -= math.log(h(i)) + sum(math.log(1 - h(j)) for j in noise)
    return total / len(f)


def softmax(f, entries, temperature):
    """Equations 2 and 3."""
    total = 0.0
    for x, i in zip(f, INDEX, strict=True):
        values = [math.exp(dot(v, x) / temperature) for v in entries]
        total -= math.log(values[i] / sum(values))
    return total / len(f)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("dense", [0, 32])
def test_nce(temperature, dense, monkeypatch):
    monkeypatch.setattr(sslbench.bank, "DENSE", dense)
    bank, f = make(temperature=temperature), embeddings().requires_grad_()
    loss = contrast(bank, f)
    loss.backward()
    x, entries = rows(f), rows(bank.entries)
    z = constant(x, entries, temperature)  # and no function of the embeddings
    assert bank.log_z.item() == pytest.approx(math.log(z), rel=1e-12)
    check_value(loss, nce(x, entries, z, temperature))
    check_slope(f.grad, slopes(lambda x: nce(x, entries, z, temperature), x))
    assert bank.entries.grad is None


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_exact_softmax(temperature):
    bank, f = make(negatives=0, temperature=temperature), embeddings().requires_grad_()
    loss = bank.contrast(f, torch.tensor(INDEX), torch.empty(4, 0))
    loss.backward()
    x, entries = rows(f), rows(bank.entries)
    check_value(loss, softmax(x, entries, temperature))
    check_slope(f.grad, slopes(lambda x: softmax(x, entries, temperature), x))


# ------------------------------------------------------------------------------------ negatives


def test_the_positive_is_no_second_term_of_the_exact_softmax():
    """A positive that is its own negative would keep the loss above ln 2."""
    bank = make(negatives=0, temperature=0.05)
    bank.entries.copy_(torch.eye(N, D))
    own = torch.arange(D)
    assert bank.contrast(torch.eye(D).double(), own, torch.empty(D, 0)) < 1e-6


@pytest.mark.parametrize("own", [True, False])
def test_noise_that_hits_the_own_entry_asks_for_a_probability_of_one(own):
    """Over all noise that P_n = 1/n can bring, the loss of a lone image is least where P = 1."""
    n = m = 6
    noise = torch.arange(n)[None] if own else torch.arange(1, n + 1)[None] % n
    log_p = torch.full((1, 1 + m), -30.0).double()  # all others: known to be others
    log_p[:, 0] = 0.0
    if own:
        log_p[0, 1 + int((noise[0] == 0).nonzero())] = 0.0
    at = {
        shift: float(sslbench.bank.nce(log_p + shift * (log_p > -1), n))
        for shift in (-0.1, 0.0, 0.1)
    }
    assert (min(at, key=at.get) == 0.0) == own  # without it, ever more would be better


def test_noise_is_uniform_over_all_entries_and_depends_on_the_place_only():
    bank = make(negatives=1000)
    noise = bank.noise(Random(0, 0, torch.arange(64), 64))
    counts = noise.flatten().bincount(minlength=N)
    assert noise.shape == (64, 1000)
    assert len(counts) == N
    assert (counts / noise.numel() - 1 / N).abs().max() < 0.005
    assert not noise[0].equal(noise[1])
    assert torch.equal(bank.noise(Random(0, 0, torch.tensor([40, 7]), 64)), noise[[40, 7]])


# ------------------------------------------------------------------------------------ the state


def test_the_constant_is_set_once_and_saved():
    bank = make()
    assert bank.log_z.item() == math.inf  # never taken for an estimate
    contrast(bank, embeddings(1))
    first = bank.log_z.clone()
    contrast(bank, embeddings(2))
    assert torch.equal(bank.log_z, first)
    assert not torch.equal(first, torch.tensor(math.log(N)))

    resumed = make(seed=1)
    resumed.load_state_dict(bank.state_dict())
    later = embeddings(3)
    assert torch.equal(contrast(resumed, later), contrast(bank, later))
    assert torch.equal(resumed.log_z, first)


def test_no_temperature_is_too_low_for_single_precision():
    bank = make(temperature=0.005).float()
    bank.entries[1] = embeddings()[0]  # exp(1 / τ) = e²⁰⁰
    loss = contrast(bank, embeddings().float().requires_grad_())
    assert torch.isfinite(loss)
    assert torch.isfinite(bank.log_z)


def test_entries_start_as_directions():
    entries = make().entries
    torch.testing.assert_close(entries.norm(dim=1), torch.ones(N).double())
    assert (entries @ entries.T).fill_diagonal_(0).abs().max() < 0.999


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_an_update_moves_its_own_entries_and_keeps_them_on_the_sphere(momentum):
    bank, f = make(momentum=momentum), embeddings()
    before = bank.entries.clone()
    contrast(bank, f)
    assert torch.equal(bank.entries, before)  # the logits are computed with the old ones
    bank.update(f, torch.tensor(INDEX))
    for i, x in zip(INDEX, rows(f), strict=True):
        mixed = [momentum * v + (1 - momentum) * y for v, y in zip(before[i], x, strict=True)]
        assert cosine(mixed, bank.entries[i].tolist()) == pytest.approx(1, abs=1e-12)
        assert bank.entries[i].norm().item() == pytest.approx(1, abs=1e-12)
    others = [i for i in range(N) if i not in INDEX]
    assert torch.equal(bank.entries[others], before[others])


def test_a_half_precision_embedding_is_stored_in_the_bank_s_own():
    bank = make().float()
    bank.update(embeddings().bfloat16(), torch.tensor(INDEX))
    assert bank.entries.dtype == torch.float32
    torch.testing.assert_close(bank.entries.norm(dim=1), torch.ones(N))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"negatives": -1}, r"negatives: 0 \(exact softmax\) or more expected, got -1"),
        ({"momentum": 1.0}, r"momentum of the memory bank: in \[0, 1\) expected, got 1.0"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


# ------------------------------------------------------------------------------------ processes


def state(steps: int = 2) -> tuple[float, dict[str, Tensor]]:
    """Losses' sum and the bank after a few steps with this process's parts of the batches."""
    bank, total = make(), 0.0
    here, world = distributed.rank(), distributed.world()
    for step in range(steps):
        whole = embeddings(step), torch.tensor(INDEX), torch.tensor(NOISE)
        f, index, noise = (x.chunk(world)[here] for x in whole)
        loss = bank.contrast(f, index, noise)
        total += float(distributed.total(loss.clone())) / world
        bank.update(f, index)
    return total, dict(bank.state_dict())


@cache
def alone() -> tuple[float, dict[str, Tensor]]:
    return state()


@pytest.mark.parametrize("world", [2, 4])
def test_any_number_of_processes_keeps_the_same_bank(world):
    loss, expected = alone()
    for their_loss, theirs in run_processes(world, state):
        assert their_loss == pytest.approx(loss, rel=1e-12)
        torch.testing.assert_close(theirs, expected, rtol=1e-12, atol=1e-14)

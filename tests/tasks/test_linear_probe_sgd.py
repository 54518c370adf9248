"""52 classifiers at once against each by itself, in a loop written out in numpy."""

import numpy as np
import pytest
import torch

from sslbench.checkpoint import load_state
from sslbench.data.feed import Feed
from sslbench.errors import UserError
from sslbench.features import features
from sslbench.tasks import linear_probe_sgd
from sslbench.tasks.linear_probe_sgd import RATES, LinearProbeSGD, _inputs
from tests.conftest import tiny_resnet, tiny_vit
from tests.tasks.conftest import balanced, dataset


def test_the_inputs_are_the_last_blocks_with_and_without_pooling():
    found = _inputs(["a", "b", "c", "d", "e", "head"])
    assert found == {
        "1 blocks": ("e",),
        "1 blocks and head": ("e", "head"),
        "4 blocks": ("b", "c", "d", "e"),
        "4 blocks and head": ("b", "c", "d", "e", "head"),
    }
    assert len(found) * len(RATES) == 52
    assert _inputs(["pixels"]) == {"pixels": ("pixels",)}


@pytest.mark.parametrize("make", [tiny_resnet, tiny_vit])
def test_there_are_52_classifiers(make, tmp_path):
    data = dataset(balanced(), noise=60)
    result = LinearProbeSGD(epochs=1).run(make().eval(), data, seed=0, folder=tmp_path)
    assert len(result.selected["all"]) == 52


def alone(x, y, weight, rate, momentum=0.9, size=16, steps=12):
    """SGD by the formulas, with the learning rate of PyTorch's cosine: of one classifier."""
    W, b = weight.astype(np.float64), np.zeros(len(weight))
    velocity = [np.zeros_like(W), np.zeros_like(b)]
    feed = Feed(range(len(y)), size, seed=3)
    for step in range(steps):
        epoch, place = divmod(step, feed.epoch_steps)
        order = linear_probe_sgd.Random(
            linear_probe_sgd.mix(3, 0xDA7A), epoch, torch.zeros(1), 1
        ).permutation(len(y))[0]
        rows = order[place * size : (place + 1) * size].numpy()
        logits = x[rows] @ W.T + b
        share = np.exp(logits - logits.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        share[np.arange(size), y[rows]] -= 1
        lr = rate * size / 256 * (1 + np.cos(np.pi * step / steps)) / 2
        for i, slope in enumerate([share.T @ x[rows] / size, share.mean(0)]):
            velocity[i] = momentum * velocity[i] + slope
        W, b = W - lr * velocity[0], b - lr * velocity[1]
    return W, b


def test_each_classifier_is_trained_as_if_alone(encoder, tmp_path):
    data = dataset(balanced(train=10), noise=75)  # 50 examples, 3 steps in an epoch
    task = LinearProbeSGD(epochs=4, batch_size=16)
    result = task.run(encoder, data, seed=3, folder=tmp_path)
    found = features(encoder, data["train"], "all")
    layers = {name: x.astype(np.float64) for name, x in found.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(linear_probe_sgd.mix(3, 1))
        state = load_state(tmp_path / "all" / "state.pt", torch.device("cpu"))["method"]
        inputs = _inputs([*layers])
        for i, parts in enumerate(inputs.values()):
            x = np.concatenate([layers[part] for part in parts], axis=1)
            start = torch.empty(13 * 5, x.shape[1])
            torch.nn.init.normal_(start, std=0.01)
            for k, rate in enumerate(RATES):
                mine = start[5 * k : 5 * (k + 1)].numpy()
                W, b = alone(x, data["train"].labels, mine, rate)
                own = slice(5 * k, 5 * (k + 1))
                assert state[f"heads.{i}.weight"][own].numpy() == pytest.approx(W, abs=2e-6)
                assert state[f"heads.{i}.bias"][own].numpy() == pytest.approx(b, abs=2e-6)

    values = result.selected["all"]
    name = f"{result.selected['input']}, {result.selected['lr']:g}"
    assert values[name] == max(values.values()) == result.selected["top1"]


def test_the_chosen_one_is_trained_on_validation_too(encoder, tmp_path):
    labels = balanced(validation=24)
    data = dataset(labels, noise=75)
    LinearProbeSGD(epochs=2, batch_size=16).run(encoder, data, seed=0, folder=tmp_path)
    steps = {
        name: load_state(tmp_path / name / "state.pt", torch.device("cpu"))["step"]
        for name in ("all", "best")
    }
    assert steps == {"all": 2 * (120 // 16), "best": 2 * (240 // 16)}


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match="epochs ≥ 1, batch_size ≥ 1 expected, found 0, 128"):
        LinearProbeSGD(epochs=0)

"""Few-shot episodes against a loop over them."""

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from sslbench.episodes import distinct, draw_episodes
from sslbench.errors import NotApplicable, UserError
from sslbench.features import features
from sslbench.random import Random
from sslbench.tasks.few_shot import FewShot
from tests.tasks.conftest import balanced, dataset


def random(n, seed=0):
    return Random(seed, 0, torch.arange(n), n)


def test_every_ordered_choice_is_equally_likely():
    drawn = distinct(torch.full((4000, 3), 4), 2, random(4000)).flatten(0, 1)
    counts = [(drawn == torch.tensor(pair)).all(1).sum() for pair in permutations(range(4), 2)]
    assert sum(counts) == 12_000  # always two different ones
    assert chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("size", [1, 7, 10])
def test_numbers_are_distinct_and_below_their_count(size):
    count = torch.tensor([10, 10_000, 25]).expand(50, 3)
    drawn = distinct(count, size, random(50))
    assert drawn.shape == (50, 3, size)
    assert ((drawn >= 0) & (drawn < count[..., None])).all()
    assert all(len(row.unique()) == size for row in drawn.flatten(0, 1))


def test_episodes_hold_different_examples_of_different_classes():
    labels = np.random.default_rng(0).permutation(np.repeat([3, 5, 8, 13, 21], [9, 30, 8, 7, 12]))
    drawn = draw_episodes(labels, 3, 8, random(500))
    assert drawn.shape == (500, 3, 8)
    classes = torch.from_numpy(labels)[drawn]
    assert (classes == classes[..., :1]).all()
    assert all(len(row.unique()) == 3 for row in classes[..., 0])
    assert set(classes.unique().tolist()) == {3, 5, 8, 21}  # 13 has too few
    assert all(len(row.unique()) == 24 for row in drawn.flatten(1))


def test_more_episodes_do_not_change_the_first():
    labels = balanced()["test"]
    few, many = (draw_episodes(labels, 5, 20, random(n)) for n in (3, 50))
    assert few.equal(many[:3])


@pytest.fixture
def data():
    return dataset(balanced(classes=8, train=5, test=25), noise=160)


def test_every_episode_goes_to_the_nearest_mean(encoder, data, tmp_path):
    made = FewShot(ways=4, queries=6, episodes=70)
    result = made.run(encoder, data, seed=2, folder=tmp_path)
    x = {
        name: features(encoder, split)["pixels"].astype(float)
        for name, split in data.splits.items()
    }
    z = x["test"] - x["train"].mean(axis=0)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    drawn = draw_episodes(data["test"].labels, 4, 11, random(70, seed=2)).numpy()
    accuracy = {1: [], 5: []}
    asked, right = np.zeros(len(z)), np.zeros(len(z))
    for episode in drawn:
        for shots, found in accuracy.items():
            means = [z[way[:shots]].mean(axis=0) for way in episode]
            correct = []
            for way, images in enumerate(episode):
                for image in images[5:]:
                    distances = [np.linalg.norm(z[image] - mean) for mean in means]
                    correct.append(int(np.argmin(distances)) == way)
                    asked[image] += shots == 5
                    right[image] += shots == 5 and correct[-1]
            found.append(np.mean(correct))
    for shots, found in accuracy.items():
        score = result.scores[f"top1_{shots}shot"]
        assert score.value == pytest.approx(np.mean(found))
        assert score.stderr == pytest.approx(np.std(found, ddof=1) / np.sqrt(70))
        assert score.n == 70
    assert result.scores["top1_1shot"].value < result.scores["top1_5shot"].value < 0.99

    top1 = result.scores["top1"]
    assert top1.value == pytest.approx(right.sum() / asked.sum())
    # resampling images and dividing right by asked answers has the spread of the linearisation
    times = np.random.default_rng(0).multinomial(len(z), np.full(len(z), 1 / len(z)), size=4000)
    ratios = (times @ right) / (times @ asked)
    spread = top1.examples.std() / np.sqrt(len(z))
    assert spread == pytest.approx(ratios.std(), rel=0.05)
    assert result.scores["mean_per_class"].value == top1.value


def test_chance_is_one_of_the_ways(data):
    assert FewShot(ways=4).chance(data) == 0.25


@pytest.mark.parametrize(
    ("labels", "found"),
    [(balanced(classes=4), "4 of 4 classes"), (balanced(test=19), "0 of 5 classes")],
)
def test_too_few_classes_or_images_are_not_applicable(labels, found, encoder, tmp_path):
    with pytest.raises(NotApplicable, match=f"5 classes with 20 test examples each.*{found}"):
        FewShot().run(encoder, dataset(labels), seed=0, folder=tmp_path)


@pytest.mark.parametrize("wrong", [{"ways": 1}, {"queries": 0}, {"episodes": 1}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError, match="ways ≥ 2"):
        FewShot(**wrong)

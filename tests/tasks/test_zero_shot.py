"""Zero-shot classification against loops from its definition."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from sslbench import neighbors
from sslbench.errors import NotApplicable, UserError
from sslbench.evaluation import suited
from sslbench.prompts import TEMPLATES
from sslbench.tasks.zero_shot import ZeroShot
from tests.tasks.conftest import Flat, balanced, dataset
from tests.tasks.pair import D, Pair, vector

ENSEMBLE = ("{}", "a photo of a {}.", "{}, seen from {}")
NAMES = ("grey_cat", "owl", "red {fox}", "toad", "ant", "newt", "vole")


def unit(x):
    return [value / math.sqrt(sum(v * v for v in x)) for value in x]


def filled(template, name):
    spoken = name.replace("_", " ")
    return spoken.join(template.split("{}"))


@pytest.fixture
def data():
    """7 classes of different size, with names."""
    random = np.random.default_rng(3)
    labels = {"train": np.arange(14) % 7, "validation": np.arange(7)}
    labels["test"] = np.r_[np.arange(7), random.choice(7, 83, p=np.arange(1, 8) / 28)]
    return replace(dataset(labels, noise=140, class_names=NAMES), name="animals")


@pytest.fixture
def pair(data):
    """Each prompt points, more or less, to where the images of its class lie."""
    test, random, table = data["test"], np.random.default_rng(0), {}
    images = test.images.numpy().reshape(len(test), -1) / 255 - 0.5
    for label, name in enumerate(NAMES):
        mean = images[test.labels == label].mean(0)
        for template in ENSEMBLE:
            text = filled(template, name)
            table[text] = np.linalg.norm(vector(text)) * (mean + random.normal(0, 0.2, D))
    return Pair({text: row.astype(np.float32) for text, row in table.items()})


def ranks(encoder, data, templates, *, normalised=True):
    """Place of each test image's class among all, by loops."""
    test = data["test"]
    inputs = encoder.preprocess(test[torch.arange(len(test))])
    seen = encoder(inputs).double().tolist()
    classes = []
    for name in data.class_names:
        each = [encoder.text.table[filled(template, name)].tolist() for template in templates]
        each = [unit(x) for x in each] if normalised else each
        classes.append(unit([sum(column) / len(each) for column in zip(*each, strict=True)]))
    out = []
    for x, label in zip(seen, test.labels, strict=True):
        logits = [100 * sum(a * b for a, b in zip(unit(x), y, strict=True)) for y in classes]
        out.append(sorted(range(len(logits)), key=lambda c: -logits[c]).index(label))
    return np.array(out)


@pytest.mark.parametrize("templates", [ENSEMBLE[:1], ENSEMBLE])
@pytest.mark.parametrize("held", [1, 1 << 26])
def test_the_protocol(pair, data, templates, held, tmp_path, monkeypatch):
    monkeypatch.setattr(neighbors, "SIMILARITIES", held)
    place = ranks(pair, data, templates)
    result = ZeroShot(templates=templates).run(pair, data, seed=0, folder=tmp_path)
    labels = data["test"].labels
    scores = {name: score.value for name, score in result.scores.items()}
    assert scores == pytest.approx(
        {
            "top1": (place == 0).mean(),
            "top5": (place < 5).mean(),
            "mean_per_class": np.mean([(place[labels == c] == 0).mean() for c in range(7)]),
        }
    )
    assert 0.3 < scores["top1"] < scores["top5"] < 1
    np.testing.assert_array_equal(result.scores["top1"].examples, place == 0)
    np.testing.assert_array_equal(result.scores["top5"].examples, place < 5)
    assert result.scores["mean_per_class"].examples.mean() == pytest.approx(
        scores["mean_per_class"]
    )
    assert not result.selected
    longest = ranks(pair, data, templates, normalised=False)
    assert (longest != place).any() == (len(templates) > 1)


def test_the_default_templates(data, tmp_path):
    assert TEMPLATES == ("{}", "a photo of a {}.")
    table = {filled(t, n): vector(filled(t, n)) for t in TEMPLATES for n in NAMES}
    result = ZeroShot().run(Pair(table), data, seed=0, folder=tmp_path)
    expected = ranks(Pair(table), data, TEMPLATES) == 0
    np.testing.assert_array_equal(result.scores["top1"].examples, expected)


def test_of_equally_near_classes_the_lower_number_wins(data, tmp_path):
    same = dict.fromkeys((filled("{}", name) for name in NAMES), np.ones(D, np.float32))
    result = ZeroShot(templates=("{}",)).run(Pair(same), data, seed=0, folder=tmp_path)
    labels = data["test"].labels
    np.testing.assert_array_equal(result.scores["top1"].examples, labels == 0)
    np.testing.assert_array_equal(result.scores["top5"].examples, labels < 5)


@pytest.mark.parametrize("classes", [2, 5])
def test_no_top5_of_five_classes_or_fewer(classes, tmp_path):
    result = ZeroShot().run(Pair(), dataset(balanced(classes)), seed=0, folder=tmp_path)
    assert set(result.scores) == {"top1", "mean_per_class"}


def test_features_are_computed_once(pair, data, tmp_path, monkeypatch):
    first = ZeroShot(templates=ENSEMBLE).run(pair, data, seed=0, folder=tmp_path)

    def computed(*_):
        raise AssertionError

    monkeypatch.setattr(Pair, "forward", computed)
    monkeypatch.setattr(type(pair.text), "forward", computed)
    again = ZeroShot(templates=ENSEMBLE).run(pair, data, seed=0, folder=tmp_path)
    assert again.scores["top1"].value == first.scores["top1"].value


def test_what_does_not_apply(data, tmp_path):
    task = ZeroShot()
    with pytest.raises(NotApplicable, match="animals: its classes have no names"):
        task.run(Pair(), replace(data, class_names=()), seed=0, folder=tmp_path)
    with pytest.raises(NotApplicable, match="needs an encoder of images and captions"):
        suited(task, Flat())
    with pytest.raises(NotApplicable, match="no encoder of captions"):
        task.run(Flat().eval(), data, seed=0, folder=tmp_path)
    several = {name: np.eye(3, dtype=bool)[y % 3] for name, y in balanced(3).items()}
    with pytest.raises(NotApplicable, match="one label per example"):
        task.run(Pair(), dataset(several, patterns=balanced(3)), seed=0, folder=tmp_path)


@pytest.mark.parametrize(
    ("wrong", "found"), [((), "found none"), (("{}", "a photo"), "template 'a photo'")]
)
def test_what_is_no_template_is_refused(wrong, found):
    with pytest.raises(UserError, match=found):
        ZeroShot(templates=wrong)

"""Image–text retrieval against loops from its definition."""

import math
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch

from sslbench import captioned, neighbors
from sslbench.data.split import Batch, Split
from sslbench.errors import NotApplicable
from sslbench.tasks.image_text_retrieval import ImageTextRetrieval
from tests.tasks.conftest import Flat, dataset
from tests.tasks.pair import D, Pair


def with_captions(captions: list[tuple[str, ...]]):
    """A dataset whose test split has these captions."""
    n = len(captions)
    data = dataset({name: np.arange(n) % 2 for name in ("train", "validation", "test")}, noise=60)

    def caption(batch: Batch) -> Batch:
        return replace(batch, texts=[captions[i] for i in batch.index.tolist()])

    test = data["test"].map(caption, "captions")
    return replace(data, splits={**data.splits, "test": test}, targets=("label", "captions"))


@pytest.fixture
def captions() -> list[tuple[str, ...]]:
    """1 to 4 captions of each of 40 images; some shared, some twice on one image."""
    random = np.random.default_rng(0)
    own = [tuple(f"{i} {k}" for k in range(random.integers(1, 4))) for i in range(40)]
    for i in range(0, 40, 4):
        own[i] = (*own[i], "something", own[i][0])
    own[5] = own[6]
    return own


def similar(split: Split, captions: list[tuple[str, ...]], noise: float = 0.8) -> Pair:
    """Captions that lie near one of their images."""
    random, table = np.random.default_rng(1), {}
    for row, own in zip(_pixels(split), captions, strict=True):
        for text in own:
            table[text] = (row + random.normal(0, noise, D)).astype(np.float32)
    return Pair(table)


def _pixels(split: Split) -> np.ndarray:
    images = split[torch.arange(len(split))].images
    return images.numpy().reshape(len(split), -1) / 255 - 0.5


def cosine(a, b) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def by_loops(pair: Pair, split: Split, captions: list[tuple[str, ...]]) -> dict[str, list[float]]:
    """Hits by score: one of each image, or one of each caption of each image."""
    images = pair(pair.preprocess(split[torch.arange(len(split))])).tolist()
    texts = []
    for own in captions:
        texts += [text for text in own if text not in texts]
    table = {text: pair.text.table[text].tolist() for text in texts}
    out = {}
    for k in (1, 5, 10):
        hits = []
        for image, own in zip(images, captions, strict=True):
            order = sorted(texts, key=lambda text, image=image: -cosine(image, table[text]))
            hits.append(float(any(text in own for text in order[:k])))
        out[f"image_to_text_recall_at_{k}"] = hits
        hits = []
        for own in captions:
            for text in set(own):
                order = sorted(
                    range(len(images)), key=lambda i, text=text: -cosine(images[i], table[text])
                )
                hits.append(float(any(text in captions[i] for i in order[:k])))
        out[f"text_to_image_recall_at_{k}"] = hits
    return out


@pytest.mark.parametrize("held", [1, 300, 1 << 26])
def test_the_protocol(captions, held, tmp_path, monkeypatch):
    monkeypatch.setattr(neighbors, "SIMILARITIES", held)
    data = with_captions(captions)
    pair = similar(data["test"], captions)
    expected = by_loops(pair, data["test"], captions)
    result = ImageTextRetrieval().run(pair, data, seed=0, folder=tmp_path)
    scores = {name: score.value for name, score in result.scores.items()}
    means = {name: float(np.mean(hits)) for name, hits in expected.items()}
    both = [means[f"{way}_recall_at_1"] for way in ("image_to_text", "text_to_image")]
    assert scores == pytest.approx({"recall_at_1": sum(both) / 2, **means})
    assert len(set(means.values())) == 6
    assert 0.1 < scores["recall_at_1"] < 0.9
    for name, score in result.scores.items():
        assert score.n == len(score.examples) == 40
        assert score.examples.mean() == pytest.approx(scores[name])
    hits = result.scores["image_to_text_recall_at_1"].examples
    assert hits.tolist() == expected["image_to_text_recall_at_1"]


def test_a_caption_that_images_share_is_right_for_each_of_them(tmp_path):
    captions = [("alone",), ("a pair",), ("a pair",)]
    data = with_captions(captions)
    pixels = _pixels(data["test"])
    table = {"alone": pixels[0], "a pair": pixels[2]}  # nearest to the last image
    pair = Pair({text: row.astype(np.float32) for text, row in table.items()})
    result = ImageTextRetrieval().run(pair, data, seed=0, folder=tmp_path)
    assert result.scores["text_to_image_recall_at_1"].value == 1
    assert result.scores["image_to_text_recall_at_5"].value == 1


def test_captions_that_are_all_one_point_score_chance(captions, tmp_path):
    data = with_captions(captions)
    texts = {text for own in captions for text in own}
    pair = Pair(dict.fromkeys(texts, np.ones(D, np.float32)))
    result = ImageTextRetrieval().run(pair, data, seed=0, folder=tmp_path)
    first = captions[0][0]  # wins every tie
    hit = [float(first in own) for own in captions]
    assert result.scores["image_to_text_recall_at_1"].examples.tolist() == hit


@pytest.mark.parametrize(
    "captions",
    [
        [("a",), ("b",), ("c",)],
        [("a", "b"), ("a",), ("c", "a", "c")],
        [("a", "b"), ("b", "c"), ("d",), ("d",)],
    ],
)
def test_chance_is_the_mean_over_all_orders_of_the_candidates(captions):
    texts = sorted({text for own in captions for text in own})
    to_text = [np.mean([order[0] in own for own in captions]) for order in permutations(texts)]
    queries = [text for own in captions for text in set(own)]
    to_image = [
        np.mean([text in captions[order[0]] for text in queries])
        for order in permutations(range(len(captions)))
    ]
    expected = (np.mean(to_text) + np.mean(to_image)) / 2
    assert ImageTextRetrieval().chance(with_captions(captions)) == pytest.approx(expected)


def test_images_are_read_in_small_parts_and_once(captions, tmp_path, monkeypatch):
    monkeypatch.setattr(captioned, "_READ", 7)
    data = with_captions(captions)
    assert captioned.captions(data["test"]) == captions
    read = []
    monkeypatch.setattr(type(data["test"]), "__getitem__", lambda *_: read.append(1))
    ImageTextRetrieval().chance(data)
    assert not read


def test_what_does_not_apply(captions, tmp_path):
    task, data = ImageTextRetrieval(), with_captions(captions)
    with pytest.raises(NotApplicable, match="no encoder of captions"):
        task.run(Flat().eval(), data, seed=0, folder=tmp_path)
    bare = replace(data, splits={**data.splits, "test": data["train"]})
    with pytest.raises(NotApplicable, match="the data have none"):
        task.run(Pair(), bare, seed=0, folder=tmp_path)

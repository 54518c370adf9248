"""Detection: the numbers, the network, and what training and its interruption change."""

import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from sslbench import average_precision, detector, registry
from sslbench.average_precision import AveragePrecision, Found
from sslbench.checkpoint import weights_hash
from sslbench.contributions import jackknife
from sslbench.data.split import Boxes, Dataset, ImageArray, with_targets
from sslbench.detector import GREY, Detector, flipped
from sslbench.encoder import build
from sslbench.errors import NotApplicable, UserError
from sslbench.evaluation import evaluate
from sslbench.grid.cells import Evaluation
from sslbench.pretrain import Options
from sslbench.pyramid import Pyramid
from sslbench.records import Checkpoint
from sslbench.statistics import interval
from tests.conftest import tiny_bert, tiny_image_gpt, tiny_rbm, tiny_resnet, tiny_vit
from tests.tasks.test_conformance import values

module = registry.task("detection").run.__globals__
SIDE = 64


def there(boxes, labels=None, ignored=()):
    """Objects of one image; the `ignored` by position."""
    labels = [0] * len(boxes) if labels is None else labels
    flags = np.isin(np.arange(len(boxes)), ignored)
    return Boxes(np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64), flags)


def found(boxes, scores, labels=None):
    labels = [0] * len(boxes) if labels is None else labels
    where = np.array(boxes, np.float32).reshape(-1, 4)
    return Found(where, np.array(labels, np.int64), np.array(scores, np.float32))


A, B, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [50, 50, 60, 60]
WHOLE = [0, 0, 60, 60]
# Recalls are read at 0, .01 … 1: half the objects found without a mistake is 51 of 101 of them.
CASES = {
    "perfect": (there([A, B]), found([A, B], [0.9, 0.8]), (1, 1, 1)),
    "one of two": (there([A, B]), found([A], [0.9]), (51 / 101,) * 3),
    "a false positive above": (there([A]), found([FAR, A], [0.9, 0.8]), (0.5,) * 3),
    "a false positive below": (there([A]), found([A, FAR], [0.9, 0.8]), (1,) * 3),
    "a duplicate below all": (there([A]), found([A, A], [0.9, 0.8]), (1,) * 3),
    "a duplicate between": (
        there([A, B]),
        found([A, A, B], [0.9, 0.8, 0.7]),
        ((51 + 50 * 2 / 3) / 101,) * 3,
    ),
    "ignored, found": (there([A, B], ignored=[1]), found([B, A], [0.9, 0.8]), (1,) * 3),
    "ignored, found twice": (there([A, B], ignored=[1]), found([B, B, A], [3, 2, 1]), (1,) * 3),
    "ignored, not found": (there([A, B], ignored=[1]), found([A], [0.9]), (1,) * 3),
    "inside the ignored": (there([A, WHOLE], ignored=[1]), found([FAR, A], [0.9, 0.8]), (1,) * 3),
    "IoU 1/2": (there([A]), found([[0, 0, 10, 5]], [0.9]), (0.1, 1, 0)),
    "IoU 3/4": (there([A]), found([[0, 0, 10, 7.5]], [0.9]), (0.6, 1, 1)),
    "another class": (there([A]), found([A], [0.9], [1]), (0, 0, 0)),
    "two classes": (there([A, B], [0, 1]), found([A], [0.9]), (0.5,) * 3),
    "nothing there": (there([]), found([A], [0.9]), (0, 0, 0)),
    "nothing found": (there([A]), found([], []), (0, 0, 0)),
}


@pytest.mark.parametrize("case", CASES)
def test_average_precision_worked_out_by_hand(case):
    truth, detections, expected = CASES[case]
    measured = AveragePrecision([truth], [detections], 2).values()
    names = ("map", "map50", "map75")
    assert measured == pytest.approx(dict(zip(names, expected, strict=True)), abs=1e-9)


def many(n):
    """Images with objects of two classes, found with errors; some without any."""
    random = np.random.default_rng(0)
    truth, detections = [], []
    for _ in range(n):
        k = int(random.integers(4))
        corner = random.uniform(0, 50, (k, 2))
        boxes = np.concatenate([corner, corner + random.uniform(8, 20, (k, 2))], axis=1)
        labels = random.integers(2, size=k)
        truth.append(there(boxes, labels, ignored=[2]))
        shifted = np.concatenate([boxes, boxes[:1]]) + random.normal(0, 1, (k + bool(k), 4))
        also = np.concatenate([labels, labels[:1]])
        detections.append(found(shifted, random.random(len(shifted)), also))
    return truth, detections


def test_jackknife_is_that_of_really_leaving_out_each_image():
    truth, detections = many(12)
    measured = AveragePrecision(truth, detections, 2)
    whole = measured.values()
    assert 0.1 < whole["map"] < whole["map50"] < 1
    without = [
        AveragePrecision(
            truth[:i] + truth[i + 1 :], detections[:i] + detections[i + 1 :], 2
        ).values()
        for i in range(12)
    ]
    for name, each in measured.contributions().items():
        left_out = np.array([values[name] for values in without])
        np.testing.assert_allclose(each, jackknife(whole[name], left_out), atol=1e-9)
        assert each.mean() == pytest.approx(whole[name], abs=1e-12)
    assert measured.values() == whole  # as before


@pytest.mark.parametrize("grouped", [False, True])
def test_blocks_keep_the_standard_error(grouped, monkeypatch):
    """Of images for themselves, and of groups of images when whole groups are resampled."""
    monkeypatch.setattr(average_precision, "BLOCKS", 6)
    measured = AveragePrecision(*many(24), 2)
    groups = np.repeat([5, 3, 9, 7, 1, 2], 4) if grouped else None
    block = np.unique(groups, return_inverse=True)[1] if grouped else np.arange(24) // 4
    for name, each in measured.contributions(groups).items():
        value = measured.values()[name]
        left_out = [measured.values(np.flatnonzero(block == b))[name] for b in range(6)]
        expected = jackknife(value, np.array(left_out)) - value
        moved = (
            np.bincount(block, each - value) / 24 if grouped else (each - value) / 24
        )  # of independent units
        assert np.square(moved).sum() == pytest.approx(np.square(expected).sum() / 36)
        assert each.mean() == pytest.approx(value)


# the network


def squares(n, seed, side=SIDE):
    """Images of noise with one to three bright squares, in an array with their boxes."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 120, (n, 3, side, side), dtype=np.uint8)
    targets = []
    for image in images:
        boxes = []
        for cell in random.choice(4, random.integers(1, 4), replace=False):
            size = int(random.integers(14, 26))
            top, left = (random.integers(0, 32 - size, 2) + 32 * np.array(divmod(cell, 2))).tolist()
            image[:, top : top + size, left : left + size] = random.integers(180, 256)
            boxes.append([left, top, left + size, top + size])
        targets.append(there(boxes))
    images = ImageArray(images, None, groups=np.arange(n) // 4)
    return with_targets(images, targets, f"squares {n} {seed}")


def data(train=48):
    sizes = {"train": train, "validation": 8, "test": 16}
    splits = {name: squares(n, seed) for seed, (name, n) in enumerate(sizes.items())}
    return Dataset("squares", "image", ("boxes",), 1, ("square",), "top1", 0.0, splits)


def some(n=2):
    batch = squares(n, 9)[torch.arange(n)]
    return [image.float() / 255 for image in batch.images], batch.target


@pytest.mark.parametrize(
    ("make", "strides"), [(tiny_resnet, [1, 2, 4, 8]), (tiny_vit, [2, 4, 8, 16])]
)
def test_pyramid_has_maps_of_four_scales(make, strides):
    pyramid = Pyramid(make().eval(), frozen=True, out_channels=12)
    assert pyramid.strides == strides
    maps = pyramid(torch.rand(2, 3, SIDE, 32))
    shapes = [tuple(one.shape) for one in maps.values()]
    assert shapes == [(2, 12, SIDE // stride, 32 // stride) for stride in strides]


def test_strides_stay_whole_where_the_patch_is_no_multiple_of_four():
    config = {"image_size": 42, "mean": [0.5] * 3, "std": [0.25] * 3, "embed_dim": 32, "depth": 1}
    vit = build({"name": "vit_tiny_patch16_224", "patch_size": 14, "num_heads": 2, **config})
    pyramid = Pyramid(vit.eval(), frozen=True)
    assert (pyramid.strides, pyramid.out_channels) == ([7, 14, 28, 56], 16)
    maps = pyramid(torch.rand(1, 3, 112, 112))
    assert [one.shape[-1] for one in maps.values()] == [16, 8, 4, 2]
    network = Detector(vit, 1, frozen=True)
    assert len(network.detect([torch.rand(3, 100, 112)])) == 1


@pytest.mark.parametrize("make", [tiny_resnet, tiny_vit])
@pytest.mark.parametrize("frozen", [True, False])
def test_loss_and_gradient_are_finite(make, frozen):
    torch.manual_seed(0)
    encoder = make()
    before = weights_hash(encoder)
    network = Detector(encoder, 2, frozen=frozen)
    images, objects = some(3)
    objects[1] = there([])  # an image without objects
    images[2] = images[2][:, :40, :56]  # and one of another size
    loss = network.loss(images, [objects[0], objects[1], there([[4, 4, 30, 30]], [1])])
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in network.named_parameters():
        inside = ".encoder." in name
        if inside and frozen:
            assert parameter.grad is None
        elif parameter.grad is not None:
            assert torch.isfinite(parameter.grad).all()
    weights = [p for n, p in network.named_parameters() if ".encoder." in n and p.ndim > 1]
    moved = [p.grad is not None and bool((p.grad != 0).any()) for p in weights]
    assert any(moved) is not frozen
    assert (weights_hash(encoder) == before) is (frozen or make is tiny_vit)  # batch norm


def test_ignored_objects_are_not_learned():
    torch.manual_seed(0)
    network = Detector(tiny_resnet(), 1, frozen=True)
    images, objects = some()
    for extra in (objects, [o._replace(ignored=np.ones(len(o.labels), bool)) for o in objects]):
        torch.manual_seed(1)
        given = network.loss(images, extra)
        torch.manual_seed(1)
        kept = [there(o.boxes[~o.ignored]) for o in extra]
        assert torch.equal(given, network.loss(images, kept))


def test_images_are_scaled_and_filled_up_and_boxes_come_back():
    torch.manual_seed(0)
    network = Detector(tiny_resnet(), 1, frozen=True, side=32)
    batch, _ = network.network.transform([torch.zeros(3, 64, 128), torch.ones(3, 60, 80)])
    assert batch.tensors.shape == (2, 3, 32, 64)
    assert batch.image_sizes == [(32, 64), (32, 42)]
    assert batch.tensors[0].abs().max() == 0
    assert (batch.tensors[1, :, :, 43:] == GREY).all()
    own, _ = Detector(tiny_resnet(), 1, frozen=True).network.transform([torch.zeros(3, 61, 90)])
    assert own.tensors.shape == (1, 3, 64, 96)
    assert own.image_sizes == [(61, 90)]
    first = network.detect([torch.rand(3, 64, 128)])[0]
    assert len(first.boxes)
    assert 64 < first.boxes[:, 2].max() <= 128
    assert (np.diff(first.scores) <= 0).all()
    assert set(first.labels) == {0}


def test_mirrored():
    image = torch.arange(3 * 4 * 10).view(3, 4, 10)
    mirrored, objects = flipped(image, there([[1, 0, 4, 2]]))
    assert objects.boxes.tolist() == [[6, 0, 9, 2]]
    assert torch.equal(mirrored[:, :2, 6:9].flip(-1), image[:, :2, 1:4])


# the task


def make(**settings):
    default = {"rates": (3e-3,), "epochs": 6, "trials": 1}
    return registry.task("detection")(**{**default, **settings})


@pytest.fixture
def encoder(monkeypatch):
    """With a tenth of the proposals, for what need not be good."""
    monkeypatch.setattr(detector, "PROPOSALS", {"train": 100, "test": 30})
    return small_resnet()


def small_resnet():
    """Maps coarser than the tiny ResNet's, to save time."""
    torch.manual_seed(0)
    config = {"image_size": SIDE, "mean": [0.5] * 3, "std": [0.25] * 3, "stem": "conv3_stride2"}
    return build({"name": "resnet18", "width": 4, **config}).eval()


@pytest.mark.parametrize(("adaptation", "least"), [("frozen", 0.4), ("fine_tuned", 0.7)])
def test_bright_squares_are_found(adaptation, least, tmp_path):
    encoder = small_resnet()
    before = weights_hash(encoder)
    result = make(adaptation=adaptation).run(encoder, data(), seed=0, folder=tmp_path)
    torch.manual_seed(0)
    untrained = Detector(small_resnet(), 1, frozen=True)
    test = data()["test"][torch.arange(16)]
    guessed = untrained.detect([image.float() / 255 for image in test.images])
    assert AveragePrecision(test.target, guessed, 1).values()["map50"] < 0.2
    assert result.scores["map50"].value > least
    assert weights_hash(encoder) == before
    assert not encoder.training
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert (outcome(tmp_path)["weights_hash"] == before) == (adaptation == "frozen")


def outcome(folder):
    return json.loads((folder / "lr-0.003-trial-0" / "run.json").read_text())["outcome"]


def test_the_record_is_complete(encoder, tmp_path):
    given = data(16)
    settings = {"rates": (1e-4, 3e-3), "epochs": 1, "trials": 2}
    cell = Evaluation("c", 1.0, "detection", "detection", 1, settings, given.name, given.hash, 0)
    checkpoint = Checkpoint(key="c", name="x", family="baselines", encoder="resnet18()")
    record, examples = evaluate(encoder, checkpoint, cell, given, tmp_path)
    assert (record.status, record.reason) == ("ok", None)
    assert (record.headline, record.chance) == ("map", 0)
    assert list(record.scores) == ["map", "map50", "map75", "map_over_trials"]
    for name in ("map", "map50", "map75"):
        score = record.scores[name]
        assert math.isfinite(score.value)
        assert score.n == len(examples[name]) == 16
        assert examples[name].mean() == pytest.approx(score.value)
        expected = interval(examples[name], given["test"].groups)
        assert (score.standard_error, score.low, score.high) == pytest.approx(expected)
    over = record.scores["map_over_trials"]
    assert over.value == pytest.approx(record.scores["map"].value)
    assert over.n == 2
    assert over.low <= over.value <= over.high
    assert set(record.selected["validation"]) == {"0.0001", "0.003"}
    json.dumps(dict(record.selected), allow_nan=False)
    further = [path.name for path in tmp_path.iterdir() if "trial-1" in path.name]
    assert further == [f"lr-{record.selected['lr']:g}-trial-1"]


def test_a_killed_run_goes_on_and_ends_with_the_same_weights_and_numbers(
    encoder, tmp_path, monkeypatch
):
    given, before = data(24), weights_hash(encoder)
    settings = {"epochs": 2, "adaptation": "fine_tuned"}
    expected = make(**settings).run(encoder, given, seed=1, folder=tmp_path / "whole")

    def dies(step, steps, line):
        if step >= 4:
            raise InterruptedError

    dying = Options(save_seconds=0.0, log_steps=1, progress=dies)
    monkeypatch.setitem(module, "Options", lambda **given: dying)
    with pytest.raises(InterruptedError):
        make(**settings).run(encoder, given, seed=1, folder=tmp_path / "parts")
    monkeypatch.setitem(module, "Options", Options)
    torch.manual_seed(77)  # whatever the interrupted process had drawn
    result = make(**settings).run(encoder, given, seed=1, folder=tmp_path / "parts")
    states = [
        torch.load(tmp_path / part / "lr-0.003-trial-0" / "state.pt")["method"]
        for part in ("whole", "parts")
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert weights_hash(encoder) == before
    assert outcome(tmp_path / "parts")["weights_hash"] != before  # only the copy moved
    assert values(result) == values(expected)
    for name in ("map", "map50", "map75"):
        assert np.array_equal(result.scores[name].examples, expected.scores[name].examples)


def test_seeds_and_the_test_split(encoder, tmp_path):
    """The same seed gives the same numbers; the test split has no part in any choice."""
    given = data(16)
    short = partial(make, rates=(1e-4, 3e-3), epochs=1)
    first = short().run(encoder, given, seed=3, folder=tmp_path / "first")
    poison = replace(given, splits={**given.splits, "test": squares(16, 7)})
    second = short().run(encoder, poison, seed=3, folder=tmp_path / "second")
    assert second.selected == first.selected
    back = short().run(encoder, given, seed=3, folder=tmp_path / "second")
    assert values(back) == values(first)
    other = short().run(encoder, given, seed=4, folder=tmp_path / "other")
    assert other.selected["validation"] != first.selected["validation"]


def test_what_does_not_apply(tmp_path):
    for other in (tiny_rbm(), tiny_image_gpt(), tiny_bert()):
        with pytest.raises(NotApplicable, match="no feature maps"):
            make().run(other, data(8), seed=0, folder=tmp_path)


def test_wrong_settings():
    cls = registry.task("detection")
    with pytest.raises(UserError, match=r"adaptation 'linear'; .*allowed: fine_tuned, frozen"):
        make(adaptation="linear")
    for wrong in ({"rates": ()}, {"rates": (0.0,)}, {"encoder_rate": 0.0}):
        with pytest.raises(UserError, match="rates, encoder_rate > 0 expected"):
            make(**wrong)
    for wrong in ({"trials": 0}, {"epochs": 0}, {"side": -1}, {"batch_size": 0}):
        with pytest.raises(UserError, match="trials, epochs and batch_size ≥ 1"):
            make(**wrong)
    with pytest.raises(UserError, match="no setting 'epoch'; did you mean 'epochs'"):
        registry.settings(cls, {"epoch": 1})
    for setting in registry.settings(cls, {}):
        with pytest.raises(UserError, match=setting):
            registry.settings(cls, {setting: object()})

"""Segmentation: its scores, what is trained, what is chosen, and what an interruption changes."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score, recall_score
from torch import nn

from sslbench import confusions, registry, segmenter
from sslbench.checkpoint import load_state, weights_hash
from sslbench.data.image_ops import resized_crop
from sslbench.data.split import Batch, Dataset, ImageArray, Split, with_targets
from sslbench.errors import NotApplicable, UserError
from sslbench.pretrain import Options
from tests.conftest import SIZE, tiny_bert, tiny_rbm, tiny_resnet, tiny_vit
from tests.tasks.test_conformance import values

module = registry.task("segmentation").run.__globals__


def squares(n, seed):
    """Noise with one square, reddish (1) or greenish (2); a row of every mask does not count."""
    random = np.random.default_rng(seed)
    images = random.normal(100, 15, (n, 3, SIZE, SIZE))
    masks = np.zeros((n, SIZE, SIZE), np.uint8)
    for i in range(n):
        kind, side = 1 + i % 2, random.integers(6, 11)
        top, left = random.integers(SIZE - side, size=2)
        images[i, kind - 1, top : top + side, left : left + side] += 100
        masks[i, top : top + side, left : left + side] = kind
        masks[i, random.integers(SIZE)] = 255
    split = ImageArray(images.clip(0, 255).astype(np.uint8), None)
    return with_targets(split, masks, f"squares {seed}")


def dataset(**splits):
    given = {"train": squares(48, 0), "validation": squares(16, 1), "test": squares(24, 2)}
    names = ("nothing", "Red square", "green")
    return Dataset("squares", "image", ("mask",), 3, names, "top1", 0.0, {**given, **splits})


def make(**settings):
    rate = 0.01 if settings.get("adaptation") == "fcn" else 0.1
    small = {"rates": (rate,), "epochs": 8, "batch_size": 8, "trials": 1}
    return registry.task("segmentation")(**{**small, **settings})


def resnet():
    torch.manual_seed(0)
    return tiny_resnet().eval()


def pairs(n=6, classes=5, seed=0):
    """Masks and predictions; class 3 is predicted but never true, class 4 does not occur."""
    random = np.random.default_rng(seed)
    truth = random.choice([0, 1, 2, 255], (n, 7, 9), p=[0.5, 0.25, 0.1, 0.15]).astype(np.uint8)
    return truth, np.where(random.random(truth.shape) < 0.6, truth % 255, random.integers(4))


def per_image(truth, predicted, classes=5):
    both = zip(truth, predicted, strict=True)
    return np.stack([confusions.confusion(y, z, classes) for y, z in both])


def test_scores_are_those_of_scikit_learn():
    truth, predicted = pairs()
    predicted[:, 0] = 3
    matrices = per_image(truth, predicted)
    counted = truth != 255
    y, z = truth[counted], predicted[counted]
    total = matrices.sum(0)
    assert np.array_equal(total, confusion_matrix(y, z, labels=range(5)))
    expected = jaccard_score(y, z, labels=range(4), average=None)
    assert confusions.iou(total)[:4] == pytest.approx(expected)
    assert np.isnan(confusions.iou(total)[4])
    assert confusions.miou(total) == pytest.approx(expected.mean())  # 3 counts, 4 does not
    assert confusions.pixel_accuracy(total) == pytest.approx(accuracy_score(y, z))
    recall = recall_score(y, z, labels=range(3), average="macro")
    assert confusions.mean_class_accuracy(total) == pytest.approx(recall)


def test_a_mask_that_does_not_count_scores_nothing():
    matrix = confusions.confusion(np.full((4, 4), 255, np.uint8), np.zeros((4, 4), int), 3)
    assert not matrix.any()
    for score in (confusions.miou, confusions.pixel_accuracy, confusions.mean_class_accuracy):
        assert score(matrix) == 0
    with pytest.raises(ValueError, match="classes 0 … 2 and 255 expected, found 3"):
        confusions.confusion(np.full((4, 4), 3, np.uint8), np.zeros((4, 4), int), 3)


@pytest.mark.parametrize("name", ["miou", "pixel_accuracy", "mean_class_accuracy"])
def test_contributions_are_the_jackknife(name):
    score = getattr(confusions, name)
    truth, predicted = pairs(n=12)
    truth[0, :3], truth[1:][truth[1:] == 2] = 2, 0  # only the first image has class 2
    matrices = per_image(truth, predicted)
    found = confusions.contributions(score, matrices)
    left_out = np.array([score(np.delete(matrices, i, axis=0).sum(0)) for i in range(12)])
    variance = 11 / 12 * ((left_out - left_out.mean()) ** 2).sum()  # of the jackknife
    assert found.mean() == pytest.approx(float(score(matrices.sum(0))))
    assert found.var(ddof=1) / 12 == pytest.approx(variance)
    assert np.argsort(found).tolist() == np.argsort(-left_out).tolist()


def test_the_result_is_the_mean_of_the_trials():
    random = np.random.default_rng(0)
    matrices = random.integers(1, 50, (3, 10, 2, 2))
    matrices[:, :, 1] *= np.arange(10)[:, None] % 2  # the second class is in half of the images
    scores = module["_scores"](matrices, ("a", "Tree & bush"))
    each = [float(confusions.miou(trial.sum(0))) for trial in matrices]
    assert scores["miou"].value == pytest.approx(np.mean(each))
    assert scores["miou"].n == len(scores["miou"].examples) == 10
    assert scores["miou_over_trials"].value == pytest.approx(np.mean(each))
    assert scores["miou_over_trials"].n == 3
    assert scores["miou_over_trials"].stderr == pytest.approx(np.std(each, ddof=1) / 3**0.5)
    by_class = np.mean([confusions.iou(trial.sum(0)) for trial in matrices], axis=0)
    assert scores["iou_a"].value == pytest.approx(by_class[0])
    assert scores["iou_tree_bush"].value == pytest.approx(by_class[1])
    assert module["_scores"](matrices[:1], ("a", "b"))["miou_over_trials"].stderr is None
    many = np.pad(matrices, ((0, 0), (0, 0), (0, 31), (0, 31)))
    names = [f"class {i}" for i in range(33)]
    assert set(module["_scores"](many, names)) == set(scores) - {"iou_a", "iou_tree_bush"}


def test_masks_are_cut_like_images():
    """A ramp is the same ramp at every size, where no edge is near: its values tell the places."""
    y, x = np.mgrid[:16, :16].astype(np.uint8)
    masks = [3 * y + 11 * x, 9 * y + 2 * x, 240 - 11 * y - 2 * x, 100 + 9 * y - 6 * x]
    images = torch.from_numpy(np.stack(masks))[:, None].expand(-1, 3, -1, -1)
    flip = torch.tensor([True, False, True, False])
    for corner, side, size, edge in (((3, 5), 9, 9, 0), ((1, 0), 15, 5, 1), ((0, 4), 9, 3, 1)):
        boxes = torch.tensor([[*corner, side, side]]).expand(4, -1)
        cut = segmenter.cut_masks(masks, boxes, size, flip)
        expected = (resized_crop(images, boxes, size, flip)[:, 0] * 255).round().long()
        inner = slice(edge, size - edge)
        assert torch.equal(cut[:, inner, inner], expected[:, inner, inner])


def test_the_head_is_linear_in_upsampled_maps_side_by_side():
    """Batch norm, 1×1 convolution, then upsampling is upsampling, then both."""
    torch.manual_seed(0)
    head = segmenter.Head([3, 5], 4, segmenter.linear)
    maps = [torch.randn(6, 3, 8, 8), torch.randn(6, 5, 4, 4)]
    head(maps)  # moves the running statistics
    head.eval()
    norms, convolutions = zip(*head.parts, strict=True)
    normed = [norm(x) for norm, x in zip(norms, maps, strict=True)]
    column = torch.cat([normed[0], segmenter.upsampled(normed[1], (8, 8))], dim=1)
    weight = torch.cat([convolution.weight for convolution in convolutions], dim=1)
    bias = sum(convolution.bias for convolution in convolutions)
    expected = nn.functional.conv2d(column, weight, bias)
    assert torch.allclose(head(maps), expected, atol=1e-5)


def test_fcn_head_has_the_layers_of_torchvisions():
    from torchvision.models.segmentation.fcn import FCNHead

    def layers(head):
        return [str(layer) for layer in head]

    assert layers(segmenter.fcn(64, 21)) == layers(FCNHead(64, 21))


@pytest.mark.parametrize(
    ("encoder", "settings", "least"),
    [
        (tiny_resnet, {"epochs": 12}, 0.4),
        (tiny_resnet, {"adaptation": "fcn", "epochs": 12}, 0.65),
        (tiny_vit, {"epochs": 12}, 0.65),
        (tiny_vit, {"adaptation": "fcn", "layers": "last", "epochs": 12}, 0.65),
    ],
)
def test_squares_are_found(encoder, settings, least, tmp_path):
    torch.manual_seed(0)
    encoder, data, task = encoder().eval(), dataset(), make(**settings)
    before = weights_hash(encoder)
    trains = [parameter.requires_grad for parameter in encoder.parameters()]
    result = task.run(encoder, data, seed=0, folder=tmp_path)
    assert result.scores["miou"].value > least > 1.5 * task.chance(data)
    assert {"iou_nothing", "iou_red_square", "iou_green"} < set(result.scores)
    assert result.scores["pixel_accuracy"].n == 24
    assert result.selected["size"] == SIZE
    assert weights_hash(encoder) == before
    assert not encoder.training
    assert [parameter.requires_grad for parameter in encoder.parameters()] == trains


def test_chance_is_the_score_of_the_most_frequent_class():
    data = dataset()
    masks = np.stack(data["test"][torch.arange(24)].target)
    matrix = confusions.confusion(masks, np.zeros(masks.shape, int), 3)
    assert make().chance(data) == pytest.approx(float(confusions.miou(matrix)))


@pytest.mark.parametrize("adaptation", ["linear", "fcn"])
def test_what_is_trained(adaptation, tmp_path):
    encoder = resnet()
    make(adaptation=adaptation, epochs=1).run(encoder, dataset(), seed=0, folder=tmp_path)
    state = load_state(next(tmp_path.iterdir()) / "state.pt", torch.device("cpu"))["method"]
    moved = {
        name: not torch.equal(value, state[f"encoder.{name}"])
        for name, value in encoder.state_dict().items()
    }
    assert set(moved.values()) == {adaptation == "fcn"}  # weights and running statistics alike


@pytest.mark.parametrize(("layers", "channels"), [("all", [4, 8, 16, 32]), ("last", [32])])
def test_layers(layers, channels, tmp_path):
    make(layers=layers, epochs=1).run(resnet(), dataset(), seed=0, folder=tmp_path)
    state = load_state(tmp_path / "lr-0.1-trial-0" / "state.pt", torch.device("cpu"))["method"]
    found = [x.shape[1] for name, x in state.items() if name.startswith("head") and x.ndim == 4]
    assert found == channels


def test_a_killed_run_goes_on_and_ends_with_the_same_numbers(tmp_path, monkeypatch):
    encoder, data = resnet(), dataset()
    task = make(adaptation="fcn", rates=(1e-3, 1e-2), epochs=1, trials=2)
    expected = task.run(encoder, data, seed=1, folder=tmp_path / "whole")

    def dies(step, steps, line):
        if step >= 4:
            raise InterruptedError

    dying = Options(save_seconds=0.0, log_steps=1, progress=dies)
    monkeypatch.setitem(module, "Options", lambda **given: dying)
    with pytest.raises(InterruptedError):
        task.run(encoder, data, seed=1, folder=tmp_path / "parts")
    monkeypatch.undo()
    found = task.run(encoder, data, seed=1, folder=tmp_path / "parts")
    assert values(found) == values(expected)
    assert found.selected == expected.selected
    runs = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert len(runs) == 3  # two rates, and the chosen one once more
    for run in runs:
        whole, parts = (
            load_state(tmp_path / kind / run / "state.pt", torch.device("cpu"))["method"]
            for kind in ("whole", "parts")
        )
        assert all(torch.equal(whole[name], parts[name]) for name in whole)
    shutil.rmtree(tmp_path / "parts")


def test_the_seed_decides_and_the_test_split_does_not(tmp_path):
    encoder, task = resnet(), make(rates=(1e-4, 1e-1), epochs=2)
    first = task.run(encoder, dataset(), seed=3, folder=tmp_path / "a")
    again = task.run(encoder, dataset(), seed=3, folder=tmp_path / "b")
    assert values(first) == values(again)
    assert np.array_equal(first.scores["miou"].examples, again.scores["miou"].examples)
    assert first.selected == again.selected
    assert first.selected["lr"] == 1e-1
    poison = squares(24, 9)
    poisoned = dataset(test=with_targets(poison, np.full((24, SIZE, SIZE), 2, np.uint8), "poison"))
    other = task.run(encoder, poisoned, seed=3, folder=tmp_path / "c")
    assert other.selected == first.selected
    assert values(other) != values(first)
    another = task.run(encoder, dataset(), seed=4, folder=tmp_path / "d")
    assert values(another) != values(first)


class Files(Split):
    """Images of several sizes, as they come from files."""

    def __init__(self, n, seed):
        random = np.random.default_rng(seed)
        self.shapes = [(int(h), int(w)) for h, w in random.integers(17, 30, (n, 2))]
        self.masks = [random.integers(0, 3, shape).astype(np.uint8) for shape in self.shapes]
        self.hash = f"files {seed}"

    def __len__(self):
        return len(self.masks)

    def __getitem__(self, index):
        masks = [self.masks[i] for i in index.tolist()]
        images = [torch.from_numpy(mask * 100).expand(3, -1, -1).clone() for mask in masks]
        return Batch(index, images, target=masks)


def test_images_of_several_sizes_are_scored_at_their_own(tmp_path, monkeypatch):
    test = Files(5, 2)
    data = dataset(train=Files(10, 0), validation=Files(4, 1), test=test)
    counted = []
    scores = module["_scores"]
    monkeypatch.setitem(module, "_scores", lambda m, names: counted.append(m) or scores(m, names))
    make(epochs=1).run(resnet(), data, seed=0, folder=tmp_path)
    assert counted[0].sum((2, 3)).tolist() == [[h * w for h, w in test.shapes]]


def test_a_mask_of_another_size_is_refused(tmp_path):
    wrong = with_targets(squares(48, 0), np.zeros((48, SIZE, SIZE + 1), np.uint8), "wrong")
    with pytest.raises(ValueError, match=r"one size expected, found \(16, 16\) and \(16, 17\)"):
        make().run(resnet(), dataset(train=wrong), seed=0, folder=tmp_path)


def test_other_sizes(tmp_path):
    for encoder in (tiny_resnet, tiny_vit):
        torch.manual_seed(0)
        task = make(size=32, epochs=1)
        result = task.run(encoder().eval(), dataset(), seed=0, folder=tmp_path / encoder.__name__)
        assert result.selected["size"] == 32


def test_what_does_not_apply(tmp_path):
    with pytest.raises(NotApplicable, match=r"rbm.* has no feature maps"):
        make().run(tiny_rbm().eval(), dataset(), seed=0, folder=tmp_path)
    with pytest.raises(NotApplicable, match=r"bert.* takes no images"):
        make().run(tiny_bert().eval(), dataset(), seed=0, folder=tmp_path)


def test_the_rates_go_with_what_is_trained():
    cls = registry.task("segmentation")
    assert cls().rates == (1e-3, 1e-2, 1e-1)
    assert cls(adaptation="fcn").rates == (1e-4, 1e-3, 1e-2)


def test_wrong_settings():
    with pytest.raises(UserError, match="adaptation 'fnc'; did you mean 'fcn'"):
        make(adaptation="fnc")
    with pytest.raises(UserError, match="layers 'first'"):
        make(layers="first")
    for wrong in ({"rates": (0.0,)}, {"size": -1}, {"epochs": 0}, {"trials": 0}):
        with pytest.raises(UserError, match="rates > 0, size ≥ 0, epochs ≥ 1"):
            make(**wrong)
    with pytest.raises(UserError, match="no setting 'rate'; did you mean 'rates'"):
        registry.settings(registry.task("segmentation"), {"rate": 1.0})


def test_targets_survive_the_taking_of_examples():
    split = squares(12, 0)
    taken = replace(dataset(), splits={"train": split.take(np.array([5, 3]))})["train"]
    both = split[torch.tensor([5, 3])], taken[torch.arange(2)]
    assert all(np.array_equal(a, b) for a, b in zip(*(x.target for x in both), strict=True))

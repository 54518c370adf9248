"""What the doctor says of checkpoints whose state is known."""

import json

import numpy as np
import pytest
import torch

from sslbench import doctor
from sslbench.checkpoint import load_encoder
from sslbench.data import load
from sslbench.doctor import Diagnosis, examine
from sslbench.errors import UserError
from sslbench.external.request import Request
from sslbench.features import features
from sslbench.geometry import rankme
from sslbench.grid.plan import pretraining
from sslbench.neighbors import knn_accuracy
from sslbench.pretrain import train
from tests.test_cli import sslbench

ENCODER = {"name": "resnet18", "width": 8, "image_size": 8, "stem": "conv3"}
COLOURS = {"image_size": 8, "crop": 1.0}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def checkpoint(folder, method, epochs):
    given = {"recipe": {"batch_size": 256, "lr": 0.1}} if epochs else {}
    run = pretraining(method, "digits", ENCODER, given=given, epochs=epochs or None, seed=3)
    built = run.build()
    train(built, folder, epochs=epochs, seed=3, about=run.about(built))
    return folder


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("good"), "supervised", 6)


@pytest.fixture(scope="module")
def weights(good):
    """Its weights as somebody else would save them."""
    return load_encoder(good)[0].state_dict()


def diagnosis(path, dataset="digits", **request) -> Diagnosis:
    found = examine(str(path), Request(**request), dataset, 1, lambda text: None)
    json.dumps(found.plain())
    return found


def level(found: Diagnosis, name: str) -> str:
    return next(check.level for check in found.checks if check.name == name)


def text(found: Diagnosis, name: str) -> str:
    return next(check.text for check in found.checks if check.name == name)


def external(tmp_path, weights, **more) -> Diagnosis:
    path = tmp_path / "model.pth"
    torch.save(weights, path)
    return diagnosis(path, encoder=ENCODER, preprocess=COLOURS, **more)


def test_a_good_checkpoint_is_healthy(good, monkeypatch):
    monkeypatch.setattr(doctor, "EARLY", 0.0)  # all of the sample, whatever its first half says
    found = diagnosis(good)
    assert found.healthy
    assert {check.level for check in found.checks} == {"ok"}
    data = load("digits")
    encoder = load_encoder(good)[0]
    rng = np.random.default_rng(0)
    index = [np.sort(rng.permutation(len(data["train"]))[:1000])]
    index += [np.sort(np.random.default_rng(0).permutation(len(data["validation"]))[:500])]
    splits = [data[n].take(i) for n, i in zip(("train", "validation"), index, strict=True)]
    (bank,), (queries,) = (features(encoder, s, cache=False).values() for s in splits)
    accuracy = knn_accuracy(bank, splits[0].labels, queries, splits[1].labels)
    assert found.numbers["knn"] == accuracy > 0.8
    assert found.numbers["rankme"] == pytest.approx(rankme(torch.from_numpy(bank)))
    assert found.numbers["low"] > 0
    assert found.numbers["n_compared"] == [1000, 180]
    assert f"kNN (k = 20) {accuracy:.3f}, its own initialisation" in text(found, "signal")
    of = f"{len(splits[0]):,} of {len(data['train']):,} train and {len(splits[1]):,} of"
    assert of in found.facts["data"]


def test_half_of_the_sample_is_enough_where_it_tells_the_encoder_from_its_initialisation(
    good, monkeypatch
):
    monkeypatch.setattr(doctor, "EARLY", 1.0)
    found = diagnosis(good)
    encoder = load_encoder(good)[0]
    splits = [doctor._sample(load("digits"), *of) for of in (("train", 1000), ("validation", 500))]
    splits = [s.take(np.random.default_rng(0).permutation(len(s))[: len(s) // 2]) for s in splits]
    assert found.numbers["n_compared"] == [len(split) for split in splits] == [500, 90]
    torch.manual_seed(0)
    accuracies = []
    for one in (encoder, encoder.variant()):
        (bank,), (queries,) = (features(one, split, cache=False).values() for split in splits)
        accuracies.append(knn_accuracy(bank, splits[0].labels, queries, splits[1].labels))
    mine, baseline = accuracies
    assert (found.numbers["knn_compared"], found.numbers["knn_baseline"]) == (mine, baseline)
    assert found.numbers["difference"] == pytest.approx(mine - baseline)
    assert text(found, "signal").startswith(
        f"kNN (k = 20) {found.numbers['knn']:.3f}; from 500 of the train examples, on 90: "
        f"{mine:.3f}, its own initialisation {baseline:.3f}: "
    )


def test_an_untrained_checkpoint_is_called_out(tmp_path):
    found = diagnosis(checkpoint(tmp_path / "run", "untrained", 0))
    assert not found.healthy
    assert level(found, "signal") == "problem"
    assert text(found, "signal").endswith("no better than its own initialisation")
    compared, of = found.numbers["n_compared"], ("n_train", "n_validation")
    assert compared == [found.numbers[name] for name in of]  # a half did not tell them apart
    assert found.numbers["knn_compared"] == found.numbers["knn"]


def test_what_did_not_load_is_shown_with_what_did(tmp_path, weights):
    assert external(tmp_path, weights).healthy
    cut = {n: v for n, v in weights.items() if not n.startswith("layer4.1.conv2")}
    found = external(tmp_path, cut)
    assert level(found, "loading") == "problem"
    shown = text(found, "loading")
    assert f"{len(weights) - 1} of {len(weights)} weights found by name and shape" in shown
    assert "missing: layer4.1.conv2.weight" in shown
    found = external(tmp_path, cut, allow_missing=True)
    assert level(found, "loading") == "warning"
    assert "layer4.1.conv2.weight: they keep their initialisation" in text(found, "loading")
    with pytest.raises(UserError, match="none of the weights"):
        external(tmp_path, {"fc.weight": torch.ones(2, 2)})


def test_broken_weights_are_named(tmp_path, weights):
    broken = {**weights, "layer4.1.bn2.bias": weights["layer4.1.bn2.bias"] * torch.nan}
    found = external(tmp_path, broken)
    assert level(found, "weights") == "problem"
    assert text(found, "weights").startswith("not finite in 1 of")
    assert level(found, "features") == "problem"
    assert "not finite" in text(found, "features")


def test_features_that_say_nothing_are_called_out(tmp_path, weights):
    silent = {n: v * 0 if n.startswith("layer4") else v for n, v in weights.items()}
    found = external(tmp_path, silent)
    assert (level(found, "features"), level(found, "signal")) == ("problem", "problem")
    assert text(found, "features") == "the same for every example"
    half = {n: v.clone() for n, v in weights.items()}
    for name in ("layer4.0.bn2", "layer4.0.downsample.1", "layer4.1.bn2"):
        for kind in ("weight", "bias"):
            half[f"{name}.{kind}"][:40] = 0
    found = external(tmp_path, half)
    assert level(found, "features") == "warning"
    assert "40 of 64 dimensions constant" in text(found, "features")
    assert found.numbers["constant_dimensions"] == 40


SOURCE = """
import torch

class Model(torch.nn.Module):
    def forward(self, images):
        return {}

def load():
    return Model()
"""


@pytest.mark.parametrize(
    ("result", "determinism", "signal"),
    [
        ("images.flatten(1)", "ok", "problem"),
        ("images.flatten(1) + torch.rand(())", "problem", "problem"),
        ("images.flatten(1) - images.flatten(1).mean(0)", "problem", "problem"),
    ],
)
def test_a_model_that_cannot_be_made_again_is_compared_with_the_images(
    result, determinism, signal, tmp_path
):
    path = tmp_path / "model.py"
    path.write_text(SOURCE.format(result))
    found = diagnosis(path, preprocess=COLOURS, trust_code=True)
    assert found.numbers["baseline"] == "the images at 8 pixels"
    assert (level(found, "determinism"), level(found, "signal")) == (determinism, signal)


def test_the_command_prints_it_and_its_status_says_whether_all_is_well(good, weights, tmp_path):
    empty = {"SSLBENCH_CACHE": str(tmp_path / "cache")}
    status, out, error = sslbench("doctor", good, "--cpus", 1, **empty)
    assert (status, error) == (0, "")
    assert "kNN (k = 20)" in out
    torch.save({"state_dict": weights, "arch": "?"}, tmp_path / "model.pth")
    words = ["--encoder", "resnet18(width=8,stem=conv3)", "--preprocess", "image_size=8"]
    words += ["--preprocess", "crop=1"]
    words += ["--json", "--cpus", 1]
    status, out, _ = sslbench("doctor", tmp_path / "model.pth", *words, **empty)
    found = json.loads(out)
    assert (status, found["healthy"], found["matched"]) == (0, True, len(weights))
    assert found["dataset"] == "digits"  # cifar10-mini is not there
    status, out, error = sslbench("doctor", good, "--encoder", "resnet50")
    assert status == 1
    assert "sslbench wrote it" in error


def test_other_data_and_texts_without_data(good, tmp_path):
    with pytest.raises(UserError, match="no dataset 'digit'"):
        diagnosis(good, dataset="digit")
    assert doctor.USUAL["image"][-1] == "digits"

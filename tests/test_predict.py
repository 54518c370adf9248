"""`sslbench predict`: labels ranked for images, as a user meets it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sslbench import __main__, predict
from sslbench.checkpoint import load_encoder, save_encoder
from sslbench.errors import UserError
from tests.conftest import WORDS, tiny_dual, tiny_images, tiny_resnet

LABELS = ["a " + WORDS[9], WORDS[10], "number_3"]
TEMPLATES = ("{}", "{} number 1")
SCALE = 9.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints `softmax`, `sigmoid` and `plain`, and two images."""
    place = tmp_path_factory.mktemp("predict")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLBENCH_CACHE", str(place / "cache"))
        torch.manual_seed(0)
        encoder = tiny_dual()
        with torch.no_grad():
            encoder.log_scale.fill_(np.log(SCALE))
        save_encoder(encoder, place / "softmax", {})
        with torch.no_grad():
            encoder.bias.fill_(-3.0)
        save_encoder(encoder, place / "sigmoid", {})
        save_encoder(tiny_resnet(), place / "plain", {})
        for i, image in enumerate(tiny_images(2).images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{i}.png")
    (place / "text.png").write_text("no image")
    (place / "labels.txt").write_text("\n".join([*LABELS, "", LABELS[0]]) + "\n")
    (place / "latin.txt").write_bytes("café".encode("latin-1"))
    (place / "empty.txt").write_text("\n \n")
    return place


@pytest.fixture(autouse=True)
def _place(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SSLBENCH_CACHE", str(folder / "cache"))


def sslbench(capsys, *words):
    """Standard output of a command; raises SystemExit with the line that it ends with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sslbench", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            __main__.main()
    if end.value.code:
        raise end.value
    return capsys.readouterr().out


def logits(name):
    """(2, 3) from the encoder itself: scale · cosine + bias."""
    encoder, _ = load_encoder(Path(name))
    spoken = [label.replace("_", " ") for label in LABELS]
    with torch.no_grad():
        seen = encoder(tiny_images(2).images / 255)
        rows = []
        for label in spoken:
            each = []
            for template in TEMPLATES:
                ids = encoder.tokenizer([template.replace("{}", label)], 24)
                direction = encoder.text(ids)[0]
                each.append(direction / direction.norm())
            mean = sum(each) / len(each)
            rows.append(mean / mean.norm())
        cosines = seen / seen.norm(dim=1, keepdim=True) @ torch.stack(rows).T
        return SCALE * cosines + encoder.bias


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_probabilities_are_those_of_the_model(name, capsys):
    templates = [word for template in TEMPLATES for word in ("--template", template)]
    out = sslbench(
        capsys, "predict", name, "0.png", "1.png", "--labels", ", ".join(LABELS), "--json",
        *templates,
    )  # fmt: skip
    found, expected = json.loads(out), logits(name)
    shares = expected.softmax(1) if name == "softmax" else expected.sigmoid()
    for i, (row, prediction) in enumerate(zip(shares.tolist(), found, strict=True)):
        assert prediction["image"] == f"{i}.png"
        assert prediction["probability"] == name
        assert prediction["of"] == 3
        assert prediction["scale"] == pytest.approx(SCALE, rel=1e-5)
        assert prediction["bias"] == (0 if name == "softmax" else -3)
        order = sorted(range(3), key=lambda c, row=row: -row[c])
        guesses = prediction["guesses"]
        assert [guess["label"] for guess in guesses] == [LABELS[c] for c in order]
        assert [guess["rank"] for guess in guesses] == [1, 2, 3]
        probabilities = [guess["probability"] for guess in guesses]
        assert probabilities == pytest.approx([row[c] for c in order], rel=1e-4)
    assert sum(shares[0]) == pytest.approx(1) or name == "sigmoid"


def test_lines_say_the_share_and_the_rank_of_each_label(capsys):
    out = sslbench(capsys, "predict", "softmax", "0.png", "--labels-file", "labels.txt", "--top", 2)
    head, *lines = out.splitlines()
    assert head == "0.png: softmax over 3 labels, scale 9.00"
    assert len(lines) == 2
    for rank, line in enumerate(lines, start=1):
        label, share = line.removesuffix(f" %, rank {rank} of 3").strip().rsplit(" ", 1)
        assert label in LABELS
        assert 0 < float(share) < 100
    out = sslbench(capsys, "predict", "sigmoid", "0.png", "--labels", "cat")
    assert out.startswith("0.png: sigmoid of each label by itself, scale 9.00, bias -3.00\n  cat ")


def test_a_line_as_in_the_docs():
    guess = predict.Guess("television studio", 0.902, 1)
    shown = str(predict.Prediction("a.jpg", "softmax", 100.0, 0.0, 397, (guess,)))
    assert shown.splitlines()[1] == "  television studio 90.2 %, rank 1 of 397"


def test_labels_come_from_one_source():
    assert predict.read_labels("cat, dog,,cat", None, None) == ["cat", "dog"]
    assert predict.read_labels(None, Path("labels.txt"), None) == LABELS
    assert predict.read_labels(None, None, "digits") == [str(i) for i in range(10)]
    for given in ((None, None, None), ("a", None, "digits")):
        with pytest.raises(UserError, match="one of --labels, --labels-file, --dataset expected"):
            predict.read_labels(*given)


CAT = ("--labels", "cat")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("none", "0.png", *CAT), "none: no such file or folder"),
        (("plain", "0.png", *CAT), "plain: resnet18(image_size=16, stem=conv3, width=4) has no "),
        (("softmax", "none.png", *CAT), "none.png is missing"),
        (("softmax", "text.png", *CAT), "text.png cannot be read: cannot identify image file"),
        (("softmax", "0.png", "--labels", " ,"), "--labels  ,: no labels in it"),
        (("softmax", "0.png", "--labels-file", "empty.txt"), "--labels-file empty.txt: no labels"),
        (("softmax", "0.png", "--labels-file", "none.txt"), "none.txt: No such file"),
        (("softmax", "0.png", "--labels-file", "latin.txt"), "latin.txt: labels in UTF-8"),
        (("softmax", "0.png", "--dataset", "none"), "no dataset 'none'; allowed: "),
        (("softmax", "0.png"), "one of --labels, --labels-file, --dataset expected, found none"),
        (("softmax", "0.png", *CAT, "--template", "a photo"), "template 'a photo': expected {}"),
    ],
)
def test_wrong_input_is_one_line(words, line, capsys):
    with pytest.raises(SystemExit) as end:
        sslbench(capsys, "predict", *words)
    assert end.value.code.startswith(f"sslbench: {line}")
    assert "\n" not in end.value.code


def test_the_exit_status_of_wrong_input_is_one():
    command = [sys.executable, "-m", "sslbench", "predict", "none", "0.png", *CAT]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "sslbench: none: no such file or folder\n"


def test_help_has_an_example(capsys):
    assert "Example: sslbench predict" in sslbench(capsys, "predict", "--help")

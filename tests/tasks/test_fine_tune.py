"""Fine-tuning: what is trained, what is chosen, and what an interruption changes."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sslbench import finetune, registry
from sslbench.data.split import Dataset, Texts
from sslbench.encoder import build
from sslbench.errors import NotApplicable, UserError
from sslbench.method import Recipe
from sslbench.optim import parameter_groups
from sslbench.pretrain import Options
from tests.conftest import tiny_bert, tiny_images, tiny_resnet, tiny_vit
from tests.tasks.test_conformance import values


def sentences(n, seed):
    """Texts whose class shows in the order of two words, which no average of words can tell."""
    random = np.random.default_rng(seed)
    labels = random.integers(2, size=n)
    texts = [" ".join(("bana", "rito")[:: 1 if y else -1]) for y in labels]
    return Texts(texts, labels)


def texts():
    splits = {"train": sentences(64, 0), "validation": sentences(32, 1), "test": sentences(48, 2)}
    return Dataset("order", "text", ("label",), 2, ("ab", "ba"), "top1", 0.5, splits)


def images():
    splits = {"train": tiny_images(64), "validation": tiny_images(32), "test": tiny_images(40)}
    return Dataset("tiny", "image", ("label",), 4, tuple("abcd"), "top1", 0.25, splits)


def make(**settings):
    return registry.task("fine_tune")(**{"rates": (1e-6, 3e-3), "epochs": 6, **settings})


def test_all_weights_learn_what_a_frozen_encoder_does_not_show(tmp_path):
    torch.manual_seed(0)
    result = make().run(tiny_bert().eval(), texts(), seed=0, folder=tmp_path)
    assert result.scores["top1"].value == 1.0
    assert result.selected["lr"] == 3e-3
    assert result.selected["validation"]["1e-06"] < result.selected["validation"]["0.003"]


def test_images_too(tmp_path):
    torch.manual_seed(0)
    result = make(batch_size=16).run(tiny_resnet().eval(), images(), seed=0, folder=tmp_path)
    assert result.scores["top1"].value > 0.5


def test_a_killed_run_goes_on_and_ends_with_the_same_numbers(tmp_path, monkeypatch):
    torch.manual_seed(0)
    encoder = tiny_bert().eval()
    expected = make().run(encoder, texts(), seed=1, folder=tmp_path / "whole")

    def dies(step, steps, line):
        if step >= 8:
            raise InterruptedError

    dying = Options(save_seconds=0.0, log_steps=1, progress=dies)
    monkeypatch.setattr(finetune, "Options", lambda **given: dying)
    with pytest.raises(InterruptedError):
        make().run(encoder, texts(), seed=1, folder=tmp_path / "parts")
    monkeypatch.undo()
    found = make().run(encoder, texts(), seed=1, folder=tmp_path / "parts")
    assert values(found) == values(expected)
    assert found.selected == expected.selected
    shutil.rmtree(tmp_path / "parts")


def test_what_does_not_apply(tmp_path):
    with pytest.raises(NotApplicable, match=r"resnet18.* needs images"):
        make().run(tiny_resnet(), texts(), seed=0, folder=tmp_path)
    several = {name: split.map(lambda b: b, "same") for name, split in images().splits.items()}
    for split in several.values():
        split.labels = np.eye(4, dtype=bool)[split.labels]
    data = replace(images(), splits=several)
    with pytest.raises(NotApplicable, match="one label per example needed"):
        make().run(tiny_resnet(), data, seed=0, folder=tmp_path)


def test_the_state_of_the_best_epoch_is_scored(tmp_path, monkeypatch):
    torch.manual_seed(0)
    states, scores = [], iter([0.1, 0.5, 0.9, 0.5, 0.9, 0.2])  # on validation, by epoch

    def judge(labels, found):
        return {"top1": np.array([next(scores)])}

    predict = finetune.Classifier.predict

    def watched(method, split):
        states.append(method.classifier.weight.clone())
        return predict(method, split)

    monkeypatch.setattr(finetune, "correct", judge)
    monkeypatch.setattr(finetune.Classifier, "predict", watched)
    made = make(rates=(0.01,), epochs=6, batch_size=32)
    result = made.run(tiny_resnet().eval(), images(), seed=0, folder=tmp_path)
    assert result.selected["epoch"] == 3  # the first among equals
    assert result.selected["validation"] == {"0.01": 0.9}
    assert len(states) == 7
    same = [torch.equal(states[-1], state) for state in states[:-1]]
    assert same == [epoch == 3 for epoch in range(1, 7)]


@pytest.mark.parametrize(
    ("make_encoder", "expected"),
    [
        (tiny_resnet, [["conv1", "bn1"], ["layer1"], ["layer2"], ["layer3"], ["layer4"]]),
        (
            tiny_vit,
            [["model.patch_embed"], ["model.blocks.0"], ["model.blocks.1", "model.norm"]],
        ),
    ],
)
def test_a_norm_belongs_to_the_stage_before_it(make_encoder, expected):
    assert finetune.parts_by_stage(make_encoder()) == expected


def test_rates_fall_from_stage_to_stage():
    method = classifier(tiny_vit())
    method.recipe = replace(method.recipe, groups=finetune.layer_rates(method.encoder, 0.5))
    factors = {
        name: group["factor"]
        for group in parameter_groups(method, method.recipe)
        for name in group["names"]
    }
    assert factors["classifier.weight"] == 1
    assert factors["encoder.model.norm.weight"] == 0.5
    assert factors["encoder.model.blocks.1.attn.qkv.weight"] == 0.5
    assert factors["encoder.model.blocks.0.mlp.fc1.bias"] == 0.25
    for name in ("patch_embed.proj.weight", "pos_embed", "cls_token"):
        assert factors[f"encoder.model.{name}"] == 0.125
    assert finetune.layer_rates(method.encoder, 1.0) == {}


def test_the_tenth_block_is_not_taken_for_the_first():
    encoder = build(
        {
            "name": "vit_tiny_patch16_224",
            "image_size": 16,
            "mean": [0.5] * 3,
            "std": [0.25] * 3,
            "patch_size": 4,
            "embed_dim": 16,
            "depth": 11,
            "num_heads": 2,
        }
    )
    method = classifier(encoder)
    recipe = replace(method.recipe, groups=finetune.layer_rates(encoder, 0.5))
    for group in parameter_groups(method, recipe):
        for name in group["names"]:
            if name.startswith("encoder.model.blocks."):
                assert group["factor"] == 0.5 ** (11 - int(name.split(".")[3]))


def classifier(encoder, stages=0):
    return finetune.Classifier(encoder, images(), stages, Path("nowhere"))


def test_only_the_last_stages_are_trained_and_their_statistics(tmp_path):
    torch.manual_seed(0)
    encoder = tiny_resnet().eval()
    recipe = Recipe("adamw", lr=1e-3, batch_size=16)
    method, _, _ = finetune.tune(
        encoder, images(), recipe, epochs=1, stages=2, seed=0, folder=tmp_path
    )
    before, after = encoder.state_dict(), method.encoder.state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"layer3", "layer4"}
    assert not torch.equal(before["layer3.0.bn1.running_mean"], after["layer3.0.bn1.running_mean"])


def test_a_share_of_the_labels(tmp_path):
    torch.manual_seed(0)
    given = make(rates=(1e-3,), epochs=1, share=0.25, batch_size=8)
    result = given.run(tiny_resnet().eval(), images(), seed=0, folder=tmp_path)
    assert result.selected["train_examples"] == 16


def test_more_stages_than_there_are(tmp_path):
    with pytest.raises(NotApplicable, match="5 stages, 6 are to be trained"):
        make(stages=6).run(tiny_resnet().eval(), images(), seed=0, folder=tmp_path)


def test_wrong_settings():
    for wrong in ({"rates": (0.0,)}, {"epochs": -1}, {"batch_size": 0}, {"stages": -1}):
        with pytest.raises(UserError, match="rates > 0, batch_size ≥ 1"):
            make(**wrong)
    for wrong in ({"share": 0.0}, {"share": 1.5}, {"layer_decay": 0.0}):
        with pytest.raises(UserError, match=r"share, layer_decay in \(0, 1\] expected"):
            make(**wrong)
    with pytest.raises(UserError, match="no setting 'rate'; did you mean 'rates'"):
        registry.settings(registry.task("fine_tune"), {"rate": 1.0})

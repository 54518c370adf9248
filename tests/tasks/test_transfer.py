"""Transfer: each of its numbers is that of the protocol it takes it from."""

import numpy as np
import pytest
import torch

from sslbench import registry
from sslbench.classification import reduced
from sslbench.errors import NotApplicable, UserError
from sslbench.tasks.transfer import Transfer
from tests.conftest import tiny_resnet
from tests.tasks.conftest import Flat, balanced, dataset
from tests.tasks.test_fine_tune import images

QUICK = {"rates": (1e-3, 3e-3), "epochs": 2, "few_epochs": 3, "few": 0.5, "batch_size": 16}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        torch.manual_seed(0)
        encoder = tiny_resnet().eval()
        folder = tmp_path_factory.mktemp("transfer")
        return encoder, Transfer(**QUICK).run(encoder, images(), seed=1, folder=folder)


def test_every_cell_of_the_table_is_there(outcome):
    _, result = outcome
    names = ("linear", "linear_earlier", "tune_last", "tune_all")
    cells = {f"top1_{amount}_{name}" for amount in ("few", "many") for name in names}
    headline = {"top1", "mean_per_class", "top1_few", "mean_per_class_few"}
    assert set(result.scores) == cells | headline
    assert result.selected["few"]["train_examples"] == 32
    assert result.selected["many"]["train_examples"] == 64


def test_the_adaptation_is_the_best_on_validation(outcome):
    _, result = outcome
    for amount, headline in {"many": "top1", "few": "top1_few"}.items():
        found = result.selected[amount]
        validation = {n: v["top1"] for n, v in found.items() if isinstance(v, dict)}
        assert found["adaptation"] == max(validation, key=validation.get)
        own = result.scores[f"top1_{amount}_{found['adaptation']}"]
        assert result.scores[headline].value == own.value


@pytest.mark.parametrize(("amount", "epochs"), [("many", 2), ("few", 3)])
def test_the_cells_are_those_of_fine_tune_and_linear_probe(outcome, amount, epochs, tmp_path):
    encoder, result = outcome
    data = images() if amount == "many" else reduced(images(), 32, 1)
    alone = registry.task("fine_tune")(rates=QUICK["rates"], epochs=epochs, batch_size=16)
    expected = alone.run(encoder, data, seed=1, folder=tmp_path / "all")
    assert result.scores[f"top1_{amount}_tune_all"].value == expected.scores["top1"].value
    assert result.selected[amount]["tune_all"]["lr"] == expected.selected["lr"]
    last = registry.task("fine_tune")(rates=QUICK["rates"], epochs=epochs, batch_size=16, stages=1)
    expected = last.run(encoder, data, seed=1, folder=tmp_path / "last")
    assert result.scores[f"top1_{amount}_tune_last"].value == expected.scores["top1"].value
    probe = registry.task("linear_probe")(layer="all")
    expected = probe.run(encoder, data, seed=1, folder=tmp_path / "probe")
    assert result.scores[f"top1_{amount}_linear"].value == expected.scores["top1"].value
    earlier = {n: v["top1"] for n, v in expected.selected["layers"].items() if n != "stage4.avg"}
    assert result.selected[amount]["linear_earlier"]["layer"] == max(earlier, key=earlier.get)


def test_an_encoder_of_one_layer_has_no_earlier_one(tmp_path):
    class Single(Flat):
        def layers(self, inputs):
            return {"pixels": super().layers(inputs)["pixels"]}

    quick = {**QUICK, "rates": (1e-2,), "epochs": 1, "few_epochs": 1}
    made = Single().eval()
    data = dataset(balanced(train=8, test=8))
    result = Transfer(**quick).run(made, data, seed=0, folder=tmp_path)
    assert not any(name.endswith("linear_earlier") for name in result.scores)


def test_several_labels_are_not_applicable(tmp_path):
    data = dataset(balanced())
    several = {name: split.map(lambda b: b, "same") for name, split in data.splits.items()}
    for split in several.values():
        split.labels = np.eye(5, dtype=bool)[split.labels]
    several = type(data)(**{**data.__dict__, "splits": several})
    with pytest.raises(NotApplicable, match="one label per example"):
        Transfer().run(Flat().eval(), several, seed=0, folder=tmp_path)


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match=r"few in \(0, 1\) expected, found .*1.0"):
        Transfer(few=1.0)
    with pytest.raises(UserError, match="stages, epochs, few_epochs and batch_size ≥ 1"):
        Transfer(stages=0)

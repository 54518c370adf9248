"""An encoder, or its last stages, trained with a linear layer on top; the epoch is chosen."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslbench.checkpoint import load_state, save_state
from sslbench.classification import correct
from sslbench.data.augment import Augmentation
from sslbench.data.split import Batch, Dataset, Split
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable
from sslbench.method import Method, Recipe
from sslbench.pretrain import Options, train
from sslbench.random import Random, mix

BATCH = 256
VIEWS = Augmentation(crop_scale=(0.5, 1.0), jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)


def parts_by_stage(encoder: Encoder) -> list[list[str]]:
    """An encoder's parts in groups from input to output; a norm belongs to what precedes it."""
    found: list[list[str]] = []
    for part in encoder.parts:
        weights = encoder.get_submodule(part).parameters()
        if found and not any(weight.ndim > 1 for weight in weights):
            found[-1].append(part)
        else:
            found.append([part])
    return found


def layer_rates(encoder: Encoder, decay: float) -> dict[str, dict[str, float]]:
    """Recipe groups whose learning rate falls by `decay` from stage to stage towards the input.

    Bao, Dong, Piao, Wei. BEiT. ICLR 2022. arXiv:2106.08254 (appendix H). The linear layer on top
    has factor 1, the last stage `decay`; what belongs to no stage (tokens, positions) counts as the
    first.
    """
    if decay == 1:
        return {}
    groups = parts_by_stage(encoder)
    rates = {"encoder.": {"lr": decay ** len(groups)}}
    for depth, parts in enumerate(reversed(groups), start=1):
        for part in parts:
            if [*encoder.get_submodule(part).parameters()]:
                rates[f"encoder.{part}."] = {"lr": decay**depth}
    return rates


class Classifier(Method):
    """An encoder with a linear layer; after each epoch it is judged, and the best one kept.

    Args:
        encoder: changed in place.
        data: images or texts with labels; the metric is the dataset's main one.
        stages: how many are trained, from the last one on; 0: all weights.
        folder: where the best state so far lies, so that an interrupted run knows it.
    """

    paper = ""
    modality = "any"

    def __init__(self, encoder: Encoder, data: Dataset, stages: int, folder: Path) -> None:
        super().__init__(encoder.requires_grad_(stages == 0), data["train"])
        groups = parts_by_stage(encoder)
        if stages > len(groups):
            raise NotApplicable(
                f"{encoder.label} has {len(groups)} stages, {stages} are to be trained"
            )
        parts = groups[len(groups) - stages :] if stages else []
        self.trained = [encoder.get_submodule(part) for group in parts for part in group]
        for module in self.trained:
            module.requires_grad_(True)
        self.classifier = nn.Linear(encoder.dim, data.classes).to(encoder.device)
        self.held_out, self.best = data["validation"], folder / "best.pt"
        self.metric = data.metric

    def train(self, mode: bool = True) -> Self:
        """Training mode for what is trained; the norms of the rest keep their statistics."""
        super().train(mode)
        if self.trained:
            self.encoder.eval()
            for module in self.trained:
                module.train(mode)
        return self

    def before_epoch(self, epoch: int) -> None:
        """Judge what the epochs so far have made."""
        if epoch:
            self.keep(epoch)

    def views(self, batch: Batch, random: Random) -> tuple[object, Tensor]:
        """Inputs, of images a random crop, and labels (B,)."""
        if self.encoder.image_size is not None:
            return VIEWS(batch, self.encoder.image_size, random), batch.target
        return self.encoder.preprocess(batch), batch.target

    def loss(self, views: tuple[object, Tensor], progress: float) -> Tensor:
        """−(1/B) Σ log softmax(W f(x))_y."""
        inputs, labels = views
        return F.cross_entropy(self.classifier(self.encoder(inputs)), labels)

    def keep(self, epoch: int) -> None:
        """Write the state if it is better on validation than the best one before it."""
        training = self.training
        labels = self.held_out.labels
        assert labels is not None
        right = correct(labels, self.predict(self.held_out))[self.metric]
        score = float(right.mean())
        if not self.best.exists() or score > load_state(self.best, torch.device("cpu"))["score"]:
            state = {"score": score, "epoch": epoch, "method": self.state_dict()}
            save_state(self.best, state)
        self.train(training)

    @torch.inference_mode()
    def predict(self, split: Split) -> np.ndarray:
        """The predicted labels (n,)."""
        self.eval()
        found = []
        for index in torch.arange(len(split)).split(BATCH):
            inputs = self.encoder.preprocess(split[index].to(self.encoder.device))
            found.append(self.classifier(self.encoder(inputs)).argmax(1).cpu().numpy())
        return np.concatenate(found)


def tune(
    encoder: Encoder,
    data: Dataset,
    recipe: Recipe,
    *,
    epochs: int,
    stages: int = 0,
    decay: float = 1.0,
    seed: int,
    folder: Path,
) -> tuple[Classifier, float, int]:
    """Train a copy of an encoder, or take what was trained before from the folder.

    Killed at any moment, it goes on where it was.

    Args:
        encoder: stays as it is.
        data: trained on its train split; its validation split chooses the epoch.
        recipe: its learning rate is that of the linear layer.
        epochs: at most.
        stages: how many are trained, from the last one on; 0: all weights.
        decay: of the learning rate from stage to stage (`layer_rates`).
        seed: of the linear layer and of the order.
        folder: of this run alone.

    Returns:
        The classifier of the best epoch in eval mode, its score on validation, and the epoch.

    Raises:
        NotApplicable: the encoder has fewer stages.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(seed, 1))
        method = Classifier(copy.deepcopy(encoder), data, stages, folder)
    method.recipe = replace(recipe, groups=layer_rates(method.encoder, decay))
    train(method, folder, epochs=epochs, seed=seed, options=Options(device=str(encoder.device)))
    method.load_state_dict(load_state(folder / "state.pt", encoder.device)["method"])
    method.keep(epochs)
    best = load_state(folder / "best.pt", encoder.device)
    method.load_state_dict(best["method"])
    return method.eval(), best["score"], best["epoch"]

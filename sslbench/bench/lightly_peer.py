"""lightly's side of `sslbench bench lightly`: a program that runs in lightly's environment.

It imports nothing of sslbench. Models and loops are those of lightly's examples
(examples/pytorch/simclr.py and byol.py), with the small ResNet-18 of the measurement; workers stay
from one epoch to the next, which the examples forgo.
"""

import copy
import json
import os
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from lightly.loss import NegativeCosineSimilarity, NTXentLoss
from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead, SimCLRProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms.byol_transform import (
    BYOLTransform,
    BYOLView1Transform,
    BYOLView2Transform,
)
from lightly.transforms.simclr_transform import SimCLRTransform
from lightly.utils.benchmarking import knn_predict
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models.resnet import BasicBlock

SIZE = 32


def resnet(width: int) -> nn.Module:
    """ResNet-18 of torchvision, narrower, with a 3×3 stem of stride 2, without classifier."""
    model = torchvision.models.resnet18()
    model.conv1 = nn.Conv2d(3, width, 3, 2, 1, bias=False)
    model.bn1 = nn.BatchNorm2d(width)
    model.maxpool = nn.Identity()
    model.fc = nn.Identity()
    model.inplanes = width
    for number in range(4):
        layer = model._make_layer(BasicBlock, width * 2**number, 2, stride=2 if number else 1)
        setattr(model, f"layer{number + 1}", layer)
    return model  # type: ignore[no-any-return]


def load(module: nn.Module, weights: dict[str, Tensor], prefix: str) -> None:
    """Give a module all its weights, which sslbench keeps under `prefix`."""
    module.load_state_dict({name: weights[prefix + name] for name in module.state_dict()})


class SimCLR(nn.Module):
    """Backbone, head and loss.

    Args:
        sizes: "width" of the backbone, "hidden" and "dim" of the head.
        weights: of sslbench's method.
    """

    def __init__(self, sizes: dict[str, int], weights: dict[str, Tensor]) -> None:
        super().__init__()
        width, hidden, dim = sizes["width"], sizes["hidden"], sizes["dim"]
        self.backbone = resnet(width)
        self.projection_head = SimCLRProjectionHead(8 * width, hidden, dim, batch_norm=False)
        self.criterion = NTXentLoss(temperature=0.5)
        load(self.backbone, weights, "encoder.")
        load(self.projection_head.layers, weights, "projector.")

    def before_step(self) -> None:
        """Nothing."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """The loss of two views."""
        a, b = (self.projection_head(self.backbone(view)) for view in (first, second))
        return self.criterion(a, b)  # type: ignore[no-any-return]


class BYOL(nn.Module):
    """Student, teacher and loss; arguments as for `SimCLR`."""

    def __init__(self, sizes: dict[str, int], weights: dict[str, Tensor]) -> None:
        super().__init__()
        width, hidden, dim = sizes["width"], sizes["hidden"], sizes["dim"]
        self.backbone = resnet(width)
        self.projection_head = BYOLProjectionHead(8 * width, hidden, dim)
        self.prediction_head = BYOLPredictionHead(dim, hidden, dim)
        load(self.backbone, weights, "encoder.")
        load(self.projection_head.layers, weights, "projector.")
        load(self.prediction_head.layers, weights, "predictor.")
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)
        self.criterion = NegativeCosineSimilarity()

    def before_step(self) -> None:
        """The teacher follows."""
        update_momentum(self.backbone, self.backbone_momentum, m=0.996)
        update_momentum(self.projection_head, self.projection_head_momentum, m=0.996)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """The loss of two views."""
        p0, p1 = (
            self.prediction_head(self.projection_head(self.backbone(view)))
            for view in (first, second)
        )
        z0, z1 = (
            self.projection_head_momentum(self.backbone_momentum(view)).detach()
            for view in (first, second)
        )
        return 0.5 * (self.criterion(p0, z1) + self.criterion(p1, z0))  # type: ignore[no-any-return]


METHODS: dict[str, Any] = {
    "simclr": (SimCLR, lambda: SimCLRTransform(SIZE, cj_strength=0.5, gaussian_blur=0.0)),
    "byol": (
        BYOL,
        lambda: BYOLTransform(
            BYOLView1Transform(SIZE, gaussian_blur=0.0), BYOLView2Transform(SIZE, gaussian_blur=0.0)
        ),
    ),
}


class Images(Dataset[tuple[Any, int]]):
    """An array of images in memory, of which PIL images are made as torchvision's CIFAR10 does.

    Args:
        images: (n, H, W, 3) uint8.
        transform: of a PIL image.
    """

    def __init__(self, images: np.ndarray, transform: Any) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.images[index])), 0


class Program:
    """What can be asked for: the methods, by name."""

    model: SimCLR | BYOL
    optimizer: torch.optim.Optimizer
    loader: DataLoader[tuple[Any, int]]

    def about(self) -> dict[str, str]:
        """Which releases it runs."""
        return {"lightly": version("lightly"), "torch": torch.__version__}

    def prepare(
        self, method: str, folder: str, sizes: dict[str, int], batch: int, workers: int
    ) -> None:
        """A method with the weights and images in `folder`."""
        model, transform = METHODS[method]
        self.model = model(sizes, torch.load(Path(folder) / "weights.pt"))
        self.optimizer = torch.optim.SGD(
            [weight for weight in self.model.parameters() if weight.requires_grad], lr=0.06
        )
        self.loader = DataLoader(
            Images(np.load(Path(folder) / "images.npy"), transform()),
            batch_size=batch,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )

    def features(self, folder: str) -> None:
        """Write what the backbone makes of the views (B, 3, S, S) in `folder`."""
        views = torch.from_numpy(np.load(Path(folder) / "views.npy"))
        with torch.no_grad():
            found = copy.deepcopy(self.model).backbone(views)
        np.save(Path(folder) / "features.npy", found.numpy())

    def loss(self, folder: str) -> float:
        """Of the heads, for the features of two views (2, B, D) in `folder`."""
        first, second = torch.from_numpy(np.load(Path(folder) / "pairs.npy"))
        heads = copy.deepcopy(self.model)
        heads.backbone = heads.backbone_momentum = nn.Identity()
        with torch.no_grad():
            return float(heads(first, second))

    def epoch(self, threads: int) -> float:
        """Train for one with so many threads, beside the workers; its seconds."""
        torch.set_num_threads(threads)
        begun, total = time.perf_counter(), torch.zeros(())
        for (first, second), _ in self.loader:
            self.model.before_step()
            loss = self.model(first, second)
            total += loss.detach()
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        if not torch.isfinite(total):
            raise FloatingPointError(f"the loss is {total.item()}")
        return time.perf_counter() - begun

    def knn(
        self, folder: str, classes: int, k: int, temperature: float, batch: int, threads: int
    ) -> float:
        """Write the classes of the queries in `folder`, most probable first; seconds.

        Normalised and in batches, as lightly's KNNClassifier calls `knn_predict`.
        """
        torch.set_num_threads(threads)
        names = ("bank", "labels", "queries")
        bank, labels, queries = (
            torch.from_numpy(np.load(Path(folder) / f"{name}.npy")) for name in names
        )

        def predicted() -> Iterator[Tensor]:
            columns = F.normalize(bank, dim=1).t().contiguous()
            for part in queries.split(batch):
                feature = F.normalize(part, dim=1)
                yield knn_predict(feature, columns, labels, classes, k, temperature)

        begun = time.perf_counter()
        found = torch.cat(list(predicted()))
        seconds = time.perf_counter() - begun
        np.save(Path(folder) / "predicted.npy", found.numpy())
        return seconds


def main() -> None:
    """Answer each line of standard input; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    program = Program()
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(program, request.pop("do"))(**request)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()

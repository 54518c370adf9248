"""Zero-shot classification: an image gets the class whose name, in a prompt, is nearest to it.

Radford, Kim, Hallacy et al. Learning Transferable Visual Models From Natural Language Supervision.
ICML 2021. arXiv:2103.00020 (section 3.1.2; 3.1.4 for the ensemble of prompts).

Each template's embedding of a class is normalised, their mean is normalised again, and an image's
logits are 100 times its cosines with the classes: the factor moves no score, and of equally near
classes the one with the lower number wins. Only the test split is read. Nothing is chosen.
"""

from pathlib import Path

import numpy as np
import torch

from sslbench.classification import examples, per_class
from sslbench.data.split import Dataset
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable
from sslbench.neighbors import nearest
from sslbench.prompts import TEMPLATES, classifier, prompts
from sslbench.task import Result, Score, Task


class ZeroShot(Task):
    """Classification of images by the names of the classes alone.

    Args:
        templates: prompts, with {} in the place of the name.
    """

    paper = "arXiv:2103.00020"
    metric = "top1"
    version = 1
    modality = "image_text"
    target = "label"

    def __init__(self, *, templates: tuple[str, ...] = TEMPLATES) -> None:
        prompts([], templates)  # refuses what is no template
        self.templates = templates

    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Classify the test split."""
        if not data.class_names:
            raise NotApplicable(f"{data.name}: its classes have no names")
        test = examples(encoder, data, "test")
        classes = classifier(encoder, data.class_names, self.templates)
        _, order = nearest(classes, torch.tensor(test.features), 5)  # (n, 5)
        hits = order.numpy() == test.labels[:, None]
        correct = hits[:, 0].astype(np.float64)
        scores = {
            "top1": Score.mean(correct),
            "mean_per_class": Score.mean(per_class(correct, test.labels)),
        }
        if data.classes > 5:
            scores["top5"] = Score.mean(hits.any(1).astype(np.float64))
        return Result(scores)

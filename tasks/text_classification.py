"""Text classification: logistic regression on frozen features of texts.

The protocol of `linear_probe`, with the scores that text datasets are judged by. Classifying frozen
sentence embeddings: Conneau, Kiela. SentEval: An Evaluation Toolkit for Universal Sentence
Representations. LREC 2018. arXiv:1803.05449, which sweeps fewer penalties and does not fit again on
train and validation.

C is chosen on validation by the dataset's main metric. `macro_f1` is the mean over classes of F1,
`mcc` Matthews' correlation in [−1, 1]; what each example contributes to them is found by leaving it
out. Texts are cut after as many tokens as the encoder takes.
"""

from pathlib import Path

from sslbench.classification import accuracies, reduced
from sslbench.data.split import Dataset
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable, UserError
from sslbench.features import features
from sslbench.probe import labels, probe
from sslbench.task import Result, Task


class TextClassification(Task):
    """Linear separability of the classes of texts.

    Args:
        layer: "last", a layer's name, or "all" to report the layer that is best on validation
            besides the last one.
        train_examples: how many to train on, drawn with the seed, with as large a share of
            validation; 0: all.
    """

    paper = "arXiv:1803.05449"
    metric = "top1"
    version = 3
    modality = "text"
    target = "label"

    def __init__(self, *, layer: str = "last", train_examples: int = 0) -> None:
        if train_examples < 0:
            raise UserError(f"train_examples ≥ 0 expected, found {train_examples}")
        self.layer, self.train_examples = layer, train_examples

    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Choose C (and the layer) on validation, fit again, score the test split."""
        if labels(data, "train").ndim != 1:
            raise NotApplicable(f"{data.name}: one label per text needed, it has several")
        return probe(
            lambda split: features(encoder, split, self.layer),
            reduced(data, self.train_examples, seed),
            accuracies,
            data.metric,
            best_layer=self.layer == "all",
        )

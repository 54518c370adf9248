"""Sentence pairs: logistic regression on the frozen features of two texts, encoded apart.

Conneau, Kiela, Schwenk, Barrault, Bordes. Supervised Learning of Universal Sentence Representations
from Natural Language Inference Data. EMNLP 2017. arXiv:1705.02364 (section 3.1: the features u and
v of the two texts, combined as [u, v, |u − v|, u · v]); on frozen features as in Conneau, Kiela.
SentEval. LREC 2018. arXiv:1803.05449.

C is chosen on validation by the dataset's main metric, and the probe is fitted again on train and
validation, as in `text_classification`, which also says what the scores are.

Differs from the papers: SentEval trains a multilayer perceptron on entailment; a linear probe keeps
to what the features themselves say.
"""

from pathlib import Path

from sslbench.classification import accuracies, reduced
from sslbench.data.split import Dataset
from sslbench.encoder import Encoder
from sslbench.errors import UserError
from sslbench.probe import probe
from sslbench.task import Result, Task
from sslbench.text import combined


class SentencePairs(Task):
    """Linear separability of the relations between two texts.

    Args:
        layer: "last", a layer's name, or "all" to report the layer that is best on validation
            besides the last one.
        train_examples: how many to train on, drawn with the seed, with as large a share of
            validation; 0: all.
    """

    paper = "arXiv:1705.02364"
    metric = "top1"
    version = 3
    modality = "text"
    target = "pair"

    def __init__(self, *, layer: str = "last", train_examples: int = 20_000) -> None:
        if train_examples < 0:
            raise UserError(f"train_examples ≥ 0 expected, found {train_examples}")
        self.layer, self.train_examples = layer, train_examples

    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Choose C (and the layer) on validation, fit again, score the test split."""
        return probe(
            lambda split: combined(encoder, split, self.layer),
            reduced(data, self.train_examples, seed),
            accuracies,
            data.metric,
            best_layer=self.layer == "all",
        )

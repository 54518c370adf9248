"""Which of some labels an image–text model finds in an image, and how sure it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from sslbench.backbones.dual import Dual
from sslbench.backbones.open_clip_model import OpenClip
from sslbench.checkpoint import load_encoder
from sslbench.data import load
from sslbench.data.files import ImageFiles
from sslbench.errors import UserError
from sslbench.features import features
from sslbench.prompts import classifier


@dataclass(frozen=True)
class Guess:
    """A label; rank 1 is the most probable."""

    label: str
    probability: float
    rank: int


@dataclass(frozen=True)
class Prediction:
    """The most probable labels of an image, best first.

    Attributes:
        image: path.
        probability: "softmax": shares of 1 over all labels; "sigmoid": each label by itself.
        scale: what the model multiplies cosines by.
        bias: what it adds then; a model that learned one was trained to judge pairs one by one,
            which is when probabilities are sigmoids. One of CLIP's kind keeps the 0 it starts with.
        of: number of labels that were ranked.
        guesses: the first of them.
    """

    image: str
    probability: str
    scale: float
    bias: float
    of: int
    guesses: tuple[Guess, ...]

    def __str__(self) -> str:
        """The image and how it was judged, then a line for each label."""
        kind, bias = f"softmax over {self.of} labels", ""
        if self.probability == "sigmoid":
            kind, bias = "sigmoid of each label by itself", f", bias {self.bias:.2f}"
        lines = [
            f"  {guess.label} {100 * guess.probability:.1f} %, rank {guess.rank} of {self.of}"
            for guess in self.guesses
        ]
        return "\n".join([f"{self.image}: {kind}, scale {self.scale:.2f}{bias}", *lines])


def predict(
    checkpoint: Path,
    images: Sequence[Path],
    labels: Sequence[str],
    templates: Sequence[str],
    top: int,
) -> list[Prediction]:
    """Rank the labels for each image by scale · cosine + bias, both as the model learned them.

    Args:
        checkpoint: folder of an image–text model, of open_clip's too.
        images: image files.
        labels: at least one.
        templates: prompts, see `sslbench.prompts`.
        top: labels to return for each image; all if there are fewer.

    Raises:
        UserError: no checkpoint of such a model, or an image that is missing or cannot be read.
    """
    encoder, _ = load_encoder(checkpoint)
    if not isinstance(encoder, Dual | OpenClip):
        raise UserError(f"{checkpoint}: {encoder.label} has no text encoder, so it knows no labels")
    encoder.to("cuda" if torch.cuda.is_available() else "cpu")
    files = ImageFiles(Path(), [str(path) for path in images], None)
    (seen,) = features(encoder, files, cache=False).values()
    classes = classifier(encoder, labels, templates, cache=False)
    scale, bias = encoder.log_scale.detach().exp().item(), encoder.bias.item()
    kind = "sigmoid" if bias else "softmax"
    logits = scale * F.normalize(torch.tensor(seen), dim=1).double() @ classes.double().T + bias
    shares = logits.sigmoid() if bias else logits.softmax(1)
    order = logits.argsort(dim=1, descending=True, stable=True)[:, :top].tolist()
    return [
        Prediction(
            str(path),
            kind,
            scale,
            bias,
            len(labels),
            tuple(Guess(labels[i], float(share[i]), rank) for rank, i in enumerate(best, start=1)),
        )
        for path, share, best in zip(images, shares, order, strict=True)
    ]


def read_labels(text: str | None, file: Path | None, dataset: str | None) -> list[str]:
    """Labels from exactly one of three sources; each once, in order.

    Args:
        text: labels with commas between them.
        file: one label a line, in UTF-8.
        dataset: name of a dataset whose classes have names.

    Raises:
        UserError: no or several sources, a file that is no text, or no labels.
    """
    given = {"--labels": text, "--labels-file": file, "--dataset": dataset}
    chosen = [name for name, value in given.items() if value is not None]
    if len(chosen) != 1:
        found = " and ".join(chosen) or "none"
        raise UserError(f"one of {', '.join(given)} expected, found {found}")
    if text is not None:
        lines = text.split(",")
    elif file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise UserError(f"{file}: labels in UTF-8 expected, one a line: {error}") from None
    else:
        lines = list(load(dataset or "").class_names)
    labels = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not labels:
        raise UserError(f"{chosen[0]} {given[chosen[0]]}: no labels in it")
    return labels

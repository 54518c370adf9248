"""Geometry of a representation, without labels: rank, spectrum, alignment and uniformity.

All of the last layer's features, on the train split; none of them is good when high for every
method.

- `rankme` in [1, D]: exp of the entropy of the singular values, features not centred. Garrido et
  al. RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by
  Their Rank. ICML 2023. arXiv:2210.02885 (on up to 25,600 images).
- `effective_rank` in [1, D]: exp of the entropy of the covariance's eigenvalues. Roy, Vetterli.
  The Effective Rank: A Measure of Effective Dimensionality. EUSIPCO 2007.
- `alpha`: the eigenvalue of rank j falls like j^−alpha, and `alpha_r2` ≤ 1 says how well that
  describes them. Agrawal et al. α-ReQ: Assessing Representation Quality in Self-Supervised
  Learning by Measuring Eigenspectrum Decay. NeurIPS 2022. The paper gives no range; as in its
  authors' code, least squares in log–log over ranks 4 to 100 with weights 1 / j. Left out where
  fewer than 3 of these eigenvalues are above zero.
- `alignment` in [0, 4]: mean squared distance of two views of an image, features L2-normalised;
  lower is better. `uniformity` in [−8, 0]: log of the mean of exp(−2 · squared distance) over
  pairs of images; lower is better. Wang, Isola. Understanding Contrastive Representation Learning
  through Alignment and Uniformity on the Hypersphere. ICML 2020. arXiv:2005.10242.

- `cka` in [0, 1], with a `reference` only: linear centred kernel alignment with the features that
  another checkpoint has of the same images; 1 where they are equal up to rotation, scale and shift.
  Kornblith, Norouzi, Lee, Hinton. Similarity of Neural Network Representations Revisited. ICML
  2019. arXiv:1905.00414.

Alignment depends on what `augmentation` changes: methods trained with it have an advantage.
"""

from pathlib import Path

import torch
from torch import Tensor

from sslbench.checkpoint import load_encoder
from sslbench.data.augment import Augmentation
from sslbench.data.split import Dataset, Split
from sslbench.encoder import Encoder
from sslbench.errors import UserError
from sslbench.features import features
from sslbench.geometry import alignment, cka, effective_rank, power_law, rankme, uniformity
from sslbench.random import Random
from sslbench.task import Result, Score, Task

PAIR_ROWS = 4_096  # rows between which uniformity is measured
VIEWS = 1_024  # images of which alignment takes two views
TWO_VIEWS = Augmentation()
_BATCH = 128


class Representation(Task):
    """Measures of the features' geometry.

    Args:
        rows: most examples to look at; a random subset if there are more.
        augmentation: of the two views of an image between which alignment is measured.
        reference: folder of the checkpoint to compare with; "" for none. Its weights' hash is kept
            among what was selected.
    """

    paper = "arXiv:2210.02885"
    metric = "rankme"
    version = 1
    modality = "any"
    target = None
    higher_is_better = None

    def __init__(
        self,
        *,
        rows: int = 25_600,
        augmentation: Augmentation = TWO_VIEWS,
        reference: str = "",
    ) -> None:
        if rows < 2:
            raise UserError(f"rows ≥ 2 expected, found {rows}")
        self.rows, self.augmentation, self.reference = rows, augmentation, reference

    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Measure the train split."""
        split = data["train"]
        (last,) = features(encoder, split).values()
        subset = Random(seed, 0, torch.zeros(1), 1).permutation(len(split))[0, : self.rows]
        x = torch.from_numpy(last[subset.numpy()]).double()  # (n, D)
        spectrum = torch.linalg.eigvalsh(torch.cov(x.T).reshape(x.shape[1], -1)).flip(0)
        values = {
            "rankme": (rankme(x), len(x)),
            "effective_rank": (effective_rank(spectrum), len(x)),
            "uniformity": (uniformity(x[:PAIR_ROWS]), min(len(x), PAIR_ROWS)),
        }
        if encoder.image_size is not None:
            views = self._views(encoder, encoder.image_size, split, subset[:VIEWS], seed)
            values["alignment"] = (alignment(*views), len(views[0]))
        if (fit := power_law(spectrum)) is not None:
            values |= {"alpha": (fit[0], len(x)), "alpha_r2": (fit[1], len(x))}
        selected = {}
        if self.reference:
            other, about = load_encoder(Path(self.reference))
            (theirs,) = features(other.to(encoder.device), split).values()
            values["cka"] = (cka(x, torch.from_numpy(theirs[subset.numpy()]).double()), len(x))
            selected["reference"] = about["weights_hash"]
        return Result({name: Score(value, n) for name, (value, n) in values.items()}, selected)

    def chance(self, data: Dataset) -> None:
        """There is none."""

    @torch.inference_mode()
    def _views(
        self, encoder: Encoder, size: int, split: Split, index: Tensor, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Features (n, D) of two views of the images at `index`."""
        pairs, device = [], encoder.device
        for places in torch.arange(len(index)).split(_BATCH):
            batch = split[index[places]].to(device)
            random = Random(seed, 1, places, len(index)).to(device)
            draw = (self.augmentation(batch, size, random) for _ in "ab")
            pairs.append([encoder(view).double().cpu() for view in draw])
        first, second = (torch.cat(side) for side in zip(*pairs, strict=True))
        return first, second

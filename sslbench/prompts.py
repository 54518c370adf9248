"""Class names → a classifier, through prompts and an encoder of captions."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sslbench.captioned import text_encoder
from sslbench.data.split import Texts
from sslbench.encoder import Encoder
from sslbench.errors import UserError
from sslbench.features import features

# The bare name is what many captions are; the other is the default of CLIP's section 3.1.4.
TEMPLATES = ("{}", "a photo of a {}.")


def prompts(names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every name in the first template, then in the second …; underscores become spaces.

    Raises:
        UserError: no templates, or one that has no {} for the name.
    """
    if not templates:
        raise UserError("at least one template expected, found none")
    for template in templates:
        if "{}" not in template:
            raise UserError(f"template {template!r}: expected {{}} in the place of the name")
    spoken = [name.replace("_", " ") for name in names]
    return [template.replace("{}", name) for template in templates for name in spoken]


def classifier(
    encoder: Encoder, names: Sequence[str], templates: Sequence[str], *, cache: bool = True
) -> Tensor:
    """One direction per class: the normalised mean of its prompts' normalised embeddings.

    Args:
        encoder: of images and captions.
        names: C of them.
        templates: texts with {} in the place of the name.
        cache: as in `features`.

    Returns:
        (C, D) float32, of length 1.

    Raises:
        NotApplicable: the encoder has no text.
        UserError: as `prompts`.
    """
    split = Texts(prompts(names, templates))
    (rows,) = features(text_encoder(encoder), split, cache=cache).values()
    each = F.normalize(torch.tensor(rows), dim=1).view(len(templates), len(names), -1)
    return F.normalize(each.mean(0), dim=1)

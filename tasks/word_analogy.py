"""Word analogy: a is to b as c is to which word? The one nearest to b − a + c.

Mikolov, Chen, Corrado, Dean. Efficient Estimation of Word Representations in Vector Space. ICLR
2013 workshop. arXiv:1301.3781 (section 4.1): vectors of unit length, the largest cosine wins, and
only the word itself counts, no synonym. Levy and Goldberg (CoNLL 2014) call it 3CosAdd.

The answer is searched in the whole vocabulary except a, b and c. The vocabulary is that of the
tokenizer: all its tokens that as texts are one token again, which are the words of static
embeddings; what an encoder makes of the word alone is its vector. A question is covered if all
four of its words are in there.

- `accuracy`, the headline, is over all test questions; those not covered count as wrong, so that
  vocabularies are compared on the same questions;
- `accuracy_covered` is over the covered ones, the number of the literature;
- `coverage` is their share.

Where the dataset has classes, the kinds of relation, `mean_per_class` is the mean over kinds of
`accuracy`.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sslbench.classification import per_class
from sslbench.contributions import ratio
from sslbench.data.split import Dataset, Texts
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable
from sslbench.features import features
from sslbench.task import Result, Score, Task
from sslbench.text_encoder import TextEncoder
from sslbench.tokenizer import Tokenizer

_SIMILARITIES = 1 << 22  # at a time: 16 MB


class WordAnalogy(Task):
    """Analogies by the arithmetic of word vectors."""

    paper = "arXiv:1301.3781"
    metric = "accuracy"
    version = 1
    modality = "text"
    target = "analogy"

    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Answer the test questions."""
        if not isinstance(encoder, TextEncoder):
            raise NotApplicable(f"{encoder.label} has no vectors of words")
        test = data["test"]
        questions = test[torch.arange(len(test))].texts or []
        for question in questions:
            if len(question) != 4:
                raise NotApplicable(f"questions of four words needed, found {question!r}")
        words = vocabulary(encoder.tokenizer)
        place = {number: i for i, number in enumerate(words)}
        ids = encoder.tokenizer.ids([word for question in questions for word in question])
        places = [place.get(found[0], -1) if len(found) == 1 else -1 for found in ids]
        asked = torch.tensor(places).view(-1, 4)
        covered = (asked >= 0).all(1)
        if not covered.any():
            raise NotApplicable(f"no question has all its words among {len(words)} of the encoder")
        (vectors,) = features(encoder, Texts(list(words.values()))).values()
        found = answers(torch.tensor(vectors), asked[covered, :3])
        correct = torch.zeros(len(asked)).double()
        correct[covered] = (found == asked[covered, 3]).double()
        each = {
            "accuracy": correct.numpy(),
            "accuracy_covered": ratio(correct.numpy(), covered.double().numpy()),
            "coverage": covered.double().numpy(),
        }
        if test.labels is not None:
            each["mean_per_class"] = per_class(correct.numpy(), test.labels)
        return Result({name: Score.mean(values) for name, values in each.items()})

    def chance(self, data: Dataset) -> float:
        """One of thousands of words."""
        return 0.0


def vocabulary(tokenizer: Tokenizer) -> dict[int, str]:
    """The tokens that stand for whole texts: all whose text is that one token again."""
    numbered = sorted((i, token) for token, i in tokenizer.inner.get_vocab().items())
    plain = [(i, token) for i, token in numbered if not tokenizer.special[i]]
    ids = tokenizer.ids([token for _, token in plain])
    return {i: token for (i, token), found in zip(plain, ids, strict=True) if found == [i]}


def answers(vectors: Tensor, asked: Tensor) -> Tensor:
    """The nearest word (n,) to b − a + c that is none of them.

    Args:
        vectors: (V, D) of the vocabulary.
        asked: (n, 3) places of a, b and c in it.
    """
    z = F.normalize(vectors, dim=1)
    found = []
    for part in asked.split(max(1, _SIMILARITIES // len(z))):
        a, b, c = z[part].unbind(1)
        cosines = (b - a + c) @ z.T  # times the length of b − a + c, which changes no order
        found.append(cosines.scatter(1, part, -torch.inf).argmax(1))
    return torch.cat(found)

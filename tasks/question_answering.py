"""Question answering: the span of a passage that answers a question, by a linear head.

Rajpurkar, Zhang, Lopyrev, Liang. SQuAD: 100,000+ Questions for Machine Comprehension of Text.
EMNLP 2016. arXiv:1606.05250, with its official scoring. The head is that of Devlin et al. BERT:
Pre-training of Deep Bidirectional Transformers for Language Understanding. NAACL 2019.
arXiv:1810.04805 (section 4.2): a vector for the start of the answer and one for its end, and the
span of at most 30 tokens whose two logits have the largest sum.

Question and passage are encoded together; a passage that is too long is seen through windows that
overlap, and a span lies in one of them. The encoder is frozen, only the head learns. One softmax
goes over the passage's tokens in all windows of a question, so that windows can be compared, and
an answer counts wherever a window has all of it: Clark, Gardner. Simple and Effective
Multi-Paragraph Reading Comprehension. ACL 2018. arXiv:1710.10723 (section 3.3). BERT takes the
softmax of each window by itself.

A head for each learning rate is trained by AdamW on states divided by their deviation. Learning
rate and number of epochs are those of the best F1 on validation (training ends when 3 epochs
brought nothing better), and the head is trained again on train and validation before the test
split is read. Of several answers the first is learned, and all count in scoring. Questions whose
answer is in no window are not learned from.

While heads learn, the states of the training and validation passages lie in a file in `folder`,
4 · D bytes for each token: 1.2 GB for 2,300 questions of SQuAD and D = 768. Those of the test split
are used as they come.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from sslbench.answers import Window, best_of, best_span, exact, overlap, windows
from sslbench.classification import reduced
from sslbench.data.split import Dataset, Split
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable, UserError
from sslbench.logistic import deviation
from sslbench.random import Random
from sslbench.task import Result, Score, Task
from sslbench.text_encoder import TextEncoder

LONGEST = 30  # tokens of an answer
PATIENCE = 3  # epochs without a better score
QUESTIONS = 32  # in a training step
WINDOWS = 32  # that the encoder sees at a time
WEIGHT_DECAY = 0.01


class QuestionAnswering(Task):
    """Span extraction with a linear head on frozen token states.

    Args:
        train_examples: training questions, drawn by the seed with as large a share of the
            validation questions; 0 for all.
        epochs: most epochs.
        learning_rates: those to choose from.
        stride: tokens that neighbouring windows share, at most half of those a window holds of a
            passage.
    """

    paper = "arXiv:1606.05250"
    metric = "exact_match"
    version = 1
    modality = "text"
    target = "answers"

    def __init__(
        self,
        *,
        train_examples: int = 2_000,
        epochs: int = 30,
        learning_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2),
        stride: int = 128,
    ) -> None:
        if train_examples < 0 or epochs < 1 or stride < 0:
            found = f"{train_examples}, {epochs} and {stride}"
            raise UserError(f"train_examples ≥ 0, epochs ≥ 1, stride ≥ 0 expected, found {found}")
        if not learning_rates or min(learning_rates) <= 0:
            raise UserError(f"learning_rates must be positive, found {list(learning_rates)}")
        self.train_examples, self.epochs = train_examples, epochs
        self.learning_rates, self.stride = learning_rates, stride

    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Choose learning rate and epochs on validation, train again, score the test split."""
        if not isinstance(encoder, TextEncoder):
            raise NotApplicable(f"{encoder.label} has no states of tokens")
        few = reduced(data, self.train_examples, seed)
        files = [folder / f"{name}.states" for name in ("train", "validation")]
        train, held_out = (_keep(encoder, few[f.stem], self.stride, f) for f in files)
        if not any(question.learnable for question, _ in train):
            raise NotApplicable(f"{data.name}: no answer to a training question is in a window")

        best: dict[str, Any] = {"f1": -1.0}
        heads = _train(train, self.learning_rates, seed, encoder.device)
        for epoch, candidates in enumerate(islice(heads, self.epochs), 1):
            for rate, head in zip(self.learning_rates, candidates, strict=True):
                f1 = float(_score(held_out, head)["f1"].mean())
                if f1 > best["f1"]:
                    best = {"f1": f1, "learning_rate": rate, "epochs": epoch}
            if epoch - best["epochs"] >= PATIENCE:
                break
        again = _train([*train, *held_out], [best["learning_rate"]], seed, encoder.device)
        *_, (head,) = islice(again, best["epochs"])
        scores = _score(_read(encoder, data["test"], self.stride), head)
        for file in files:
            file.unlink()
        selected = {"split": "validation", "train_examples": len(train), **best}
        return Result({name: Score.mean(values) for name, values in scores.items()}, selected)


class _Question(NamedTuple):
    """A question's place in its split, its passage, and what is known of both."""

    place: int
    passage: str
    answers: Sequence[str]
    windows: list[Window]
    truth: np.ndarray  # (T, 2) bool: which of all windows' tokens begin and end the first answer

    @property
    def learnable(self) -> bool:
        return bool(self.truth.any())

    def predict(self, logits: np.ndarray) -> str:
        """The text of the best span, by logits (T, 2); empty where there is no token."""
        best, answer, row = -np.inf, "", 0
        for window in filter(len, self.windows):
            start, end = logits[row : row + len(window)].T
            score, first, last = best_span(start, end, LONGEST)
            if score > best:
                best, answer = score, self.passage[window.begin[first] : window.end[last]]
            row += len(window)
        return answer


_Known = tuple[_Question, np.ndarray]  # a question, and the states (T, D) of its windows' tokens


def _read(encoder: TextEncoder, split: Split, stride: int) -> Iterator[_Known]:
    """Every question of a split, from the shortest text to the longest."""
    lengths = np.zeros(len(split)) if split.lengths is None else split.lengths
    for index in torch.from_numpy(np.argsort(lengths, kind="stable")).split(WINDOWS):
        batch = split[index]
        pairs = batch.texts or []
        found = windows(encoder.tokenizer, pairs, encoder.length, stride)
        every = [window for of_one in found for window in of_one]
        parts = [every[i : i + WINDOWS] for i in range(0, len(every), WINDOWS)]
        states = np.concatenate([_states(encoder, part) for part in parts])
        ends = np.cumsum([sum(map(len, of_one)) for of_one in found])[:-1]
        rows = zip(index.tolist(), pairs, batch.target, found, np.split(states, ends), strict=True)
        for place, (_, passage), target, of_one, own in rows:
            truth = _truth(of_one, target["answers"], target["starts"])
            yield _Question(place, passage, target["answers"], of_one, truth), own


@torch.inference_mode()
def _states(encoder: TextEncoder, part: list[Window]) -> np.ndarray:
    """States (T, D) of the passages' tokens, window after window."""
    tokens = encoder.tokenizer.pad_together([window.encoding for window in part])
    hidden = encoder.tokens(tokens.to(encoder.device)).float().cpu()
    states = torch.cat([row[window.places] for row, window in zip(hidden, part, strict=True)])
    if not states.isfinite().all():
        raise FloatingPointError(f"{encoder.label}: states of tokens are not finite")
    return states.numpy()


def _truth(of_one: list[Window], answers: Sequence[str], starts: Sequence[int]) -> np.ndarray:
    """(T, 2) bool: the tokens of all windows that begin and end the first answer."""
    truth = np.zeros((sum(map(len, of_one)), 2), bool)
    row = 0
    for window in of_one:
        if answers and (span := window.span(starts[0], starts[0] + len(answers[0]))):
            truth[row + span[0], 0] = truth[row + span[1], 1] = True
        row += len(window)
    return truth


def _keep(encoder: TextEncoder, split: Split, stride: int, file: Path) -> list[_Known]:
    """Every question of a split, with its states in a file."""
    questions, sizes, width = [], [0], 0
    with file.open("wb") as out:
        for question, states in _read(encoder, split, stride):
            states.tofile(out)
            questions.append(question)
            sizes.append(sizes[-1] + len(states))
            width = states.shape[1]
    if sizes[-1] == 0:
        raise NotApplicable(f"the {file.stem} split has no passages")
    kept = np.memmap(file, np.float32, "r", shape=(sizes[-1], width))
    return list(zip(questions, np.split(kept, sizes[1:-1]), strict=True))


def _train(
    known: Sequence[_Known], rates: Sequence[float], seed: int, device: torch.device
) -> Iterator[np.ndarray]:
    """Heads (R, D, 2) after each epoch, one for each learning rate; D → start and end logit."""
    known = [(question, states) for question, states in known if question.learnable]
    some = [states for _, states in known[:: 1 + len(known) // 100]]  # enough for a scale
    scale = deviation(torch.from_numpy(np.concatenate(some)).double()).float().to(device)
    heads = [torch.zeros(len(scale), 2, device=device, requires_grad=True) for _ in rates]
    groups = [{"params": [head], "lr": rate} for head, rate in zip(heads, rates, strict=True)]
    optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)
    for epoch in count():
        order = Random(seed, epoch, torch.zeros(1), 1).permutation(len(known))[0]
        for part in order.split(QUESTIONS):
            states, truth = (
                pad_sequence([torch.tensor(x) for x in column], batch_first=True).to(device)
                for column in zip(*((known[i][1], known[i][0].truth) for i in part), strict=True)
            )  # (B, T, D) and (B, T, 2)
            sizes = torch.tensor([len(known[i][1]) for i in part], device=device)
            inside = torch.arange(states.shape[1], device=device) < sizes[:, None]
            logits = ((states / scale) @ torch.cat(heads, 1)).unflatten(2, (-1, 2))
            logits = logits.masked_fill(~inside[..., None, None], -torch.inf)  # (B, T, R, 2)
            right = logits.masked_fill(~truth[:, :, None], -torch.inf)
            loss = (logits.logsumexp(1) - right.logsumexp(1)).mean(0).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield (torch.stack(heads).detach() / scale[:, None]).cpu().numpy()


def _score(known: Iterable[_Known], head: np.ndarray) -> dict[str, np.ndarray]:
    """`exact_match` and `f1` of every question (n,), in the order of the split."""
    found = sorted(
        (question.place, *(best_of(m, answer, question.answers) for m in (exact, overlap)))
        for question, states in known
        for answer in [question.predict(states @ head)]
    )
    _, matches, f1 = np.array(found).T
    return {"exact_match": matches, "f1": f1}

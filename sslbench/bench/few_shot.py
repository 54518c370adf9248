"""600 few-shot episodes at once, against a loop over them."""

from collections.abc import Iterator

import numpy as np
import torch

from sslbench.bench.timing import Goal, Timing, close, in_turn
from sslbench.episodes import classify, draw_episodes
from sslbench.random import Random

EPISODES, WAYS, SHOTS, QUERIES, DIM = 600, 5, 5, 15, 384
EXAMPLES, CLASSES = 10_000, 20


def measure(rounds: int) -> Iterator[Timing]:
    """One shot and five shots, each with the nearest class mean."""
    torch.manual_seed(0)
    labels = torch.randint(CLASSES, (EXAMPLES,)).numpy()
    centres = torch.randn(CLASSES, DIM)[labels]
    features = torch.nn.functional.normalize(centres + 4 * torch.randn(EXAMPLES, DIM), dim=1)
    random = Random(0, 0, torch.arange(EPISODES), EPISODES)
    drawn = draw_episodes(labels, WAYS, SHOTS + QUERIES, random)
    support, queries = drawn[..., :SHOTS], drawn[..., SHOTS:]

    def ours() -> torch.Tensor:
        return classify(features, support, queries, [1, SHOTS]).double().mean((2, 3))

    def theirs() -> np.ndarray:
        return _loop(features.numpy(), support.numpy(), queries.numpy())

    same = close("accuracy of each episode", ours(), theirs(), 1e-9)
    yield Timing(
        "few_shot",
        f"{EPISODES} episodes of {WAYS} ways, 1 and {SHOTS} shots, {QUERIES} queries, D = {DIM}",
        f"numpy {np.__version__}, a loop over the episodes",
        *in_turn(ours, theirs, rounds),
        Goal("faster", 20),
        same,
    )


def _loop(features: np.ndarray, support: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Accuracy by shots and episode (2, E)."""
    found = np.empty((2, len(support)))
    truth = np.repeat(np.arange(WAYS), QUERIES)
    for episode in range(len(support)):
        asked = features[queries[episode].ravel()]
        for place, shots in enumerate((1, SHOTS)):
            means = features[support[episode, :, :shots]].mean(axis=1)
            distances = ((asked[:, None] - means) ** 2).sum(axis=2)
            found[place, episode] = (distances.argmin(axis=1) == truth).mean()
    return found

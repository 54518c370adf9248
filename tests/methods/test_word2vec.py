"""word2vec against loops over words, pairs and negatives, and its draws against their laws."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from sslbench import distributed
from sslbench.data.split import Texts
from sslbench.encoder import build
from sslbench.errors import NotApplicable
from sslbench.method import Recipe
from sslbench.methods.language.word2vec import FINE, Word2Vec
from sslbench.pretrain import train
from sslbench.random import Random
from tests.conftest import run_processes, tiny_bert, tiny_embeddings, tiny_texts

B = 16
LETTERS = "abcdefghijklmnopqrst"
SHARES = 1 / np.arange(1, 21)
SHARES = SHARES / SHARES.sum()


def corpus(n: int = 300, words: int = 40) -> Texts:
    """Sentences of words whose frequencies fall as 1 / rank, one a document."""
    random = np.random.default_rng(0)
    drawn = random.choice(list(LETTERS), (n, words), p=SHARES)
    return Texts([" ".join(row) for row in drawn])


def make(data: Texts | None = None, vocabulary: int = 64, **settings: object) -> Word2Vec:
    torch.manual_seed(0)
    data = data or corpus()
    encoder = build({"name": "embeddings", "dim": 6, "vocabulary": vocabulary}, data)
    return Word2Vec(encoder, data, **{"threshold": 0.0, **settings}).train()


def draw(method: Word2Vec, places: torch.Tensor | None = None, step: int = 0):
    places = torch.arange(B) if places is None else places
    with torch.no_grad():
        return method.views(method.data[places], Random(0, step, places, B))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def equation_4(inputs, outputs, pairs):
    """−mean over pairs (word, neighbour, negatives) of the objective of equation 4."""
    total = 0.0
    for word, neighbour, negatives in pairs:
        v = inputs[word]
        total += math.log(sigmoid(np.dot(outputs[neighbour], v)))
        for negative in negatives:
            total += math.log(sigmoid(-np.dot(outputs[negative], v)))
    return -total / len(pairs)


def test_loss_and_gradient():
    method = make(window=2, negatives=3).double()
    views = draw(method, torch.arange(3))
    with torch.no_grad():
        for vectors in (method.encoder.table.weight, method.output):
            vectors.normal_()
    loss = method.loss(views, 0.0)
    loss.backward()
    pairs = list(zip(*(view.tolist() for view in views[:3]), strict=True))
    assert len(pairs) > 200
    vectors = [method.encoder.table.weight, method.output]
    values = [v.detach().numpy() for v in vectors]
    assert loss.item() == pytest.approx(equation_4(*values, pairs), rel=1e-10)
    random = np.random.default_rng(1)
    for vector, value in zip(vectors, values, strict=True):
        used = vector.grad.abs().sum(1).nonzero()[:, 0].numpy()
        assert len(used) > 15
        for _ in range(10):
            at = (random.choice(used), random.integers(6))
            here, slope = value[at], []
            for step in (1e-6, -1e-6):
                value[at] = here + step
                slope.append(equation_4(*values, pairs))
            value[at] = here
            found = (slope[0] - slope[1]) / 2e-6
            assert vector.grad[at].item() == pytest.approx(found, rel=1e-5, abs=1e-8)


def test_without_a_pair_the_loss_is_0_and_moves_nothing():
    method = make(threshold=1e-12)
    views = draw(method)
    assert [tuple(view.shape) for view in views] == [(0,), (0,), (0, 5), (B,)]
    loss = method.loss(views, 0.0)
    loss.backward()
    assert loss == 0
    assert not method.output.grad.any()
    assert not method.encoder.table.weight.grad.any()


def test_pairs_are_those_of_a_loop_over_windows():
    """Every reach from 1 to `window`, nothing across the end of a sentence, no word with itself."""
    data = Texts(["b a c d e f g h i. Z y x w v u. One two!", "M n o p q"])
    method = make(data, window=3)
    assert sorted(method.data.lengths.tolist()) == [3, 5, 7, 10]  # a full stop is a word, too
    reaches = Counter()
    for step in range(60):
        places = torch.arange(4)
        tokens = method.data[places].tokens
        centre, context, *_ = draw(method, places, step)
        found = list(zip(centre.tolist(), context.tolist(), strict=True))
        expected = []
        for row, here in zip(tokens.ids, tokens.mask, strict=True):
            words = row[here].tolist()
            assert len(words) == len(set(words))  # or a pair could be at several places
            for place, word in enumerate(words):
                around = [c for w, c in found if w == word and c in words]
                reach = max(abs(words.index(c) - place) for c in around)
                reaches[reach] += 3 <= place < len(words) - 3
                for offset in range(-reach, reach + 1):
                    if offset and 0 <= place + offset < len(words):
                        expected.append((word, words[place + offset]))
        assert found == expected
    assert set(reaches) == {1, 2, 3}
    assert min(reaches.values()) > 0.25 * sum(reaches.values())


def test_unknown_words_are_left_out_before_windows_are_laid():
    data = Texts(["a a a a b b b b.", "rare a strange b."])
    method = make(data, vocabulary=8, window=1)
    tokenizer = method.encoder.tokenizer
    a, b = (tokenizer.inner.token_to_id(word) for word in "ab")
    row = method.data.ids.tolist()[1]
    assert tokenizer.unknown in row
    centre, context, noise, _ = draw(method, torch.tensor([1]))
    pairs = list(zip(centre.tolist(), context.tolist(), strict=True))
    assert (a, b) in pairs
    assert (b, a) in pairs
    assert not tokenizer.special[torch.cat([centre, context, noise.flatten()])].any()


def test_the_frequent_are_discarded_with_the_probability_of_the_paper():
    """1 − √(t/f), equation 5; a window of 1 then joins what is left."""
    threshold, steps = 0.02, 40
    method = make(threshold=threshold, window=1)
    counts = Counter(word for text in corpus().texts for word in text.split())
    total, before, after = sum(counts.values()), Counter(), Counter()
    spell = method.encoder.tokenizer.inner.id_to_token
    for step in range(steps):
        centre, context, *_ = draw(method, step=step)
        tokens = method.data[torch.arange(B)].tokens
        before.update(tokens.ids[tokens.mask].tolist())
        after.update(centre.tolist())
        pairs = list(zip(centre.tolist(), context.tolist(), strict=True))
        assert Counter(pairs) == Counter((c, w) for w, c in pairs)
    ends = 2 * B * steps  # words with one neighbour instead of two
    kept = {}
    for number, n in before.items():
        frequency = counts[spell(number)] / total
        kept[number] = n * min(1, math.sqrt(threshold / frequency))
    left = sum(kept.values())
    for number, expected in kept.items():
        found = after[number] * (left / (2 * left - ends))  # words from the pairs they are in
        assert abs(found - expected) < 6 * math.sqrt(expected), spell(number)
    assert sum(after.values()) == pytest.approx(2 * left - ends, rel=0.03)
    assert make().kept[list(before)].eq(1).all()


@pytest.mark.parametrize("power", [0.75, 1.0, 0.0])
def test_negatives_follow_the_unigrams_to_a_power(power):
    method = make(power=power)
    counts = Counter(word for text in corpus().texts for word in text.split())
    weights = {word: n**power for word, n in counts.items()}
    noise = torch.cat([draw(method, step=step)[2].flatten() for step in range(10)])
    found = Counter(map(method.encoder.tokenizer.inner.id_to_token, noise.tolist()))
    assert set(found) == set(counts)
    statistic = 0.0
    for word, weight in weights.items():
        expected = len(noise) * weight / sum(weights.values())
        statistic += (found[word] - expected) ** 2 / expected
    freedom = len(weights) - 1
    assert statistic < freedom + 5 * math.sqrt(2 * freedom)  # χ²


def test_negatives_are_drawn_for_each_pair():
    centre, context, noise, _ = draw(make())
    assert noise.shape == (len(centre), 5)
    assert len(context) == len(centre)
    assert len(noise.unique(dim=0)) > 0.9 * len(noise)
    for k in range(4):
        assert abs((noise[:, k] == noise[:, k + 1]).double().mean() - 0.09) < 0.03
    assert make().noise[-1] == FINE


def local_part() -> tuple[float, torch.Tensor]:
    """This process's loss, and the gradient averaged over the processes."""
    method = make(threshold=1e-5).double()
    size = B // distributed.world()
    places = torch.arange(size) + distributed.rank() * size
    loss = method.loss(draw(method, places), 0.0)
    loss.backward()
    trained = list(method.parameters())
    distributed.average_gradients(trained)
    return float(loss.detach()), torch.cat([p.grad.flatten() for p in trained])


def test_every_pair_of_all_processes_weighs_the_same():
    """Also where some processes have no pair at all."""
    loss, gradient = local_part()
    found = run_processes(4, local_part)
    values = [value for value, _ in found]
    assert min(values) == 0 < loss
    assert np.mean(values) == pytest.approx(loss, rel=1e-10)
    for _, other in found:
        torch.testing.assert_close(other, gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.filterwarnings("ignore::sslbench.monitor.CollapseWarning")  # two fields: two points
def test_words_that_share_their_neighbours_become_alike(tmp_path):
    random = np.random.default_rng(0)
    fields = [("ant", "bee", "fly", "wasp"), ("iron", "gold", "zinc", "lead")]
    data = Texts([" ".join(random.choice(fields[i % 2], 12)) for i in range(400)])
    method = make(data)
    method.recipe = Recipe("adamw", lr=0.05, batch_size=50)
    train(method, tmp_path, epochs=40, seed=0)
    tokenizer = method.encoder.tokenizer
    ids = torch.tensor([tokenizer.inner.token_to_id(w) for field in fields for w in field])
    vectors = torch.nn.functional.normalize(method.encoder.table.weight.detach()[ids], dim=1)
    alike = vectors @ vectors.T
    assert alike[:4, :4].min() > alike[:4, 4:].max() + 0.5
    assert alike[4:, 4:].min() > alike[:4, 4:].max() + 0.5


def test_what_does_not_fit_is_refused():
    with pytest.raises(NotApplicable, match=r"word2vec needs the encoder embeddings, not bert\("):
        Word2Vec(tiny_bert(), tiny_texts())
    with pytest.raises(ValueError, match="window = 0, negatives = 5: at least 1"):
        Word2Vec(tiny_embeddings(), tiny_texts(), window=0)
    unknown = Texts(["zzz yyy xxx."])
    encoder = build({"name": "embeddings", "vocabulary": 6}, Texts(["a a a a"]))
    with pytest.raises(NotApplicable, match="no word of the corpus is in the tokenizer's"):
        Word2Vec(encoder, unknown)

"""Likelihoods of texts against sums by hand, slow loops and transformers' own loss."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from sslbench.data.split import Dataset, Texts, Tokens
from sslbench.encoder import build
from sslbench.errors import NotApplicable, UserError
from sslbench.tasks import perplexity, pseudo_perplexity
from sslbench.tasks.perplexity import Perplexity
from sslbench.tasks.pseudo_perplexity import PseudoPerplexity
from sslbench.text_encoder import TextEncoder
from sslbench.tokenizer import trained
from tests.conftest import tiny_bert, tiny_embeddings, tiny_resnet, tiny_texts

TEXTS = [
    "Çà et là, a naïve café.",
    "two words",
    "",
    "one\n  two\tthree  \u20ac",
    "x" * 70,
    "Ab cd " * 9,
]


def dataset(texts=TEXTS, groups=None):
    split = Texts(texts, groups=groups)
    return Dataset("texts", "text", (), 0, (), "top1", 0.0, {"train": split, "test": split})


def gpt(name="gpt2", tokenizer="bpe", length=24):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = {"name": name, "tokenizer": tokenizer, "vocabulary": 270, **sizes}
    if name == "llama":
        config |= {"intermediate_size": 64}
    made = build({**config, "max_position_embeddings": length}, Texts(TEXTS))
    for parameter in made.parameters():  # predictions that differ from place to place
        nn.init.normal_(parameter, std=0.3)
    return made.eval()


class Periodic(TextEncoder):
    """A causal model of characters that gives the alphabet's next letter a share of one half."""

    causal, length, dim = True, 8, 1

    def __init__(self):
        super().__init__(
            {"name": "periodic"}, trained(Texts(["abcd"]), "characters", 9, True), "mean"
        )

    def hidden(self, inputs: Tokens):
        return [inputs.ids[..., None].float()]

    def head(self, hidden):
        letters = [self.tokenizer.inner.token_to_id(letter) for letter in "abcd"]
        logits = torch.full((len(hidden), len(self.tokenizer)), -1e9)
        for row, (number,) in enumerate(hidden.long().tolist()):
            following = letters.index(number) + 1 if number in letters else 0
            for place, letter in enumerate(letters):
                share = 1 / 2 if place == following % 4 else 1 / 6
                logits[row, letter] = math.log(share)
        return logits


def test_bits_by_hand(tmp_path):
    """Letters that follow cost 1 bit, others log2 6; the first letter should be an a."""
    data = dataset(["abcdabcdabcdabcdabcdab", "ba", "", "aa"])
    result = Perplexity().run(Periodic(), data, seed=0, folder=tmp_path)
    bits = [22, 2 * math.log2(6), 0, 1 + math.log2(6)]
    assert result.scores["bits_per_byte"].value == pytest.approx(sum(bits) / 26, abs=1e-6)
    assert result.scores["word_perplexity"].value == pytest.approx(2 ** (sum(bits) / 3), rel=1e-5)
    assert result.selected == {"stride": 4}


def loop(encoder, text, stride):
    """−ln p of a text: each token once, in the first window that reaches it."""
    ids = [encoder.tokenizer.sep, *encoder.tokenizer.ids([text])[0]]
    total = 0.0
    for place in range(1, len(ids)):
        begin = 0
        while place >= begin + encoder.length:
            begin += stride
        context = torch.tensor([ids[begin:place]])
        ones = torch.ones_like(context)
        logits = encoder.model(input_ids=context, attention_mask=ones).logits[0, -1]
        total -= logits.double().log_softmax(0)[ids[place]].item()
    return total


@pytest.mark.parametrize(("name", "stride"), [("gpt2", 0), ("gpt2", 1), ("gpt2", 23), ("llama", 5)])
@torch.inference_mode()
def test_against_a_loop_over_tokens(name, stride, tmp_path):
    encoder = gpt(name)
    result = Perplexity(stride=stride).run(encoder, dataset(), seed=0, folder=tmp_path)
    nats = np.array([loop(encoder, text, stride or 12) for text in TEXTS])
    size = np.array([len(text.encode()) for text in TEXTS])
    bits = result.scores["bits_per_byte"]
    assert bits.value == pytest.approx(nats.sum() / math.log(2) / size.sum(), rel=1e-5)
    assert size.sum() > sum(map(len, TEXTS))  # bytes are not characters here
    words = sum(len(text.split()) for text in TEXTS)
    word_perplexity = result.scores["word_perplexity"]
    assert word_perplexity.value == pytest.approx(math.exp(nats.sum() / words), rel=1e-4)
    for score in (bits, word_perplexity):
        assert score.n == len(score.examples) == len(TEXTS)
        assert score.examples.mean() == pytest.approx(score.value)


@torch.inference_mode()
def test_a_text_of_one_window_has_the_loss_of_transformers(tmp_path):
    encoder = gpt(length=128)
    text = TEXTS[0]
    result = Perplexity().run(encoder, dataset([text]), seed=0, folder=tmp_path)
    ids = torch.tensor([[encoder.tokenizer.sep, *encoder.tokenizer.ids([text])[0]]])
    loss = encoder.model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
    expected = loss / math.log(2) / len(text.encode())
    assert result.scores["bits_per_byte"].value == pytest.approx(expected, rel=1e-5)


def test_batches_do_not_matter(tmp_path, monkeypatch):
    encoder = gpt()
    whole = Perplexity().run(encoder, dataset(), seed=0, folder=tmp_path)
    monkeypatch.setattr(perplexity, "TOKENS", 24)
    one = Perplexity().run(encoder, dataset(), seed=0, folder=tmp_path)
    for name, score in whole.scores.items():
        assert one.scores[name].value == pytest.approx(score.value, rel=1e-5)


def test_words_without_spaces_leave_word_perplexity_out(tmp_path):
    data = dataset(["".join(map(chr, range(300, 1500)))])
    found = Perplexity().run(gpt(), data, seed=0, folder=tmp_path)
    assert list(found.scores) == ["bits_per_byte"]


@pytest.mark.parametrize(
    ("tokenizer", "texts", "applies"),
    [
        ("bpe", TEXTS, True),
        ("characters", TEXTS, True),
        ("characters", [*TEXTS, "unseen: \u00df"], False),
        ("wordpiece", ["Ab cd"], False),  # capitals and spaces are lost
    ],
)
def test_only_tokens_that_say_all_of_the_text(tokenizer, texts, applies, tmp_path):
    encoder = gpt(tokenizer=tokenizer)
    if applies:
        Perplexity().run(encoder, dataset(texts), seed=0, folder=tmp_path)
        return
    with pytest.raises(NotApplicable, match=f"1 of {len(texts)} texts do not come back"):
        Perplexity().run(encoder, dataset(texts), seed=0, folder=tmp_path)


def test_what_does_not_apply(tmp_path):
    def run(encoder, data, task):
        return task.run(encoder, data, seed=0, folder=tmp_path)

    for encoder in (tiny_bert(), tiny_embeddings()):
        with pytest.raises(NotApplicable, match="pseudo_perplexity"):
            run(encoder, dataset(), Perplexity())
    with pytest.raises(NotApplicable, match="perplexity is for causal ones"):
        run(gpt(), dataset(), PseudoPerplexity())
    with pytest.raises(NotApplicable, match="no language-model head"):
        run(tiny_embeddings(), dataset(), PseudoPerplexity())
    with pytest.raises(NotApplicable, match="no states of tokens"):
        run(tiny_resnet(), dataset(), Perplexity())
    with pytest.raises(NotApplicable, match="found several for each"):
        run(gpt(), dataset([("a", "b")]), Perplexity())
    with pytest.raises(NotApplicable, match="empty"):
        run(gpt(), dataset(["", ""]), Perplexity())
    with pytest.raises(UserError, match="takes 24 tokens"):
        run(gpt(), dataset(), Perplexity(stride=24))
    with pytest.raises(UserError, match="found -1"):
        Perplexity(stride=-1)
    with pytest.raises(UserError, match="found 0 and 64"):
        PseudoPerplexity(examples=0)


def bert():
    torch.manual_seed(0)
    made = tiny_bert()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made.eval()


@torch.inference_mode()
def pseudo_loop(encoder, text, tokens):
    """Log-likelihood of each token (of `tokens`) with only itself masked, and the ids."""
    inner = encoder.tokenizer
    kept = inner.ids([text])[0][:tokens]
    ids = [inner.cls, *kept, inner.sep]
    out = []
    for place, truth in enumerate(kept, start=1):
        masked = torch.tensor([[*ids[:place], inner.mask, *ids[place + 1 :]]])
        logits = encoder.model(input_ids=masked, attention_mask=torch.ones_like(masked)).logits
        out.append(logits[0, place].double().log_softmax(0)[truth].item())
    return out, kept


def test_pseudo_likelihood_against_a_loop(tmp_path, monkeypatch):
    encoder = bert()
    texts = [*tiny_texts(3).texts, "", "two \u4e2d words", "\u4e2d"]
    groups = np.array([0, 0, 1, 1, 2, 2])
    data = dataset(texts, groups)
    task = PseudoPerplexity(tokens=9)
    result = task.run(encoder, data, seed=0, folder=tmp_path)
    found = [pseudo_loop(encoder, text, 9) for text in texts]
    total, n = sum(sum(values) for values, _ in found), sum(len(values) for values, _ in found)
    unknown = sum(ids.count(encoder.tokenizer.unknown) for _, ids in found)
    assert 0 < unknown < n
    values = {name: score.value for name, score in result.scores.items()}
    expected = {
        "pseudo_log_likelihood_per_token": total / n,
        "pseudo_perplexity": math.exp(-total / n),
        "unknown_share": unknown / n,
    }
    assert values == pytest.approx(expected, rel=1e-5)
    assert result.selected == {"texts": 6, "tokens": n}
    assert all(score.stderr > 0 for score in result.scores.values())
    monkeypatch.setattr(pseudo_perplexity, "TOKENS", 30)
    again = task.run(encoder, data, seed=0, folder=tmp_path)
    assert {n: s.value for n, s in again.scores.items()} == pytest.approx(values, rel=1e-5)


def test_a_subset_drawn_with_the_seed(tmp_path):
    encoder, data = bert(), dataset(tiny_texts(12).texts)
    task = PseudoPerplexity(examples=4, tokens=5)
    runs = [task.run(encoder, data, seed=seed, folder=tmp_path) for seed in (0, 0, 1)]
    values = [run.scores[task.metric].value for run in runs]
    assert values[0] == values[1] != values[2]
    assert runs[0].selected == {"texts": 4, "tokens": 20}
    assert runs[0].scores[task.metric].n == 4

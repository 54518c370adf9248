"""Spans, SQuAD's scores and the head's training against slow and independent ones."""

import re
from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sslbench.answers import best_of, best_span, exact, overlap, windows
from sslbench.checkpoint import weights_hash
from sslbench.data.split import Dataset, Texts
from sslbench.encoder import build
from sslbench.errors import NotApplicable, UserError
from sslbench.tasks import question_answering
from sslbench.tasks.question_answering import QuestionAnswering, _keep, _read, _train
from tests.tasks.conftest import Flat

PEOPLE = ["anna", "boris", "clara", "david", "emma", "felix"]
PLACES = ["Paris", "New York", "Oslo", "Den Haag", "Cairo", "São Paulo"]


def words_of(text):
    """SQuAD's normalisation, character by character: runs of letters and digits may be articles."""
    kept = [c for c in text.lower() if c not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"]
    runs = [[]]
    for c in kept:
        if not c.isalnum() or not runs[-1] or not runs[-1][-1].isalnum():
            runs.append([])
        runs[-1].append(c)
    text = "".join(" " if "".join(r) in ("a", "an", "the") else "".join(r) for r in runs)
    return text.split()


def reference(prediction, answers):
    """The best exact match and F1, from precision and recall."""
    matches, scores = [], []
    for answer in answers:
        found, wanted = words_of(prediction), words_of(answer)
        matches.append(float(found == wanted))
        shared = sum(min(found.count(w), wanted.count(w)) for w in set(found))
        if shared == 0:
            scores.append(0.0)
            continue
        precision, recall = shared / len(found), shared / len(wanted)
        scores.append(2 * precision * recall / (precision + recall))
    return max(matches), max(scores)


@pytest.mark.parametrize(
    ("prediction", "answers", "match", "f1"),
    [
        ("The Eiffel Tower.", ["eiffel tower"], 1, 1),
        ("Tower", ["the Eiffel Tower", "Eiffel"], 0, 2 / 3),
        ("", ["something"], 0, 0),
        ("", ["the"], 1, 0),  # the official scoring: equal, but without a word in common
        ("...", [""], 1, 0),
        ("$1,000", ["1000"], 1, 1),
        ("it's", ["its"], 1, 1),
        ("it’s", ["its"], 0, 0),  # not ASCII, so it stays
        ("l’a b", ["l’ b"], 1, 1),  # but it ends a word, and an article falls
        ("«the» end", ["«» end"], 0, 0.4),
        ("a-b", ["ab"], 1, 1),
        ("a b a", ["b"], 1, 1),
        ("an aunt", ["aunt"], 1, 1),
        ("to be or not to be", ["to be to"], 0, 2 / 3),
        ("Ünïcode — dash", ["ünïcode dash"], 0, 0.8),
        ("x\u00a0y", ["x y"], 1, 1),
    ],
)
def test_official_scores_by_hand(prediction, answers, match, f1):
    assert best_of(exact, prediction, answers) == match
    assert best_of(overlap, prediction, answers) == pytest.approx(f1)
    assert reference(prediction, answers) == pytest.approx((match, f1))


PIECES = ["the", "a", "an", "The", "cat", "Cat.", "don't", "«", "’", "—", "12", "1,2", " ", "\t",
          "\u00a0", "é", "ß", "İ", "_", "-", "the-", "…", "!", "A", "than"]  # fmt: skip
TEXT = st.lists(st.sampled_from([*PIECES, *" "]), max_size=8).map("".join) | st.text(max_size=12)


@settings(max_examples=500, deadline=None)
@given(TEXT, st.lists(TEXT, min_size=1, max_size=3))
def test_official_scores_agree_with_a_slow_reading(prediction, answers):
    expected = reference(prediction, answers)
    found = best_of(exact, prediction, answers), best_of(overlap, prediction, answers)
    assert found == pytest.approx(expected)


LOGITS = st.integers(1, 9).flatmap(
    lambda n: arrays(np.float32, (2, n), elements=st.integers(-3, 3).map(float))
)


@given(LOGITS, st.integers(1, 6))
def test_the_best_span_is_that_of_two_loops(logits, longest):
    start, end = logits
    spans = [
        (start[i] + end[j], i, j)
        for i in range(len(start))
        for j in range(i, min(i + longest, len(end)))
    ]
    assert best_span(start, end, longest) == max(spans, key=lambda span: span[0])


def example(random, i, sentences=4):
    """Where a person lives, among other sentences."""
    people = random.permutation(PEOPLE)[:sentences]
    places = random.permutation(PLACES)[:sentences]
    passage = " ".join(
        f"The doctor {who} lives in ({where})." for who, where in zip(people, places, strict=True)
    )
    k = int(random.integers(sentences))
    start = passage.index(places[k])
    said = {"id": str(i), "answers": [places[k], f"in ({places[k]}"], "starts": [start, start - 4]}
    return (f"where does {people[k]} live?", passage), said


def split(n, seed, sentences=4):
    random = np.random.default_rng(seed)
    texts, targets = zip(*(example(random, i, sentences) for i in range(n)), strict=True)
    return Texts(texts, groups=np.arange(n) // 2, targets=targets)


def dataset(sentences=4, **sizes):
    sizes = {"train": 40, "validation": 16, "test": 20} | sizes
    splits = {n: split(size, i, sentences) for i, (n, size) in enumerate(sizes.items())}
    return Dataset("homes", "text", ("answers",), 0, (), "top1", 0.0, splits)


def encoder(name="bert", length=28, tokenizer="wordpiece"):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"max_position_embeddings": length, "initializer_range": 0.2}
    if name == "bert":
        sizes["intermediate_size"] = 32
    torch.manual_seed(0)
    config = {"name": name, "vocabulary": 300, "tokenizer": tokenizer, **sizes}
    return build(config, split(40, 0)).eval()


@pytest.mark.parametrize(
    ("name", "tokenizer"), [("bert", "wordpiece"), ("gpt2", "bpe"), ("gpt2", "characters")]
)
def test_windows_cover_the_passage_and_share_tokens(name, tokenizer):
    model = encoder(name, tokenizer=tokenizer)
    pairs = [*split(12, 3).texts, ("who " * 40, "short"), ("", "The doctor"), ("who?", "")]
    for stride in (0, 3, 128):
        for (_, passage), found in zip(
            pairs, windows(model.tokenizer, pairs, 28, stride), strict=True
        ):
            tokens = [set(zip(w.begin.tolist(), w.end.tolist(), strict=True)) for w in found]
            plain = model.tokenizer.inner
            plain.no_truncation()
            whole = plain.encode(passage, add_special_tokens=False).offsets
            assert set.union(*tokens) == set(whole)
            most = min(stride, (28 - 9 - plain.num_special_tokens_to_add(True)) // 2)
            assert sum(map(len, found)) == len(whole) + most * (len(found) - 1)
            assert all(len(w.encoding.ids) <= 28 for w in found)
            assert all(w.encoding.sequence_ids.count(0) <= 9 for w in found)  # a third
            assert all(w.encoding.ids[i] not in (model.tokenizer.sep, model.tokenizer.cls)
                       for w in found for i in w.places)  # fmt: skip


def test_a_span_is_found_wherever_a_window_has_all_of_it():
    """Every two neighbouring words of some passages, in every window."""
    model, pairs = encoder(), split(6, 3).texts
    cases = Counter()
    for (_, passage), found in zip(pairs, windows(model.tokenizer, pairs, 28, 1), strict=True):
        for first, second in pairwise(re.finditer(r"\w+", passage)):
            begin, end = first.start(), second.end()
            for window in found:
                span = window.span(begin, end)
                inside = window.begin[0] <= begin < window.end[-1], end <= window.end[-1]
                inside = (*inside, end > window.begin[0])
                cases[inside] += 1
                assert (span is not None) == all(inside)
                if span:
                    assert window.begin[span[0]] == begin
                    assert window.end[span[1]] == end
    assert len(cases) == 5  # inside, before, after, and cut at either side


def by_hand(model, head, question, passage, length, stride):
    """The best span's text, one window at a time through transformers."""
    inner = model.tokenizer.inner
    inner.enable_truncation(length, stride=stride, strategy="only_second")
    first = inner.encode(question, passage)
    best, text = -np.inf, ""
    for window in (first, *first.overflowing):
        ids, segments = torch.tensor([window.ids]), torch.tensor([window.type_ids])
        with torch.no_grad():
            states = model.model.bert(input_ids=ids, token_type_ids=segments).last_hidden_state[0]
        logits = states.double().numpy() @ head
        inside = [i for i, sequence in enumerate(window.sequence_ids) if sequence == 1]
        for i in inside:
            for j in inside:
                if i <= j < i + 30 and logits[i, 0] + logits[j, 1] > best + 1e-6:
                    best = logits[i, 0] + logits[j, 1]
                    text = passage[window.offsets[i][0] : window.offsets[j][1]]
    return text


def test_predictions_are_those_of_a_loop_over_windows():
    model, test = encoder(), split(15, 4)
    heads = np.random.default_rng(0).normal(size=(4, 16, 2)).astype(np.float32)
    for question, states in _read(model, test, 3):
        asked, passage = test.texts[question.place]
        for head in heads:
            assert question.predict(states @ head) == by_hand(model, head, asked, passage, 28, 3)


def test_the_head_learns_as_in_a_loop_over_questions(tmp_path, monkeypatch):
    """One full batch: the negative log-likelihood of all right tokens, over all windows at once."""
    monkeypatch.setattr(question_answering, "QUESTIONS", 50)
    model, train, rate = encoder(), split(10, 5), 0.01
    known = _keep(model, train, 3, tmp_path / "train.states")
    found = list(islice(_train(known, [rate, 0.1], 0, torch.device("cpu")), 3))

    states = {q.place: torch.tensor(s) for q, s in known}
    scale = torch.cat(list(states.values())).double().std(0, correction=0).float()
    weight = torch.zeros(16, 2, requires_grad=True)
    optimizer = torch.optim.AdamW([weight], lr=rate, weight_decay=0.01)
    for epoch in range(3):
        loss = 0.0
        for place, said in enumerate(train.targets):
            begin, end = said["starts"][0], said["starts"][0] + len(said["answers"][0])
            question, passage = train.texts[place]
            logits = (states[place] / scale) @ weight
            right, row = [[], []], 0
            for window in windows(model.tokenizer, [(question, passage)], 28, 3)[0]:
                tokens = list(zip(window.begin.tolist(), window.end.tolist(), strict=True))
                if tokens[0][0] <= begin and end <= tokens[-1][1]:
                    right[0] += [row + i for i, (b, _) in enumerate(tokens) if b == begin]
                    right[1] += [row + i for i, (_, e) in enumerate(tokens) if e == end]
                row += len(tokens)
            for side in (0, 1):
                p = torch.softmax(logits[:, side], 0)
                loss = loss - torch.log(p[right[side]].sum()) / 10
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected = weight.detach() / scale[:, None]
        np.testing.assert_allclose(found[epoch][0], expected, rtol=1e-3, atol=1e-4)


def test_an_answer_that_the_words_show_is_learned(tmp_path):
    """One sentence with one place: word vectors are enough."""
    torch.manual_seed(0)
    model = build({"name": "embeddings", "dim": 64, "vocabulary": 80, "length": 14}, split(40, 0))
    data = dataset(sentences=1, train=60, validation=40)
    result = QuestionAnswering(learning_rates=(0.03,)).run(
        model.eval(), data, seed=0, folder=tmp_path
    )
    assert result.scores["exact_match"].value == 1
    assert result.scores["f1"].value == 1
    assert result.selected["f1"] == 1
    assert result.selected["learning_rate"] == 0.03
    assert not list(tmp_path.glob("*.states"))


def run(model, data, folder, seed=0, **given):
    task = QuestionAnswering(**{"train_examples": 20, "epochs": 5, "stride": 3, **given})
    return task.run(model, data, seed=seed, folder=folder)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_the_contract(name, tmp_path, monkeypatch):
    model, data = encoder(name), dataset()
    before = weights_hash(model)
    first = run(model, data, tmp_path)
    assert weights_hash(model) == before
    assert first.selected["train_examples"] == 20
    assert first.selected["learning_rate"] in (1e-3, 3e-3, 1e-2)
    assert 1 <= first.selected["epochs"] <= 5
    for score in first.scores.values():
        assert score.n == len(score.examples) == 20
        assert score.examples.mean() == pytest.approx(score.value)
    again = run(model, data, tmp_path)
    assert again.selected == first.selected
    assert all((again.scores[n].examples == s.examples).all() for n, s in first.scores.items())

    poison = Texts([("who?", "nobody at all")] * 9, targets=[{"answers": ["x"], "starts": [0]}] * 9)
    poisoned = Dataset("homes", "text", ("answers",), 0, (), "top1", 0.0,
                       {**data.splits, "test": poison})  # fmt: skip
    assert run(model, poisoned, tmp_path).selected == first.selected
    monkeypatch.setattr(question_answering, "WINDOWS", 5)
    other = run(model, data, tmp_path)
    assert other.selected["f1"] == pytest.approx(first.selected["f1"])
    assert other.scores["f1"].value == pytest.approx(first.scores["f1"].value)


def test_scores_keep_the_order_of_the_split(tmp_path):
    model, data = encoder(), dataset()
    first = run(model, data, tmp_path).scores["f1"].examples
    order = np.random.default_rng(0).permutation(20)
    turned = Dataset("homes", "text", ("answers",), 0, (), "top1", 0.0,
                     {**data.splits, "test": data["test"].take(order)})  # fmt: skip
    second = run(model, turned, tmp_path).scores["f1"].examples
    assert len(Counter(first.tolist())) > 1
    assert second.tolist() == first[order].tolist()


def test_what_cannot_be_answered_is_said(tmp_path):
    with pytest.raises(NotApplicable, match="no states of tokens"):
        run(Flat(), dataset(), tmp_path)
    with pytest.raises(NotApplicable, match="windows of 5 tokens have no room"):
        run(encoder(length=5), dataset(), tmp_path)
    lost = Texts([("who?", "anna")] * 9, targets=[{"answers": ["x"], "starts": [99]}] * 9)
    data = Dataset("homes", "text", ("answers",), 0, (), "top1", 0.0,
                   dict.fromkeys(("train", "validation", "test"), lost))  # fmt: skip
    with pytest.raises(NotApplicable, match="no answer to a training question"):
        run(encoder(), data, tmp_path)
    for wrong in ({"epochs": 0}, {"stride": -1}, {"learning_rates": ()}, {"train_examples": -1}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            QuestionAnswering(**wrong)

"""What every protocol on texts, or on images with captions, must do."""

import json
import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from sslbench import registry
from sslbench.checkpoint import weights_hash
from sslbench.data.split import Dataset, Split, Texts
from sslbench.encoder import build
from sslbench.errors import NotApplicable, UserError
from sslbench.evaluation import suited
from tests.conftest import (
    WORDS,
    tiny_bert,
    tiny_captions,
    tiny_dual,
    tiny_embeddings,
    tiny_images,
    tiny_resnet,
    tiny_texts,
)
from tests.tasks.test_conformance import values

ENTRIES = {
    name: entry
    for name, entry in registry.entries("tasks").items()
    if entry.describe()["modality"] in ("text", "image_text")
}
NAMES = list(ENTRIES)
SMALL = {
    "train_examples": 20,
    "epochs": 2,
    "learning_rates": (1e-2,),
    "examples": 6,
    "tokens": 8,
}
SIZES = {"train": 40, "validation": 20, "test": 24}
MASKED, CAUSAL, STATIC = "bert", "gpt2", "embeddings"


@cache
def encoder(kind: str):
    torch.manual_seed(0)
    if kind == CAUSAL:  # of bytes, so that nothing of a text is lost
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = {"name": "gpt2", "tokenizer": "bpe", "vocabulary": 300, **sizes}
        return build({**config, "max_position_embeddings": 64}, tiny_texts()).eval()
    made = {MASKED: tiny_bert, STATIC: tiny_embeddings, "dual": tiny_dual, "image": tiny_resnet}
    return made[kind]().eval()


def sentence(random: np.random.Generator, words: int = 5) -> str:
    return " ".join(random.choice(WORDS, words))


def split(target: str | None, name: str) -> Split:
    """Examples of one kind of target, drawn by the split's name."""
    n = SIZES[name]
    random = np.random.default_rng(len(name) * 100 + len(target or ""))
    labels = np.arange(n) % 3
    groups = np.arange(n) // 2
    one = [f"{WORDS[y]} {sentence(random)}" for y in labels]
    if target == "captions" or target == "image":
        return tiny_captions(n)
    if target == "pair":
        return Texts([(text, sentence(random)) for text in one], labels, groups)
    if target == "words":
        pairs = [tuple(random.choice(WORDS, 2).tolist()) for _ in range(n)]
        return Texts(pairs, random.uniform(0, 5, n).astype(np.float32))
    if target == "rating":
        pairs = [(text, sentence(random)) for text in one]
        return Texts(pairs, random.uniform(0, 5, n).astype(np.float32), groups)
    if target == "choice":
        return Texts([(text, sentence(random), sentence(random)) for text in one], labels % 2)
    if target == "tags":
        words = [tuple(text.split()) for text in one]
        return Texts(words, None, groups, [[w[-1].upper() for w in text] for text in words])
    if target == "answers":
        passages = [f"{sentence(random, 4)} {text}" for text in one]
        answers = [text.split()[0] for text in one]
        found = [
            {"id": str(i), "answers": [a], "starts": [p.index(a)]}
            for i, (a, p) in enumerate(zip(answers, passages, strict=True))
        ]
        pairs = [("which word", passage) for passage in passages]
        return Texts(pairs, None, groups, found)
    if target == "analogy":
        return Texts([tuple(random.choice(WORDS, 4, replace=False)) for _ in range(n)])
    return Texts(one, labels if target == "label" else None, groups)


def dataset(target: str | None) -> Dataset:
    kinds = {"captions": ("label", "captions"), "image": ("label",), None: ()}
    kinds |= {"words": ("rating",)}
    splits = {name: split(target, name) for name in SIZES}
    if target == "image":
        splits = {name: tiny_images(n) for name, n in SIZES.items()}
    labels = splits["test"].labels
    classes = 0 if labels is None or labels.dtype.kind == "f" else int(labels.max()) + 1
    return Dataset(
        f"tiny-{target}",
        "image" if target in ("captions", "image") else "text",
        kinds.get(target, (target,)),
        classes,
        tuple(WORDS[:classes]),
        "top1",
        0.3,
        splits,
    )


def make(name):
    cls = registry.task(name)
    known = registry.settings(cls, {})
    fitting = {key: value for key, value in SMALL.items() if key in known}
    return cls(**registry.settings(cls, fitting))


def material(name):
    """An encoder and a dataset that the task takes."""
    task = make(name)
    if task.modality == "image_text":
        return encoder("dual"), dataset("captions")
    kind = CAUSAL if name in ("perplexity", "prompting") else MASKED
    if name.startswith("word_"):
        kind = STATIC
    return encoder(kind), dataset("words" if name == "word_similarity" else task.target)


def run(name, encoder, data, folder, seed=0):
    task = make(name)
    folder.mkdir(exist_ok=True)
    return task.run(suited(task, encoder).eval(), data, seed=seed, folder=folder)


@pytest.mark.filterwarnings("ignore:.*no convergence:UserWarning")
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_complete_and_the_encoder_stays_as_it_was(name, tmp_path):
    model, data = material(name)
    before = weights_hash(model)
    result = run(name, model, data, tmp_path / "work")
    assert weights_hash(model) == before
    assert not model.training
    assert make(name).metric in result.scores
    for score in result.scores.values():
        assert math.isfinite(score.value)
        assert 0 < score.n <= sum(SIZES.values())
        if score.examples is not None:
            assert score.stderr is None
            assert score.n == len(score.examples)
            assert score.examples.mean() == pytest.approx(score.value, rel=1e-6, abs=1e-9)
    json.dumps(dict(result.selected), allow_nan=False)


@pytest.mark.filterwarnings("ignore:.*no convergence:UserWarning")
@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_result(name, tmp_path):
    model, data = material(name)
    first, second = (run(name, model, data, tmp_path / side, seed=3) for side in "ab")
    assert values(first) == values(second)
    assert first.selected == second.selected


@pytest.mark.filterwarnings("ignore:.*no convergence:UserWarning")
@pytest.mark.parametrize("name", NAMES)
def test_the_test_split_has_no_part_in_any_choice(name, tmp_path):
    model, data = material(name)
    other = data["test"].take(np.arange(0, len(data["test"]), 2)[::-1].copy())
    expected = run(name, model, data, tmp_path / "a").selected
    moved = replace(data, splits={**data.splits, "test": other})
    assert run(name, model, moved, tmp_path / "b").selected == expected


KINDS = (
    None, "label", "pair", "rating", "words", "choice", "tags", "answers", "analogy", "captions",
    "image",
)  # fmt: skip
EVERY = [
    name
    for name, entry in registry.entries("tasks").items()
    if entry.describe()["modality"] != "image"
]


@pytest.mark.filterwarnings("ignore:.*no convergence:UserWarning")
@pytest.mark.parametrize("kind", [MASKED, CAUSAL, STATIC, "dual", "image"])
@pytest.mark.parametrize("name", EVERY)
def test_what_does_not_fit_says_why(name, kind, tmp_path):
    """On any encoder and any data a task has finite scores or gives the reason in one line."""
    cls = registry.task(name)
    for number, target in enumerate(KINDS):
        data = dataset(target)
        if cls.target is not None and cls.target not in data.targets:
            continue  # which the core tells
        score, reason = outcome(name, kind, data, tmp_path / str(number))
        assert all(map(math.isfinite, score))
        assert score or len(reason) > 10
        assert "\n" not in reason


def outcome(name, kind, data, folder):
    """All scores, or the reason why there are none."""
    try:
        return values(run(name, encoder(kind), data, folder)).values(), ""
    except NotApplicable as reason:
        return (), str(reason)


def test_every_setting_is_documented_and_checked():
    for name in NAMES:
        cls = registry.task(name)
        for setting in registry.settings(cls, {}):
            assert f"{setting}: " in (cls.__doc__ or ""), f"{name}: {setting}"
            with pytest.raises(UserError, match=setting):
                registry.settings(cls, {setting: object()})

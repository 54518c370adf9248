"""MLM against transformers' masking and its BERT with both heads."""

import math

import pytest
import torch
from transformers import (
    BertForPreTraining,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerFast,
)

from sslbench.data.split import Tokens
from sslbench.errors import NotApplicable
from sslbench.methods.language.mlm import MLM
from sslbench.random import Random
from tests.conftest import tiny_bert, tiny_gpt, tiny_texts

B = 16
IGNORED = -100
DATA = tiny_texts(24)


def make(**settings: object) -> MLM:
    torch.manual_seed(0)
    return MLM(tiny_bert(), DATA, **settings).train()


def draw(method: MLM, step: int = 0, places: torch.Tensor | None = None):
    places = torch.arange(B) if places is None else places
    examples = (places + step * B) % len(method.data)
    with torch.no_grad():
        return method.views(method.data[examples], Random(0, step, places, B))


def counts(ids, labels, special, mask_id):
    """Tokens that may be selected, that are, and of these the masked, unchanged and others."""
    selected = labels != IGNORED
    truth = torch.where(selected, labels, ids)
    masked = selected & (ids == mask_id)
    same = selected & (ids == truth) & ~masked
    free = ~special[truth]
    return torch.stack(
        [x.sum() for x in (free, selected, masked, same, selected & ~masked & ~same)]
    )


def test_masking_statistics_are_those_of_transformers():
    method = make(next_sentence=False)
    tokenizer = method.encoder.tokenizer
    special = tokenizer.special
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "cls", "sep", "mask")}
    theirs = DataCollatorForLanguageModeling(
        PreTrainedTokenizerFast(tokenizer_object=tokenizer.inner, unk_token="[UNK]", **names),
        mlm_probability=0.15,
        seed=0,
    )
    ours, reference = torch.zeros(5, dtype=torch.long), torch.zeros(5, dtype=torch.long)
    for step in range(80):
        ids, mask, _, labels, _ = draw(method, step)
        assert mask.all()
        ours += counts(ids, labels, special, tokenizer.mask)
        truth = torch.where(labels == IGNORED, ids, labels)
        found, wanted = theirs.torch_mask_tokens(truth, special[truth])
        reference += counts(found, wanted, special, tokenizer.mask)
    assert ours[0] == reference[0] > 20_000
    a, b = ours.double(), reference.double()
    for part, whole, share in ((1, 0, 0.15), (2, 1, 0.8), (3, 1, None), (4, 1, None)):
        p = float(b[part] / b[whole])
        error = math.sqrt(p * (1 - p) / float(b[whole]))
        assert abs(a[part] / a[whole] - p) < 5 * error  # √2 of it for the two of them
        if share is not None:
            assert abs(a[part] / a[whole] - share) < 4 * error
    # Of the 10 % that become any token, 1 of the vocabulary is what it was, and 1 the mask.
    p = 0.1 * (1 - 2 / len(tokenizer))
    assert abs(a[4] / a[1] - p) < 4 * math.sqrt(p * (1 - p) / float(a[1]))


def test_each_token_is_selected_by_itself_and_anew():
    method = make(next_sentence=False)
    places = torch.arange(B)
    selected = []
    for step in range(200):
        batch = method.data[places]
        selected.append(method.views(batch, Random(0, step, places, B))[3] != IGNORED)
    rate = torch.stack(selected).double().mean(0)  # (B, N) of the same tokens
    ids = method.data[places].tokens.ids
    free = ~method.encoder.tokenizer.special[ids]
    error = math.sqrt(0.15 * 0.85 / 200)
    assert (rate[:, 1:-1][free] - 0.15).abs().max() < 5 * error
    assert not rate[:, 1:-1][~free].any()
    assert not rate[:, [0, -1]].any()  # [CLS] and [SEP]
    both = torch.stack(selected).double()
    assert abs((both[..., 1:] * both[..., :-1]).mean() - 0.15**2 * 20.5 / 23) < 0.004


@pytest.mark.parametrize(
    ("settings", "share"),
    [({"masked": 1.0, "replaced": 0.0}, (1, 0)), ({"masked": 0.0, "replaced": 0.0}, (0, 1))],
)
def test_shares(settings, share):
    method = make(selected=1.0, **settings)
    ids, _, _, labels, _ = draw(method)
    tokenizer = method.encoder.tokenizer
    found = counts(ids, labels, tokenizer.special, tokenizer.mask)
    assert found[0] == found[1] > 100
    assert found[2:].tolist() == [share[0] * found[0], share[1] * found[0], 0]


def pretraining_loss(method: MLM, views) -> tuple[torch.Tensor, BertForPreTraining]:
    """BertForPreTraining with the same weights; its class 0 is "follows", ours is 1."""
    ids, mask, segments, labels, neighbours = views
    model = BertForPreTraining(method.encoder.model.config).double().train()
    model.bert.load_state_dict(method.encoder.model.bert.state_dict(), strict=False)
    model.cls.predictions.load_state_dict(method.encoder.model.cls.predictions.state_dict())
    with torch.no_grad():
        model.bert.pooler.dense.weight.copy_(method.pooler[0].weight)
        model.bert.pooler.dense.bias.copy_(method.pooler[0].bias)
        model.cls.seq_relationship.weight.copy_(method.follows.weight.flip(0))
        model.cls.seq_relationship.bias.copy_(method.follows.bias.flip(0))
    out = model(
        input_ids=ids,
        attention_mask=mask.long(),
        token_type_ids=segments,
        labels=labels,
        next_sentence_label=1 - neighbours,
    )
    out.loss.backward()
    return out.loss, model


def test_loss_and_gradient_are_those_of_transformers():
    method = make().double()
    with torch.no_grad():
        for parameter in method.follows.parameters():
            parameter.normal_()
    views = draw(method)
    loss = method.loss(views, 0.0)
    loss.backward()
    theirs, model = pretraining_loss(method, views)
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-6)  # in single precision
    assert loss.item() == pytest.approx(float(sum(method.logged[k] for k in ("words", "pairs"))))
    ours = {n: p.grad for n, p in method.encoder.model.named_parameters()}
    reference = {n: p.grad for n, p in model.named_parameters() if n in ours}
    assert reference.keys() == ours.keys()
    for name, grad in reference.items():
        torch.testing.assert_close(ours[name], grad, rtol=1e-5, atol=1e-7, msg=name)
    pooler = model.bert.pooler.dense.weight.grad
    torch.testing.assert_close(method.pooler[0].weight.grad, pooler, rtol=1e-5, atol=1e-7)
    follows = model.cls.seq_relationship.weight.grad.flip(0)
    torch.testing.assert_close(method.follows.weight.grad, follows, rtol=1e-5, atol=1e-7)


def test_without_pairs_the_loss_is_that_of_the_words():
    method = make(next_sentence=False).double()
    views = draw(method)
    ids, mask, segments, labels, _ = views
    theirs = method.encoder.model(
        input_ids=ids, attention_mask=mask.long(), token_type_ids=segments, labels=labels
    ).loss
    assert method.loss(views, 0.0).item() == pytest.approx(theirs.item(), rel=1e-6)
    assert set(method.logged) == {"embedding"}


def test_labels_of_unselected_tokens_are_not_in_the_loss():
    method = make().double()
    ids, mask, segments, labels, neighbours = draw(method)
    one = (labels != IGNORED).nonzero()[5]
    alone = torch.full_like(labels, IGNORED)
    alone[tuple(one)] = labels[tuple(one)]
    loss = method.loss((ids, mask, segments, alone, neighbours), 0.0) - method.logged["pairs"]
    logits = method.encoder.logits(Tokens(ids, mask, segments))[tuple(one)].tolist()
    expected = math.log(sum(math.exp(x) for x in logits)) - logits[labels[tuple(one)]]
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_pairs_are_half_neighbours_and_half_from_other_documents():
    method = make(selected=0.0)
    passages, tokenizer = method.passages, method.encoder.tokenizer
    rows = passages.rows[torch.arange(len(passages.rows))].tokens
    whole = [row[here].tolist() for row, here in zip(rows.ids, rows.mask, strict=True)]
    documents = [tokenizer.inner.encode(t, add_special_tokens=False).ids for t in DATA.texts]

    def holders(run):
        return {
            d
            for d, document in enumerate(documents)
            if any(document[i : i + len(run)] == run for i in range(len(document)))
        }

    total, near = 0, 0
    for step in range(40):
        ids, mask, segments, labels, neighbours = draw(method, step)
        assert labels.eq(IGNORED).all()
        for row in range(B):
            tokens = ids[row][mask[row]].tolist()
            parts = segments[row][mask[row]].tolist()
            cut = tokens.index(tokenizer.sep)
            first, second = tokens[1:cut], tokens[cut + 1 : -1]
            assert tokens[0] == tokenizer.cls
            assert tokens[-1] == tokenizer.sep
            assert parts == [0] * (cut + 1) + [1] * (len(second) + 1)
            number = int(passages.first[(row + step * B) % len(method.data)])
            assert first == whole[number]
            if neighbours[row]:
                assert second == whole[number + 1]
            elif step < 5:
                assert holders(second) - holders(first + whole[number + 1])
        near += int(neighbours.sum())
        total += B
    assert abs(near / total - 0.5) < 4 * 0.5 / math.sqrt(total)


def test_encoders_that_do_not_fit_are_refused():
    with pytest.raises(NotApplicable, match=r"mlm needs a bidirectional encoder with a mask: gpt2"):
        MLM(tiny_gpt(), DATA)
    with pytest.raises(ValueError, match=r"shares of 1 expected.* masked = 0.95, replaced = 0.1"):
        MLM(tiny_bert(), DATA, masked=0.95)
    with pytest.raises(ValueError, match=r"length = 2: bert.* takes 3 to 24 tokens"):
        MLM(tiny_bert(), DATA, length=2, next_sentence=False)
    with pytest.raises(ValueError, match=r"length = 99: bert.* takes 5 to 24 tokens"):
        MLM(tiny_bert(), DATA, length=99)

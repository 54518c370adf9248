import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from seqeval.metrics.sequence_labeling import get_entities

from sslbench.data import load
from sslbench.data.builtin_official import OFFICIAL
from sslbench.data.carve import carve
from sslbench.data.sources.conll2003 import TAGS, iob2
from sslbench.data.table import find, resolve, rows
from sslbench.errors import UserError

PARTS = ("train", "validation", "test")

# Per task: the header (none for CoLA) and lines as in the official files, with a place for the
# example's number; labels turn by turn; the columns of the texts; and the classes.
SST2 = ("sentence\tlabel", "it 's \"film {i}\tLABEL", "01", ["negative", "positive"])
COLA = ("", "gj04\tLABEL\t*\tWords {i} not order in.", "01", ["unacceptable", "acceptable"])
MRPC = (
    "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
    "LABEL\t{i}\t7\tHe said \"no {i}\tIt's {i}.",
    "01",
    ["different", "equivalent"],
)
QQP = (
    "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
    "{i}\t1\t2\tWhy {i}?\tHow {i}?\tLABEL",
    "01",
    ["different", "duplicate"],
)
STSB = (
    "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
    "{i}\tmain\tMSRvid\t2012\t1\tnone\tnone\tA plane {i}.\tAn air plane {i}.\tLABEL",
    ["5.000", "2.600", "0.0"],
    [],
)
MNLI = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
    "sentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label",
    "{i}\t3\t3n\tfiction\t( a b )\t( c )\t(ROOT a)\t(ROOT c)\tA {i}.\tB {i}.\tneutral\tLABEL",
    ["entailment", "neutral", "contradiction"],
    ["entailment", "neutral", "contradiction"],
)
QNLI = (
    "index\tquestion\tsentence\tlabel",
    "{i}\tWhen {i}?\tThen {i}.\tLABEL",
    ["entailment", "not_entailment"],
    ["entailment", "not_entailment"],
)
RTE = (
    "index\tsentence1\tsentence2\tlabel",
    "{i}\tA {i}.\tB {i}.\tLABEL",
    ["entailment", "not_entailment"],
    ["entailment", "not_entailment"],
)
GLUE = {
    "SST-2": (SST2, ["it 's \"film {i}"]),
    "CoLA": (COLA, ["Words {i} not order in."]),
    "MRPC": (MRPC, ['He said "no {i}', "It's {i}."]),
    "QQP": (QQP, ["Why {i}?", "How {i}?"]),
    "STS-B": (STSB, ["A plane {i}.", "An air plane {i}."]),
    "MNLI": (MNLI, ["A {i}.", "B {i}."]),
    "QNLI": (QNLI, ["When {i}?", "Then {i}."]),
    "RTE": (RTE, ["A {i}.", "B {i}."]),
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty data root."""
    monkeypatch.setenv("SSLBENCH_DATA", str(tmp_path))
    return tmp_path


def row_of(task):
    return find(f"glue-{task.replace('-', '').lower()}")


def write_glue(root, task, file, numbers, end="\n"):
    (header, line, labels, _), _ = GLUE[task]
    folder = root / "glue" / task
    folder.mkdir(parents=True, exist_ok=True)
    lines = [line.replace("{i}", str(i)).replace("LABEL", labels[i % len(labels)]) for i in numbers]
    text = end.join([*([header] if header else []), *lines]) + end
    (folder / file).write_text(text, encoding="utf-8", newline="")


def opened(row):
    return resolve(row.loader)(row, Path())


def everything(split):
    batch = split[torch.arange(len(split))]
    return list(zip(batch.texts, batch.target.tolist(), strict=True))


@pytest.mark.parametrize("task", GLUE)
def test_glue(root, task):
    (_, _, labels, names), texts = GLUE[task]
    held_out = {"test": "dev.tsv"}
    if task == "MNLI":
        held_out = {"test": "dev_matched.tsv", "mismatched": "dev_mismatched.tsv"}
    write_glue(root, task, "train.tsv", range(60))
    for start, file in zip((60, 70), held_out.values(), strict=False):
        write_glue(root, task, file, range(start, start + 9), end="\r\n")

    def expected(i):
        text = [t.replace("{i}", str(i)) for t in texts]
        label = labels[i % len(labels)]
        value = i % len(labels) if names else float(np.float32(label))
        return (tuple(text) if len(text) > 1 else text[0]), value

    row = row_of(task)
    found, parts = opened(row)
    assert found == names
    assert row.classes == len(names)
    assert row.targets == (
        ("rating",) if not names else ("pair",) if len(texts) > 1 else ("label",)
    )
    dealt = everything(parts["train"]) + everything(parts["validation"])
    assert sorted(dealt) == sorted(expected(i) for i in range(60))
    assert len(parts["validation"]) == 6
    assert everything(parts["test"]) == [expected(i) for i in range(60, 69)]
    if task == "MNLI":
        assert everything(parts["mismatched"]) == [expected(i) for i in range(70, 79)]
    if names:
        assert np.bincount(parts["validation"].labels).tolist() == [6 // len(names)] * len(names)
        assert parts["test"].labels.dtype == np.int64
    else:
        assert parts["test"].labels.dtype == np.float32


def test_ratings_load_as_a_dataset(root, monkeypatch):
    write_glue(root, "STS-B", "train.tsv", range(30))
    write_glue(root, "STS-B", "dev.tsv", range(1500))
    data = load("glue-stsb")
    assert (data.targets, data.classes, data.chance) == (("rating",), 0, 0)
    assert [len(data[part]) for part in PARTS] == [27, 3, 1500]
    assert set(data["train"].labels) <= {np.float32(2.6), 5, 0}


def test_the_size_of_the_official_dev_split_is_checked(root):
    for file in ("train.tsv", "dev.tsv"):
        write_glue(root, "RTE", file, range(30))
    with pytest.raises(UserError, match="glue-rte: 277 test examples expected, 30 found"):
        load("glue-rte")


def test_broken_lines_of_glue_are_left_out(root):
    write_glue(root, "QQP", "train.tsv", range(20))
    write_glue(root, "QQP", "dev.tsv", range(5))
    with (root / "glue/QQP/train.tsv").open("a") as file:
        file.write("20\t1\t2\tWhy\nis this broken?\tHow?\t1\n")
    _, parts = opened(row_of("QQP"))
    assert len(parts["train"]) + len(parts["validation"]) == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), r"dev\.tsv is not there; put the official files into .*RTE"),
        (
            lambda path: path.write_text("index\tsentence1\tlabel\n1\ta\tentailment\n"),
            r"dev\.tsv, line 1: no column 'sentence2', only \['index',",
        ),
        (
            lambda path: path.write_text(path.read_text() + "9\ta\tb\tneutral\n"),
            r"dev\.tsv, line 5: label 'neutral'; allowed: entailment, not_entailment",
        ),
        (
            lambda path: path.write_bytes(path.read_bytes() + b"9\t\xe9\tb\tentailment\n"),
            r"dev\.tsv, line 5: byte 0xe9 is not UTF-8",
        ),
    ],
    ids=["missing", "columns", "label", "encoding"],
)
def test_an_unfit_file_of_glue_is_an_error(root, change, message):
    for file in ("train.tsv", "dev.tsv"):
        write_glue(root, "RTE", file, range(3))
    change(root / "glue/RTE/dev.tsv")
    with pytest.raises(UserError, match=message):
        opened(row_of("RTE"))


def test_a_rating_is_a_number(root):
    for file in ("train.tsv", "dev.tsv"):
        write_glue(root, "STS-B", file, range(30))
    path = root / "glue/STS-B/dev.tsv"
    path.write_text(path.read_text().replace("2.600", "high", 1))
    with pytest.raises(UserError, match=r"line 3: expected a rating, found 'high'"):
        opened(row_of("STS-B"))


# CoNLL-2003

SENTENCES = """-DOCSTART- -X- -X- O

EU NNP I-NP I-ORG
rejects VBZ I-VP O
German JJ I-NP I-MISC
call NN I-NP O
. . O O

Peter NNP I-NP I-PER
Blackburn NNP I-NP I-PER

-DOCSTART- -X- -X- O

Rome NNP I-NP I-LOC
Milan NNP B-NP B-LOC
Inter NNP I-NP I-ORG
Milan NNP I-NP I-ORG
AC NNP I-NP B-ORG
Milan NNP I-NP I-ORG

"""
EXPECTED = [
    (("EU", "rejects", "German", "call", "."), ["B-ORG", "O", "B-MISC", "O", "O"]),
    (("Peter", "Blackburn"), ["B-PER", "I-PER"]),
    (
        ("Rome", "Milan", "Inter", "Milan", "AC", "Milan"),
        ["B-LOC", "B-LOC", "B-ORG", "I-ORG", "B-ORG", "I-ORG"],
    ),
]


@pytest.mark.parametrize("text", [SENTENCES, SENTENCES.rstrip(), SENTENCES.replace("\n", "\r\n")])
def test_conll2003(root, text):
    (root / "conll2003").mkdir()
    for file in ("eng.train", "eng.testa", "eng.testb"):
        (root / "conll2003" / file).write_text(text, newline="")
    names, parts = opened(find("conll2003"))
    assert names == TAGS
    assert find("conll2003").classes == len(TAGS) == 9
    assert list(parts) == list(PARTS)
    for split in parts.values():
        batch = split[torch.arange(3)]
        assert list(zip(batch.texts, batch.target, strict=True)) == EXPECTED
        assert split.groups.tolist() == [1, 1, 2]
        assert split.labels is None


def names_by_hand(tags):
    """Names in IOB1: from one that is not O, on while the kind stays and no B- is in between."""
    found, start = set(), None
    for i, tag in enumerate([*tags, "O"]):
        if start is not None and (tag[2:] != tags[start][2:] or tag[0] == "B"):
            found.add((tags[start][2:], start, i - 1))
            start = None
        if start is None and tag != "O":
            start = i
    return found


def test_names_survive_the_change_of_scheme():
    random = np.random.default_rng(0)
    for _ in range(300):
        tags = [str(tag) for tag in random.choice(TAGS[:5], random.integers(1, 9))]
        changed = iob2(tags)
        assert set(get_entities(changed)) == names_by_hand(tags)
        assert iob2(changed) == changed
        last = "O"
        for tag in changed:  # in IOB2 only what goes on is I-
            assert tag[0] != "I" or last[2:] == tag[2:]
            last = tag


def test_an_unfit_file_of_conll2003_is_an_error(root):
    with pytest.raises(UserError, match=r"eng\.train is not there"):
        opened(find("conll2003"))
    (root / "conll2003").mkdir()
    path = root / "conll2003" / "eng.train"
    path.write_text("EU NNP I-NP I-ORG\nrejects VBZ I-VP X\n")
    with pytest.raises(
        UserError, match=r"line 2: expected a word and one of .*, found 'rejects VBZ"
    ):
        opened(find("conll2003"))
    path.write_bytes(b"EU NNP I-NP I-ORG\n\xff\n")
    with pytest.raises(UserError, match="line 2: byte 0xff is not UTF-8"):
        opened(find("conll2003"))


# SQuAD


def write_squad(root, file, articles):
    """Two passages per article, with two questions and one."""
    content = {"version": "1.1", "data": []}
    for a in range(articles):
        paragraphs = []
        for p in range(2):
            context = f"Article {a}, passage {p}: é is an answer."
            answers = [{"answer_start": 22, "text": "é"}, {"answer_start": 22, "text": "é is"}]
            qas = [
                {"id": f"{a}.{p}.{q}", "question": f"What {q}?", "answers": answers[: 2 - q]}
                for q in range(2 - p)
            ]
            paragraphs.append({"context": context, "qas": qas})
        content["data"].append({"title": f"Article_{a}", "paragraphs": paragraphs})
    (root / "squad").mkdir(exist_ok=True)
    (root / "squad" / file).write_text(json.dumps(content))


def test_squad(root):
    write_squad(root, "train-v1.1.json", 20)
    write_squad(root, "dev-v1.1.json", 2)
    names, parts = opened(find("squad"))
    assert names == []
    assert {name: len(parts[name]) for name in PARTS} == {"train": 54, "validation": 6, "test": 6}
    assert set(parts["train"].groups).isdisjoint(parts["validation"].groups)
    dealt = carve(np.zeros(60, np.int64), {"validation": 0.1}, np.repeat(np.arange(20), 3))
    assert set(parts["validation"].groups) == set(dealt["validation"] // 3)
    batch = parts["test"][torch.tensor([0, 4])]
    assert batch.texts == [
        ("What 0?", "Article 0, passage 0: é is an answer."),
        ("What 1?", "Article 1, passage 0: é is an answer."),
    ]
    assert batch.target == [
        {"id": "0.0.0", "answers": ["é", "é is"], "starts": [22, 22]},
        {"id": "1.0.1", "answers": ["é"], "starts": [22]},
    ]
    assert parts["test"].groups.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("text", ["[1]", "{", '{"data": [{"paragraphs": [{"context": "x"}]}]}'])
def test_an_unfit_file_of_squad_is_an_error(root, text):
    with pytest.raises(UserError, match=r"train-v1\.1\.json is not there"):
        opened(find("squad"))
    (root / "squad").mkdir()
    (root / "squad/train-v1.1.json").write_text(text)
    with pytest.raises(UserError, match=r"train-v1\.1\.json is not a file of SQuAD 1\.1"):
        opened(find("squad"))


def test_rows_are_in_the_table():
    table = rows()
    for row in OFFICIAL:
        assert table[row.name] is row
        assert row.description
        assert row.licence
        assert "$SSLBENCH_DATA" in row.source
        assert row.modality == "text"
        assert callable(resolve(row.loader))
        assert dataclasses.replace(row).splits["test"] > 0
    assert {row.name for row in OFFICIAL} >= {f"glue-{t.replace('-', '').lower()}" for t in GLUE}

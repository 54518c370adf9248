import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from sslbench.data import load, load_train
from sslbench.data.table import find
from sslbench.errors import UserError

PARTS = ("train", "validation", "test")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def json_lines(lines):
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def examples(data):
    """Texts and class names by split."""
    found = {}
    for part in PARTS:
        batch = data[part][torch.arange(len(data[part]))]
        target = [None] * len(batch) if batch.target is None else batch.target.tolist()
        names = [None if i is None else data.class_names[i] for i in target]
        found[part] = list(zip(batch.texts, names, strict=True))
    return found


def together(data):
    return sorted(example for part in examples(data).values() for example in part)


def test_documents_are_what_blank_lines_separate(tmp_path):
    documents = [f"Line {i}\n  and another – é\u2028same line" for i in range(20)]
    text = "\ufeff\n\n" + "\n \n\n".join(documents) + "\n\n"
    path = write(tmp_path / "prose.txt", text)
    name = f"text:{path}"
    data = load(name)
    assert (data.modality, data.targets, data.classes, data.chance) == ("text", (), 0, 0)
    assert [len(data[part]) for part in PARTS] == [14, 2, 4]
    assert [text for text, _ in together(data)] == sorted(documents)
    assert data["train"].labels is None
    assert load_train(name)[1] is data["train"]


def test_line_ends_do_not_matter(tmp_path):
    text = "\n\n".join(f"a{i}\nb" for i in range(10))
    unix = load(f"text:{write(tmp_path / 'unix.txt', text)}")
    path = write(tmp_path / "windows.txt", text.replace("\n", "\r\n"))
    assert load(f"text:{path}").hash == unix.hash


LABELLED = [(f'say "{i}",\tthen', "good" if i % 2 else "bad") for i in range(20)]


def test_classes_in_csv_and_json_lines(tmp_path):
    quoted = ['"{}",{}\n'.format(t.replace('"', '""'), y) for t, y in LABELLED]
    path = write(tmp_path / "a.csv", "text,label\n" + "".join(quoted))
    table = load(f"text:{path}")
    lines = json_lines({"label": y, "text": t} for t, y in LABELLED)
    assert table.hash == load(f"text:{write(tmp_path / 'a.jsonl', lines)}").hash
    assert (table.targets, table.class_names, table.chance) == (("label",), ("bad", "good"), 0.5)
    assert together(table) == sorted(LABELLED)
    assert [np.bincount(table[p].labels).tolist() for p in PARTS] == [[7, 7], [1, 1], [2, 2]]


def test_pairs_in_tsv_are_never_quoted(tmp_path):
    pairs = [((f'"open {i}', "a, b"), str(i % 3)) for i in range(30)]
    lines = "".join(f"{a}\t{b}\t{y}\n" for (a, b), y in pairs)
    path = write(tmp_path / "a.tsv", "text_a\ttext_b\tlabel\n" + lines)
    data = load(f"text:{path}")
    assert data.targets == ("pair",)
    assert together(data) == sorted(pairs)


def test_the_order_of_columns_does_not_turn_a_pair_round(tmp_path):
    lines = json_lines({"text_b": f"second {i}", "text": f"first {i}"} for i in range(10))
    data = load(f"text:{write(tmp_path / 'a.jsonl', lines)}")
    assert data.targets == ()
    assert [text for text, _ in together(data)] == [
        (f"first {i}", f"second {i}") for i in range(10)
    ]


def test_whole_numbers_are_classes_in_their_order(tmp_path):
    lines = json_lines({"text": "x", "label": i % 12} for i in range(120))
    data = load(f"text:{write(tmp_path / 'a.jsonl', lines)}")
    assert data.class_names == tuple(map(str, range(12)))
    assert data.chance == 2 / 24


def test_a_folder_may_bring_its_splits(tmp_path):
    def rows(n, label):
        return json_lines({"text": f"{label} {i}", "label": label} for i in range(n))

    write(tmp_path / "a/train.jsonl", rows(10, "x") + rows(10, "y"))
    write(tmp_path / "a/test.csv", "label,text\ny,hello\n")
    write(tmp_path / "a/notes.md", "nothing")
    data = load(f"text:{tmp_path / 'a'}")
    assert [len(data[part]) for part in PARTS] == [18, 2, 1]
    assert examples(data)["test"] == [("hello", "y")]
    write(tmp_path / "b/train.txt", "a\n\nb")
    write(tmp_path / "b/dev.txt", "c")
    write(tmp_path / "b/test.txt", "d\n\ne")
    data = load(f"text:{tmp_path / 'b'}")
    assert examples(data) == {
        "train": [("a", None), ("b", None)],
        "validation": [("c", None)],
        "test": [("d", None), ("e", None)],
    }


def test_without_test_the_development_file_is_the_test_split(tmp_path):
    write(tmp_path / "train.txt", "\n\n".join("abcdefghij"))
    write(tmp_path / "dev.txt", "x")
    data = load(f"text:{tmp_path}")
    assert [len(data[part]) for part in PARTS] == [9, 1, 1]
    assert examples(data)["test"] == [("x", None)]


def test_the_hash_tells_the_content_but_not_the_place(tmp_path):
    def made(where, text):
        return load(f"text:{write(tmp_path / where, text)}").hash

    text = "\n\n".join("abcdefghij")
    assert made("a.txt", text) == made("b/c.txt", text)
    assert made("a.txt", text) != made("d.txt", text.replace("j", "k"))


def test_a_path_is_resolved(tmp_path, monkeypatch):
    path = write(tmp_path / "a.txt", "\n\n".join("abcdefghij"))
    monkeypatch.chdir(tmp_path)
    assert find("text:a.txt") == find(f"text:{path}")
    assert find("text:a.txt").name == f"text:{path.resolve()}"


def test_what_a_file_holds_is_known_without_torch(tmp_path):
    path = write(tmp_path / "a.jsonl", json_lines([{"text": "x", "label": 1}]))
    code = (
        "import sys; from sslbench.data.table import find; print(find(sys.argv[1]).targets,"
        "sorted({'torch', 'numpy'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, f"text:{path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "('label',) []"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", ": 0 examples are too few"),
        ("a.txt", "one\n\ntwo", ": 2 examples are too few"),
        ("a.txt", b"one\ntw\xf6\n", ", line 2: byte 0xf6 is not UTF-8; save the file as UTF-8"),
        ("a.csv", b"text\n" + b"fine\n" * 9999 + b"\x80\n", ", line 10001: byte 0x80 is not UTF"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xe9"}', ", line 2: byte 0xe9 is not UTF-8"),
        ("a.csv", "", ": expected examples, found none"),
        ("a.csv", "text,label\n", ": expected examples, found none"),
        ("a.csv", "text,lable\nx,y\n", ", line 2: unknown column 'lable'; did you mean 'label'"),
        (
            "a.csv",
            "label\ny\n",
            r", line 2: expected a column 'text' or 'text_a', found \['label'\]",
        ),
        ("a.csv", "text,text_a\nx,y\n", ", line 2: expected a column 'text' or 'text_a'"),
        ("a.csv", "text,label\nx,y\nx\n", ", line 3: 2 columns expected"),
        ("a.csv", 'text,label\nx,y\n"x,y\na,b\n', ", line 3: unexpected end of data"),
        ("a.csv", "text,label\nx,y\n,y\n", ", line 3: expected a text, found ''"),
        ("a.csv", "text,label\nx,\n", ", line 2: a label is a string or an integer, found ''"),
        ("a.jsonl", '{"text": "x", "label": 1.5}', ", line 1: a label is .* integer, found 1.5"),
        ("a.jsonl", '{"text": "x", "label": true}', ", line 1: a label is .* found True"),
        ("a.jsonl", '{"text": "x", "label": null}', ", line 1: a label is .* found None"),
        ("a.jsonl", '{"text": ["x"]}', r", line 1: expected a text, found \['x'\]"),
        ("a.jsonl", '{"text": "x"}\n\n[1]', r", line 3: expected an object with keys, found \[1\]"),
        ("a.jsonl", '{"text": "x"}\n{"text": "x"', ", line 2: not JSON: "),
        ("a.jsonl", '{"text": "x"}\n{"text": "y", "label": 1}', ", line 2: unknown column 'label'"),
        (
            "a.jsonl",
            '{"text": "x", "label": 1}\n{"text": "y"}',
            ", line 2: no column 'label', only",
        ),
        ("a.pdf", "", r": expected a folder or a file \.txt, \.jsonl, .*, found a file \.pdf"),
    ],
)
def test_an_unfit_file_is_an_error(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(UserError, match=message) as error:
        load(f"text:{path}")
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"expected a file train\{\.txt,.*\}, found none"),
        ({"test.txt": "x"}, r"found test\.txt"),
        ({"train.txt": "x", "train.csv": "text\nx\n"}, r"train\.csv and train\.txt are both train"),
        (
            {"train.txt": "x", "val.txt": "x", "dev.txt": ""},
            r"dev\.txt and val\.txt are both valid",
        ),
        (
            {"train.csv": "text,label\nx,y\n", "test.txt": "x"},
            r"test\.txt: train has the columns text, label, a \.txt file has none",
        ),
        (
            {"train.csv": "text,label\nx,y\n", "test.csv": "text\nx\n"},
            r"test\.csv, line 2: no column 'label', only text",
        ),
        (
            {"train.csv": "text,label\nx,y\n", "test.csv": "text,label\nx,y\nx,z\n"},
            r"test\.csv, line 3: label 'z' is not among those of train",
        ),
    ],
)
def test_an_unfit_folder_is_an_error(tmp_path, files, message):
    for name, content in files.items():
        write(tmp_path / name, content)
    with pytest.raises(UserError, match=message):
        load(f"text:{tmp_path}")


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"expected a folder or a file .*, found nothing"):
        find(f"text:{tmp_path / 'none.txt'}")

import json

import numpy as np
import pytest

from sslbench.errors import UserError
from sslbench.records import (
    Checkpoint,
    Provenance,
    Record,
    Score,
    Store,
    pack,
    parse_record,
    read_records,
    unpack,
    write_lines,
)


def record(key="ab12", value=0.5, **changes):
    fields = {
        "key": key,
        "status": "ok",
        "checkpoint": Checkpoint(
            key="c", name="simclr", family="contrastive", encoder="resnet18()"
        ),
        "task": "knn",
        "protocol": "knn",
        "task_version": 1,
        "dataset": "digits",
        "headline": "top1",
        "scores": {"top1": Score(value=value, n=4)},
        "provenance": Provenance(created="2026-01-01T00:00:00+00:00"),
    }
    return Record(**fields | changes)


def test_a_record_comes_back_with_its_examples(tmp_path):
    store = Store(tmp_path)
    examples = {"top1": np.array([1.0, 0.0, 1.0, 0.0])}
    put = store.put(record(), examples)
    assert store.get("ab12") == put
    np.testing.assert_array_equal(store.examples(put)["top1"], examples["top1"])
    assert list(store) == [put]
    assert store.get("cd34") is None


def test_a_second_completion_must_agree_and_is_counted(tmp_path):
    store = Store(tmp_path)
    store.put(record())
    assert store.put(record()).completions == 2
    with pytest.raises(UserError, match=r"other scores: top1 0\.5, now top1 0\.6"):
        store.put(record(value=0.6))
    assert store.get("ab12").scores["top1"].value == 0.5
    assert store.put(record(value=0.5 + 1e-12)).completions == 3  # other threads, other last digits
    assert store.put(record(status="failed", reason="later")).status == "ok"


def test_a_failure_gives_way_to_a_success(tmp_path):
    store = Store(tmp_path)
    store.put(record(status="failed", reason="disk", scores={}))
    store.put(record())
    assert store.get("ab12").status == "ok"


def test_altered_examples_are_noticed(tmp_path):
    store = Store(tmp_path)
    put = store.put(record(), {"top1": np.ones(4)})
    path = store.path("ab12").with_suffix(".npz")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="not the file that its record names"):
        store.examples(put)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 99}', '{"schema_version": 1}'])
def test_a_damaged_record_names_its_file(tmp_path, text):
    store = Store(tmp_path)
    store.put(record())
    store.path("ab12").write_text(text)
    with pytest.raises(UserError, match=r"ab12\.json: not a valid record .*remove the file"):
        store.get("ab12")


def test_an_unknown_field_is_refused():
    text = record().model_dump_json().replace('"task":', '"tusk":', 1)
    with pytest.raises(ValueError, match="task"):
        parse_record(text)


@pytest.mark.parametrize(
    "values", [np.array([1, 0, 1, 1, 0, 0, 1, 0, 1]), np.array([3, -1, 7]), np.array([0.25, 0.5])]
)
def test_packed_vectors_come_back(values):
    np.testing.assert_array_equal(unpack(pack(values)), values)


def test_lines_hold_all_that_a_folder_holds(tmp_path):
    store = Store(tmp_path / "run" / "records")
    store.put(record("ab12"), {"top1": np.array([1.0, 0.0]), "groups": np.array([5, 5])})
    store.put(record("0012", status="failed", reason="x", scores={}))
    from_folder = read_records(tmp_path / "run")
    write_lines(from_folder, tmp_path / "records.jsonl")
    assert read_records(tmp_path / "records.jsonl") == from_folder
    assert [r.key for r in from_folder] == ["0012", "ab12"]
    np.testing.assert_array_equal(unpack(from_folder[1].inline["groups"]), [5, 5])


def test_the_folder_of_a_board_is_read_by_its_lines(tmp_path):
    write_lines([record()], tmp_path / "records.jsonl")
    assert read_records(tmp_path) == [record()]
    Store(tmp_path / "records").put(record("cd34"))  # a run folder holds the records themselves
    assert [r.key for r in read_records(tmp_path)] == ["cd34"]


def test_nothing_to_read_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no records found"):
        read_records(tmp_path)
    path = tmp_path / "records.jsonl"
    path.write_text("{}\n")
    with pytest.raises(UserError, match="line 1: schema version None"):
        read_records(path)


@pytest.mark.parametrize(
    "text",
    ["bits:3000000000:AA==", "f4:2:AAAA", "i8:1:AAAAAAAAAAA=", "f4:x:AAAA", "f4", "bits:8:A!=="],
)
def test_a_packed_vector_is_as_long_as_it_says(text):
    with pytest.raises(ValueError, match="KIND:N:BASE64 expected"):
        unpack(text)


@pytest.mark.parametrize("key", ["../../evil", "", "AB12", "/etc/x", "ab12\n"])
def test_a_key_never_leaves_the_folder(key):
    with pytest.raises(ValueError, match="key"):
        parse_record(record().model_dump_json().replace('"ab12"', json.dumps(key)))


def test_names_with_line_separators_come_back(tmp_path):
    odd = record(checkpoint=Checkpoint(key="c", name="a\u2028b\x85c", family="x", encoder="y"))
    write_lines([odd], tmp_path / "records.jsonl")
    assert read_records(tmp_path / "records.jsonl") == [odd]


def of(name, **more):
    """A checkpoint whose text begins like that of any other `of`."""
    return Checkpoint(key="c" * 32, name=name, family="x", encoder="y", **more)


def test_a_line_is_the_records_json_also_where_records_share_their_checkpoint(tmp_path):
    texts = ["", '"checkpoint":{"key":"', '{"a":1}', "\n\u00e9"]
    shared = [of("simclr"), of("simclr", settings={"text": texts}), of("byol")]
    records = [
        record(f"{i:04x}", checkpoint=shared[i % 3], reason=texts[i % 4], task_settings={"x": i})
        for i in range(24)
    ]
    path = tmp_path / "records.jsonl"
    write_lines(records, path)
    lines = path.read_text().removesuffix("\n").split("\n")
    assert lines == [one.model_dump_json() for one in records]
    found = read_records(path)
    assert found == records
    assert len({id(one.checkpoint) for one in found}) < len(found)


def test_lines_in_another_order_are_read_as_they_are(tmp_path):
    records = [record(f"{i:04x}", checkpoint=of("simclr"), task_settings={}) for i in range(3)]
    fields = json.loads(records[2].model_dump_json())
    fields["task_settings"] = {"checkpoint": fields["checkpoint"]}
    other = {"schema_version": 1, "task_settings": fields.pop("task_settings"), **fields}
    texts = [records[0].model_dump_json(), records[1].model_dump_json(), json.dumps(other)]
    texts[2] = texts[2].replace(": ", ":").replace(", ", ",")
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(texts) + "\n")
    found = read_records(path)[2]
    assert found.checkpoint == of("simclr")
    assert found.task_settings == {"checkpoint": records[0].checkpoint.model_dump()}


def test_what_is_wrong_behind_a_shared_checkpoint_is_named(tmp_path):
    texts = [record(f"{i:04x}").model_dump_json() for i in range(2)]
    path = tmp_path / "records.jsonl"
    path.write_text(texts[0] + "\n" + texts[1].replace('"task_version":1', '"task_version":"x"'))
    with pytest.raises(UserError, match="line 2: task_version: "):
        read_records(path)


def test_a_line_that_is_no_text_is_named(tmp_path):
    path = tmp_path / "records.jsonl"
    text = record("abcd").model_dump_json().encode()
    path.write_bytes(text + b"\n" + text.replace(b'"knn"', b'"\xff"'))
    with pytest.raises(UserError, match="line 2: not a JSON object"):
        read_records(path)


def test_a_reason_that_looks_like_a_field_stays_one(tmp_path):
    one = record("abcd", status="failed", reason='found ,"task":"knn" in x', scores={})
    write_lines([one], tmp_path / "records.jsonl")
    assert read_records(tmp_path / "records.jsonl") == [one]

"""What is wrong with a record is found by its own check, and nothing else is."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from sslbench import registry
from sslbench.checkpoint import external_key
from sslbench.data import load, load_train, table
from sslbench.errors import UserError
from sslbench.grid.cells import Evaluation
from sslbench.leaderboard import recomputed, validate
from sslbench.leaderboard.board import build
from sslbench.leaderboard.expected import OWN
from sslbench.records import (
    Provenance,
    Score,
    Store,
    pack,
    read_records,
    unpack,
    write_lines,
)
from sslbench.statistics import interval
from tests.test_cli import fails, sslbench

ROOT = Path(__file__).parents[2]
BOARDS = sorted(path.parent for path in ROOT.glob("leaderboards/*/records.jsonl"))
KNN = {"k": 20, "temperature": 0.07}


def keyed(record):
    """With the key that its own fields give it."""
    c = record.checkpoint
    cell = Evaluation(
        c.key, c.at, record.task, record.protocol, record.task_version, record.task_settings,
        record.dataset, record.dataset_hash or "", record.eval_seed,
    )  # fmt: skip
    return record.model_copy(update={"key": cell.key})


@pytest.fixture
def sound(make):
    """A function that makes a record of kNN on digits with which nothing is wrong."""
    data, train = load_train("digits")
    n = len(data["test"])

    def made(name="simclr", *, right=300, checkpoint=None, **fields):
        known = {
            "examples": (np.arange(n) < right).astype(float),
            "task_settings": KNN,
            "chance": data.chance,
            "dataset_hash": data.hash,
            "n_train": len(data["train"]),
            "n_test": n,
        }
        checkpoint = {"pretrain_dataset_hash": train.hash, **(checkpoint or {})}
        return keyed(make(name, checkpoint=checkpoint, **{**known, **fields}))

    return made


@pytest.fixture
def said(tmp_path):
    """A function: records, one file for each argument → what is found, as (check, level, text)."""

    def validated(*files):
        paths = []
        for number, records in enumerate(files):
            paths.append(tmp_path / f"{number}.jsonl")
            text = (r if isinstance(r, str) else r.model_dump_json() for r in records)
            paths[-1].write_text("".join(line + "\n" for line in text))
        return [(f.check, f.level, f.text) for f in validate(paths).findings]

    return validated


def changed(record, **fields):
    """With fields replaced, of its checkpoint too (checkpoint__at), and the key left as it is."""
    own = {name: value for name, value in fields.items() if "__" not in name}
    inner: dict[str, dict] = {}
    for name, value in fields.items():
        if "__" in name:
            part, field = name.split("__")
            inner.setdefault(part, {})[field] = value
    for part, values in inner.items():
        own[part] = getattr(record, part).model_copy(update=values)
    return record.model_copy(update=own)


def scored(record, **fields):
    """With fields of its headline score replaced."""
    score = record.scores[record.headline].model_copy(update=fields)
    return changed(record, scores={**record.scores, record.headline: score})


def measured(values, groups=None):
    """The score of per-example scores."""
    stderr, low, high = interval(values, groups)
    value = float(values.mean())
    return Score(value=value, n=len(values), standard_error=stderr, low=low, high=high)


def only(findings, check, level="problem"):
    """The text of the only finding, which must be of this check."""
    ((found, how, text),) = findings
    assert (found, how) == (check, level), findings
    return text


def test_nothing_is_found_in_what_is_right(sound, tmp_path):
    records = [sound(), sound("byol", right=200), sound(seed=1)]
    records.append(sound("vicreg", status="failed", reason="diverged", examples=None, chance=None))
    write_lines(records, tmp_path / "board" / "records.jsonl")
    store = Store(tmp_path / "run" / "records")
    for record in records:
        store.put(
            changed(record, inline=None), {n: unpack(x) for n, x in (record.inline or {}).items()}
        )
    lines = tmp_path / "board" / "records.jsonl"
    for source in (lines, lines.parent, tmp_path / "run", store.folder):
        report = validate([source])
        assert (report.records, report.findings) == (4, []), source


def test_groups_and_every_metric_of_a_store_are_computed_again(sound, tmp_path):
    groups = np.arange(359) // 7
    record = sound(groups=groups)
    values = np.linspace(0, 0.7, 359)
    bounds = interval(values, groups)
    score = Score(
        value=float(values.mean()), n=359, standard_error=bounds[0], low=bounds[1], high=bounds[2]
    )
    record = changed(record, scores={**record.scores, "mean_per_class": score}, inline=None)
    arrays = {
        "top1": (np.arange(359) < 300).astype(float),
        "mean_per_class": values,
        "groups": groups,
    }
    store = Store(tmp_path / "records")
    record = store.put(record, arrays)
    assert validate([tmp_path]).findings == []
    path = store.path(record.key)
    path.write_text(path.read_text().replace(f'"low": {score.low}', f'"low": {score.low + 0.01}'))
    (found,) = validate([tmp_path]).findings
    assert found.check == "examples"
    assert found.text.startswith("mean_per_class: standard error")
    with path.with_suffix(".npz").open("ab") as file:
        file.write(b"x")
    assert "not the file that its record names" in validate([tmp_path]).findings[0].text
    path.with_suffix(".npz").unlink()
    assert "missing" in validate([tmp_path]).findings[0].text


DAMAGED = {
    "{": "not a JSON object",
    "": "not a JSON object",
    "[1]": "not a JSON object",
    "[" * 100_000: "recursion",
    '{"schema_version": 1': "not a JSON object",
    '{"schema_version": 0}': "schema version 0, older than 1 of this sslbench: publish it again",
    '{"schema_version": 7}': "schema version 7, newer than 1 of this sslbench: update sslbench",
    "{}": "schema version None",
}


@pytest.mark.parametrize(("line", "text"), DAMAGED.items(), ids=range(len(DAMAGED)))
def test_a_damaged_line_is_named_and_hides_no_other(sound, said, line, text):
    assert text in only(said([sound(), line, sound("byol")]), "schema")
    wrong = scored(sound("byol"), value=0.1)
    assert {check for check, *_ in said([line, wrong])} == {"schema", "values", "examples"}


def test_fields_are_named_with_what_was_found(sound, said, tmp_path):
    plain = json.loads(sound().model_dump_json())
    without = {name: value for name, value in plain.items() if name != "task"}
    assert only(said([json.dumps(without)]), "schema") == "task: Field required"
    text = only(said([json.dumps({**plain, "colour": "red"})]), "schema")
    assert text == "colour: Extra inputs are not permitted, found 'red'"
    plain["scores"]["top1"]["value"] = "high"
    plain["n_test"] = [1]
    lines = tmp_path / "a.jsonl"
    lines.write_text(json.dumps(plain) + "\n")
    first, second = sorted(map(str, validate([lines]).findings))
    assert first.startswith(f"{lines}:1: simclr in knn/digits ({plain['key']}): n_test: Input")
    assert second.endswith("unable to parse string as a number, found 'high'")


def test_bytes_that_are_no_text_and_files_that_are_folders(sound, tmp_path):
    lines = tmp_path / "a.jsonl"
    lines.write_bytes(b"\xff\n" + sound().model_dump_json().encode())
    (found,) = validate([lines]).findings
    assert (found.place, found.check) == (f"{lines}:1", "schema")
    store = Store(tmp_path / "run" / "records")
    store.put(sound())
    (store.folder / "ab" / "x.json").mkdir(parents=True)
    places = {
        f.place: f.check for f in validate([tmp_path / "run"]).findings if f.level == "problem"
    }
    assert places == {str(store.folder / "ab" / "x.json"): "schema"}


def test_one_key_twice(sound, said):
    record, failed = sound(), sound(status="failed", reason="x", examples=None, chance=None)
    text = only(said([record, record]), "identity")
    assert "0.jsonl:1, with equal scores" in text
    assert "1.jsonl" not in only(said([record], [record]), "identity", "note")
    assert "failed there and ok here" in only(said([failed], [record]), "identity", "note")
    assert "ok there and failed here" in only(said([record, failed]), "identity")
    for files in ([[record, sound(right=200)]], [[record], [sound(right=200)]]):
        text = only(said(*files), "identity")
        assert "contradicts the record at" in text
        assert text.endswith("top1 0.557103 (n = 359) here, 0.835655 (n = 359) there")


def test_what_another_machine_computed_nearly_the_same_is_worth_a_note(sound, said):
    elsewhere = Provenance(created="2026-02-02T03:04:05+00:00", hardware="8 × GPU")
    near = changed(sound(right=301), provenance=elsewhere)
    text = only(said([sound()], [near]), "identity", "note")
    assert text.endswith("as near as another machine's scores may be")


def test_one_cell_with_two_keys(sound, said):
    again = sound(task_settings={**KNN, "k": 10})
    (identity, *together) = said([sound(), again])
    assert identity[:2] == ("identity", "problem")
    assert "another key at" in identity[2]
    assert identity[2].endswith("differs in task_settings")
    assert {check for check, *_ in together} == {"together"}
    assert said([sound(), sound(eval_seed=1)]) == []


def test_a_file_with_another_name_than_its_key(sound, tmp_path):
    store = Store(tmp_path / "records")
    record = changed(sound(), inline=None)
    store.put(record)
    path = store.path("ab" * 16)
    path.parent.mkdir(parents=True)
    store.path(record.key).rename(path)
    found = [f for f in validate([tmp_path]).findings if f.level == "problem"]
    assert [f.check for f in found] == ["identity"]
    assert f"{record.key}.json expected" in found[0].text


def test_tasks(sound, said):
    assert "no task 'knnn' here" in only(said([sound(protocol="knnn")]), "task")
    newer = sound(task_version=9)
    assert "this sslbench has 1: update sslbench" in only(said([newer]), "task")
    older = sound(task="linear_probe", task_version=1, task_settings={"layer": "last"})
    text = "version 1 of linear_probe; this sslbench has 3: evaluate again"
    assert only(said([older]), "task") == text
    current = sound(task="linear_probe", task_version=3, task_settings={"layer": "last"})
    assert "only version 3 is published" in only(said([older, current]), "task", "note")
    text = only(said([sound(task_settings={**KNN, "k": "many"})]), "task")
    assert text == "settings that knn does not take: KNN.k = 'many': expected int, found str"
    assert "KNN has no setting 'q'" in only(said([sound(task_settings={"q": 1})]), "task")
    assert "k ≥ 1" in only(said([sound(task_settings={"k": 0})]), "task")
    text = only(said([sound(higher_is_better=False)]), "task")
    assert text == "higher_is_better = False; knn has True"
    assert f"chance 0.05; {load('digits').chance}" in only(said([sound(chance=0.05)]), "task")
    assert "'top1' expected" in only(said([sound(headline="top1_selected")]), "task")


def test_methods(sound, said):
    assert "no method 'simclear'" in only(said([sound("simclear")]), "method")
    text = only(said([sound(checkpoint={"method_version": 9})]), "method")
    assert text.endswith("update sslbench")
    old = [sound("w_mse", seed=seed, checkpoint={"method_version": 0}) for seed in range(3)]
    assert "version 0 of w_mse; this sslbench has" in only(said(old), "method", "note")


def test_datasets(sound, said, tmp_path, monkeypatch):
    assert "no dataset 'digit'" in only(said([sound(dataset="digit")]), "data")
    text = only(said([sound(dataset_hash="0" * 32)]), "data")
    assert text == f"dataset_hash {'0' * 32} of digits; {load('digits').hash} expected: " + (
        "computed on other data"
    )
    assert "None of digits" in only(said([sound(dataset_hash=None)]), "data")
    assert "n_test = 400; digits has 359" in only(said([sound(n_test=400)]), "data")
    text = only(said([sound(checkpoint={"pretrain_dataset_hash": "1" * 32})]), "data")
    assert text.startswith(f"pretrain_dataset_hash {'1' * 32} of digits")
    text = only(said([sound(checkpoint={"pretrain_dataset": "digits/test"})]), "data")
    assert "would invalidate every score" in text
    text = only(said([sound(checkpoint={"pretrain_dataset": "imagenot"})]), "data")
    assert "no dataset 'imagenot'" in text
    assert said([sound(dataset="folder:/home/somebody/images", dataset_hash="2" * 32)]) == []
    assert said([sound(checkpoint={"pretrain_dataset": "text:/x", "method": "byol"})]) == []

    monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path / "empty"))
    pinned = table.find("koppen").hash
    away = [sound(dataset="koppen", dataset_hash=pinned, seed=seed) for seed in range(3)]
    text = only(said(away), "data", "note")
    assert "koppen is not in the cache" in text
    assert "only its hash was compared" in text
    findings = said([sound(dataset="koppen")])
    assert [level for _, level, _ in findings] == ["problem", "note"]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"value": float("nan")}, "top1: nan: a finite number expected"),
        ({"value": 1.5, "high": 2.0}, "top1: 1.5: a share in [0, 1] expected"),
        ({"n": 0}, "top1: n = 0: at least 1 expected"),
        ({"standard_error": -0.1}, "top1: standard_error = -0.1: at least 0 expected"),
        ({"low": None}, "both bounds or none expected"),
        ({"low": 0.9}, "is not in its interval [0.9, "),
        ({"low": float("nan")}, "is not in its interval [nan, "),
    ],
)
def test_numbers_that_cannot_be(sound, said, fields, text):
    found = [text for check, _, text in said([scored(sound(), **fields)]) if check == "values"]
    assert len(found) == 1
    assert text in found[0]


def test_what_a_record_cannot_say(sound, said):
    failed = {"status": "failed", "examples": None, "chance": None}
    assert only(said([sound(**failed)]), "values") == "failed without a reason"
    with_scores = changed(sound(), status="failed", reason="x", chance=None)
    assert only(said([with_scores]), "values") == "failed, but it has scores: none expected"
    bare = changed(sound(), scores={}, inline=None)
    assert only(said([bare]), "values") == "headline 'top1' expected among the scores, found none"
    for seconds in (-1.0, float("inf"), float("nan")):
        text = only(said([changed(sound(), provenance__seconds=seconds)]), "values")
        assert text == f"seconds = {seconds}: at least 0 expected"
    text = only(said([sound(checkpoint={"pretrain_seconds": -2.0})]), "values")
    assert text == "pretrain_seconds = -2.0: at least 0 expected"
    tomorrow = datetime.now(UTC) + timedelta(hours=12)
    for created in ("2026-01-02T03:04:05", "2026-01-02T03:04:05Z", tomorrow.isoformat()):
        assert said([changed(sound(), provenance__created=created)]) == []
    text = only(said([changed(sound(), provenance__created="today")]), "values")
    assert text == "created 'today': an ISO 8601 time expected"
    later = (tomorrow + timedelta(days=2)).isoformat()
    assert "in the future" in only(said([changed(sound(), provenance__created=later)]), "values")
    checks = {check for check, *_ in said([sound(checkpoint={"at": 1.5})])}
    assert checks == {"values", "together"}


def test_an_index_that_is_adjusted_for_chance_may_be_below_it(sound, said):
    values = np.full(359, -0.01)
    fields = {"task": "clustering", "headline": "ari", "task_settings": {"restarts": 10}}
    record = sound(**fields, chance=0.0, examples=None, scores={"ari": measured(values)})
    assert said([changed(record, inline={"ari": pack(values)})]) == []


def flipped(record, metric="top1"):
    """With the answer to the first example the other way round."""
    bits = unpack(record.inline[metric])
    bits[0] = 1 - bits[0]
    return changed(record, inline={**record.inline, metric: pack(bits)})


def test_scores_that_are_not_those_of_the_examples(sound, said):
    record = sound()
    for value in (0.84, 0.8356):
        text = only(said([scored(record, value=value)]), "examples")
        assert "the mean of its 359 per-example scores is 0.835654596" in text
    assert "0.832869081" in only(said([flipped(record)]), "examples")
    for fields in ({"high": 0.9}, {"low": 0.81}, {"standard_error": 0.01}):
        text = only(said([scored(record, **fields)]), "examples")
        assert "but its examples give standard error 0.0195589 and interval [0.79" in text
    nothing = changed(record, inline=None)
    assert "no per-example scores of top1 came along" in only(said([nothing]), "examples", "note")
    assert "360, 359 per-example scores" in only(said([scored(record, n=360)]), "examples")
    texts = [text for check, _, text in said([changed(record, n_test=358)]) if check == "examples"]
    assert "359 per-example scores, n_test = 358" in texts[0]
    more = changed(record, inline={**record.inline, "top9": record.inline["top1"]})
    assert "'top9', which is not among the scores" in only(said([more]), "examples")


@pytest.mark.parametrize(
    "text",
    ["", "bits", "bits:359:", "bits:3000000000:AA==", "bits:-1:", "f8:1:AAAAAAAAAAA=", "i4:9:AA==",
     "f4:2:AAAAAAAAAA==", "bits:²:AA=="],
)  # fmt: skip
def test_examples_that_cannot_be_unpacked(sound, said, text):
    record = changed(sound(), inline={"top1": text})
    assert "KIND:N:BASE64 expected" in only(said([record]), "examples")


def test_examples_that_are_no_answers(sound, said):
    record, halves = sound(), np.full(359, 0.5)
    halves[0] = np.nan
    record = changed(record, inline={"top1": pack(halves)})
    assert "a vector of finite per-example scores" in only(said([record]), "examples")
    halves[0] = 0.5
    record = changed(record, inline={"top1": pack(halves)})
    assert "scores of 0 and 1 expected, found 0.5" in only(said([record]), "examples")


def test_draws_of_another_numpy_differ_a_little(sound, said):
    record = sound(groups=np.arange(359) // 7)
    assert said([changed(record, provenance__versions={"numpy": "0.1.2"})]) == []
    score = record.scores["top1"]
    for version, shift, count in (("0.1.2", 0.2, 0), ("0.1.2", 0.5, 1), (np.__version__, 0.01, 1)):
        moved = scored(record, low=score.low + shift * score.standard_error)
        found = said([changed(moved, provenance__versions={"numpy": version})])
        assert len(found) == count, (version, shift)


def test_intervals_over_groups_of_before_are_let_be(sound, said):
    record = sound(groups=np.arange(359) // 7)
    score = record.scores["top1"]
    narrow = scored(record, low=score.low + 0.5 * score.standard_error)
    for version, count in (("0.1.0", 0), ("0.2.0", 1)):
        own = {"sslbench": version, "numpy": np.__version__}
        assert len(said([changed(narrow, provenance__versions=own)])) == count


def test_a_changed_setting_makes_another_key(sound, said):
    record = sound()
    for fields in (
        {"task_settings": {**KNN, "k": 10}},
        {"eval_seed": 3},
        {"checkpoint__key": "0" * 32},
        {"task": "knn-mine"},
    ):
        text = only(said([changed(record, **fields)]), "key")
        assert "one of them was changed" in text
    bad = changed(sound(dataset="folder:/x"), key="ab12")
    assert only(said([bad]), "key") == "key 'ab12': 32 hex digits expected"
    only(said([changed(sound(dataset="folder:/x"), key="../../evil")]), "schema")


def test_a_checkpoint_s_key_stands_for_one_checkpoint(sound, said):
    byol, again = sound("byol"), sound("byol", eval_seed=1)
    assert said([byol, again]) == []
    for fields in ({"recipe": {"lr": 9.0}}, {"pretrain_seed": 1}, {"pretrain_epochs": 800}):
        other = sound("byol", eval_seed=1, checkpoint=fields)
        ((check, level, text), *_) = said([byol, other])
        assert (check, level) == ("key", "problem")
        assert f"stands for another {next(iter(fields))} at" in text


def test_the_key_of_somebody_else_s_checkpoint(sound, said):
    about = {
        "family": "external",
        "method": None,
        "encoder_config": {"name": "resnet50"},
        "weights_hash": "ab",
        "pretrain_dataset": "imagenet-1k",
        "pretrain_dataset_hash": None,
    }
    own = sound("theirs", checkpoint={**about, "key": external_key("theirs", about)})
    assert said([own]) == []
    renamed = keyed(changed(own, checkpoint__name="ours"))
    assert "checkpoint key" in only(said([renamed]), "key")


def test_rows_and_columns_that_the_board_refuses(sound, said):
    base = sound("byol")
    refused = {
        "checkpoint.settings": sound("byol", seed=1, checkpoint={"settings": {"hidden": 64}}),
        "checkpoint.weights_hash": sound("byol", eval_seed=1, checkpoint={"weights_hash": "b"}),
        "task_settings": sound(task_settings={**KNN, "k": 10}),
    }
    base = sound("byol", checkpoint={"weights_hash": "a"})
    for field, record in refused.items():
        with pytest.raises(UserError) as error:
            build([base, record], "")
        text = only(said([base, record]), "together")
        assert text == str(error.value)
        assert f"different {field}" in text
    with pytest.raises(UserError) as error:
        build([sound(checkpoint={"at": 0.5})], "")
    assert only(said([sound(checkpoint={"at": 0.5})]), "together") == str(error.value)


OUTDATED = "evaluate again"


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_in_the_committed_boards_nothing_is_wrong_but_old_versions(board):
    report = validate([board])
    assert report.records == len((board / "records.jsonl").read_text().splitlines())
    problems = [f for f in report.findings if f.level == "problem"]
    assert [str(f) for f in problems if not f.text.endswith(OUTDATED)] == []
    assert {f.check for f in problems} <= {"task"}


def up_to_date(record):
    """Whether a committed record is one of today's version of its task."""
    return record.task_version == registry.task(record.protocol).version


@pytest.fixture(scope="module")
def real():
    """Records of a committed board, one for each column of today's version of its task."""
    records = read_records(ROOT / "leaderboards" / "vision-tasks" / "records.jsonl")
    done = [r for r in records if r.status == "ok" and up_to_date(r)]
    return list({(r.task, r.dataset): r for r in done}.values())


def moved(record):
    """With a headline score that is one of 2,000 examples away, towards the middle."""
    value = record.scores[record.headline].value
    return scored(record, value=value + 0.0005 * (-1 if value > 0.5 else 1))


def test_what_was_done_to_real_records_is_found(real, tmp_path):
    def checks(lines):
        """The checks that find a problem, by line."""
        path = tmp_path / "records.jsonl"
        text = (x if isinstance(x, str) else x.model_dump_json() for x in lines)
        path.write_text("".join(line + "\n" for line in text))
        found = [set() for _ in path.read_text().splitlines()]
        for finding in validate([path]).findings:
            if finding.level == "problem":
                found[int(finding.place.rpartition(":")[2]) - 1].add(finding.check)
        return found

    n, nothing = len(real), set()
    assert n >= 25
    assert checks(real) == [nothing] * n
    assert checks([*real, *real]) == [nothing] * n + [{"identity"}] * n
    assert checks([r.model_dump_json()[:-9] for r in real]) == [{"schema"}] * n
    settings = [changed(r, task_settings={**r.task_settings, "seed": 1}) for r in real]
    assert checks(settings) == [{"task", "key"}] * n
    old = [keyed(changed(r, task_version=r.task_version - 1)) for r in real]
    assert checks(old) == [{"task"}] * n
    other = [keyed(changed(r, dataset_hash="0" * 32)) for r in real]
    assert checks(other) == [{"data"}] * n
    each = [r for r in real if r.headline in (r.inline or {})]
    assert {r.protocol for r in real} - {r.protocol for r in each} == {"representation"}
    assert all("examples" in found for found in checks(map(moved, each)))
    hits = [(r, name) for r in real for name, x in (r.inline or {}).items() if x[0] == "b"]
    for name in {name for _, name in hits}:
        changes = [flipped(r, name) for r, metric in hits if metric == name]
        assert checks(changes) == [{"examples"}] * len(changes), name


def test_on_the_boards_what_counts_hits_is_right_or_wrong():
    assert set(recomputed.HITS) <= set(registry.entries("tasks"))
    assert tuple(f"{kind}:" for kind in table._OWN) == OWN
    seen = set()
    for board in BOARDS:
        for record in read_records(board / "records.jsonl"):
            prefix = recomputed.HITS.get(record.protocol)
            for name, packed in (record.inline or {}).items():
                if prefix and name.startswith(prefix):
                    assert packed.startswith("bits:"), (record.protocol, name)
                    seen.add(record.protocol)
    assert len(seen) > 8


def test_the_command_prints_places_and_counts(sound, tmp_path):
    lines = tmp_path / "a.jsonl"
    record = sound()
    write_lines([scored(record, value=0.84), changed(sound("byol"), inline=None)], lines)
    status, out, _ = sslbench("validate", lines)
    assert status == 1
    *found, last = out.splitlines()
    assert last == "2 records, 1 problems, 1 notes"
    number = 1 + (record.key > sound("byol").key)
    place = (
        f"{lines}:{number}: simclr in knn/digits ({record.key}): top1: 0.84, but the mean of its "
    )
    assert any(line.startswith(place) for line in found)
    status, out, _ = sslbench("validate", lines, "--json")
    plain = json.loads(out)
    assert (status, plain["records"]) == (1, 2)
    fields = {"place", "key", "name", "task", "dataset", "check", "level", "text"}
    assert all(set(finding) == fields for finding in plain["problems"])
    levels = {finding["name"]: finding["level"] for finding in plain["problems"]}
    assert levels == {"simclr": "problem", "byol": "note"}
    status, out, _ = sslbench("validate", "--help")
    assert status == 0
    assert "Example: sslbench validate" in out


def test_a_note_is_no_reason_to_refuse(sound, tmp_path):
    write_lines([changed(sound(), inline=None)], tmp_path / "a.jsonl")
    status, out, _ = sslbench("validate", tmp_path / "a.jsonl")
    assert status == 0
    assert out.splitlines()[-1] == "1 records, 0 problems, 1 notes"


EVIL = [
    "<script>alert(1)</script>",
    "[bold red]x[/] [link=https://evil.example]y[/link]",
    "[/]",
    "a\x1b[2J\x1b]0;t\x07\x9b31m\rb\nc",
    "a\u202eb\u2028c\u0000",
]


def test_names_are_printed_as_they_are_and_move_no_cursor(sound, tmp_path):
    lines = tmp_path / "[red]a.jsonl"
    records = [sound(checkpoint={"name": name, "key": f"{i:032x}"}) for i, name in enumerate(EVIL)]
    lines.write_text("".join(changed(r, n_test=9).model_dump_json() + "\n" for r in records))
    status, out, error = sslbench("validate", lines)
    assert (status, error) == (1, "")
    assert all(line.isprintable() for line in out.split("\n"))
    for name in EVIL[:3]:
        assert f"[red]a.jsonl:{EVIL.index(name) + 1}: {name} in knn/digits" in out
    assert r"a\x1b[2J\x1b]0;t\x07\x9b31m\rb\nc in knn/digits" in out
    assert r"a\u202eb\u2028c\x00 in knn/digits" in out
    _, out, _ = sslbench("validate", lines, "--json")
    names = {finding["name"] for finding in json.loads(out)["problems"]}
    assert set(EVIL[:3]) < names
    assert all(name.isprintable() for name in names)


def test_a_wrong_path_is_one_line(tmp_path):
    assert fails("validate", tmp_path / "gone").endswith("gone: no such file or folder")
    assert sslbench("validate", tmp_path / "gone")[0] == 1
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.jsonl").write_text("")
    for path in (tmp_path / "empty", tmp_path / "a.jsonl"):
        with pytest.raises(UserError, match="no records found; expected a run folder, a board or"):
            validate([path])

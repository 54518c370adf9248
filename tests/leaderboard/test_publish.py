"""The files of a board."""

import io
import json
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from sslbench.errors import UserError
from sslbench.leaderboard import publish, table
from sslbench.leaderboard.board import build
from sslbench.records import Score, Store, write_lines

EVIL = '</script><script>alert("1")</script><b onclick=x>&amp;'
FILES = ("records.jsonl", "records.csv", "leaderboard.csv", "index.html")
FIRST_COLUMNS = """name family encoder pretrain_dataset pretrain_epochs pretrain_step pretrain_seed
    task task_version dataset metric value standard_error low high n eval_seed status reason"""


def hits(p, seed, n=300):
    return (np.random.default_rng(seed).random(n) < p).astype(float)


@pytest.fixture
def records(make):
    more = {"top1_selected": Score(value=1 / 3, n=300)}
    made = [
        make("simclr", examples=hits(0.6, seed), seed=seed, scores=more, selected={"k": 20})
        for seed in (0, 1)
    ]
    return [
        *made,
        make(EVIL, examples=hits(0.5, 2)),
        make("byol", status="failed", reason="Traceback:\n <inf> is not finite"),
        make("byol", task="probe", value=0.25, chance=0.1),
        make("simclr", task="rank", value=57.25, headline="rankme", chance=None),
        make("simclr", task="rank", seed=1, value=57.5, headline="rankme", chance=None),
        make("byol", task="rank", headline="rankme", status="not_applicable", reason="no features"),
        make("simclr", examples=hits(0.4, 4), checkpoint={"at": 0.5, "pretrain_step": 50}),
    ]


@pytest.fixture
def out(records, tmp_path):
    write_lines(records, tmp_path / "source.jsonl")
    publish([tmp_path / "source.jsonl"], tmp_path / "board")
    return tmp_path / "board"


class Page(HTMLParser):
    """Text of the table's cells, contents of scripts, tags, names of attributes, addresses."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.scripts, self.rows = [], [], [], []
        self.attributes = set()
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value for name, value in attrs if name in ("src", "href", "action")]
        self.inside = tag if tag in ("script", "style") else self.inside
        if tag == "script":
            self.scripts.append("")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.inside = "" if tag == self.inside else self.inside

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1] += data
        elif not self.inside and self.rows and self.rows[-1]:
            self.rows[-1][-1] = f"{self.rows[-1][-1]} {data.strip()}".strip()


def test_records_csv_has_one_row_per_cell_and_metric(out, records):
    long = pd.read_csv(out / "records.csv")
    assert list(long.columns[:19]) == FIRST_COLUMNS.split()
    assert len(long) == sum(max(1, len(record.scores)) for record in records)
    failed = long[(long.name == "byol") & (long.task == "knn")]
    assert failed.metric.tolist() == ["top1"]
    assert failed[["value", "standard_error", "low", "high", "n"]].isna().all(axis=None)
    assert failed.reason.tolist() == ["Traceback:\n <inf> is not finite"]
    assert (long["at"] == 0.5).sum() == 1


def test_records_csv_reads_back_as_the_same_numbers(out, records):
    long = pd.read_csv(out / "records.csv").set_index(["key", "metric"])
    for record in records:
        for metric, score in record.scores.items():
            line = long.loc[(record.key, metric)]
            assert line.value == pytest.approx(score.value, rel=1e-15)
            assert line.n == score.n
            low = np.nan if score.low is None else score.low
            assert line.low == pytest.approx(low, rel=1e-15, nan_ok=True)
            assert json.loads(line.selected) == record.selected
            assert json.loads(line.task_settings) == record.task_settings


def test_leaderboard_csv_has_one_row_per_row_and_columns_by_task_dataset_metric(out):
    wide = pd.read_csv(out / "leaderboard.csv").set_index("name")
    assert wide.index.tolist() == sorted([EVIL, "byol", "simclr"])
    assert {"knn/digits/top1", "probe/digits/top1", "rank/digits/rankme"} <= set(wide.columns)
    simclr = wide.loc["simclr"]
    assert simclr["knn/digits/top1"] == pytest.approx((hits(0.6, 0) + hits(0.6, 1)).mean() / 2)
    assert simclr["knn/digits/top1/low"] < simclr["knn/digits/top1"]
    assert simclr["rank/digits/rankme"] == 57.375
    assert simclr.pretrain_seconds == 60.5
    assert wide.seeds.to_dict() == {"simclr": 2, "byol": 1, EVIL: 1}
    assert wide.parameters.dtype == np.int64
    empty = wide.loc["byol"][["knn/digits/top1", "knn/digits/top1/low", "rank/digits/rankme"]]
    assert empty.isna().all()
    assert wide.loc["byol", "knn/digits/top1/status"] == "failed"


def test_publishing_again_gives_the_same_bytes(out, tmp_path):
    first = {name: (out / name).read_bytes() for name in FILES}
    publish([out / "records.jsonl", tmp_path / "source.jsonl"], out)
    assert {name: (out / name).read_bytes() for name in FILES} == first
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)


def test_a_store_and_its_records_jsonl_give_the_same_board(make, tmp_path):
    store = Store(tmp_path / "run" / "records")
    for name, seed in (("a", 0), ("b", 1)):
        examples = hits(0.5, seed)
        record = make(name, examples=examples).model_copy(update={"inline": None})
        store.put(record, {"top1": examples})
    publish([tmp_path / "run"], tmp_path / "board")
    first = {name: (tmp_path / "board" / name).read_bytes() for name in FILES}
    publish([tmp_path / "board" / "records.jsonl"], tmp_path / "board")
    assert {name: (tmp_path / "board" / name).read_bytes() for name in FILES} == first


def test_contradicting_sources_are_refused_and_nothing_is_written(make, tmp_path):
    record = make(value=0.3)
    write_lines([record], tmp_path / "a.jsonl")
    write_lines([make(value=0.4, key=record.key)], tmp_path / "b.jsonl")
    with pytest.raises(UserError, match="different scores"):
        publish([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "board")
    assert not (tmp_path / "board").exists()


def test_the_page_needs_nothing_but_itself(out):
    page = Page((out / "index.html").read_text())
    assert all(link.startswith("data:") for link in page.links)
    assert "http" not in (out / "index.html").read_text()
    assert not {"img", "iframe", "object"} & set(page.tags)
    assert page.tags.count("link") == 1  # the empty icon, which spares browsers a request


def test_names_with_markup_stay_text(out):
    page = Page((out / "index.html").read_text())
    assert page.tags.count("script") == 2
    assert "onclick" not in page.attributes
    assert any(row[0].startswith(EVIL) for row in page.rows)
    titles = {cell["title"] for row in json.loads(page.scripts[0])["cells"] for cell in row}
    assert titles == {EVIL, "byol", "simclr"}


def test_the_table_shows_scores_marks_and_why_cells_are_empty(out):
    page = Page((out / "index.html").read_text())
    rows = {row[0].split(" ")[0]: row[1:] for row in page.rows[2:]}
    knn, probe, rank = rows["byol"][:3]
    assert (knn, probe, rank) == ("failed", "25.0", "n/a")
    assert rows["simclr"][1] == "not run"
    assert rows["simclr"][2].split()[0] == "57.38"
    assert rows["simclr"][0].startswith("● ")
    assert "best of its column" in rows["simclr"][0]


def test_the_details_say_where_a_number_comes_from(out):
    page = Page((out / "index.html").read_text())
    data = json.loads(page.scripts[0])
    names = [row[0].split(" ")[0] for row in page.rows[2:]]
    simclr, byol = (data["cells"][names.index(name)] for name in ("simclr", "byol"))
    sections = {title: dict(lines) for title, lines in simclr[0]["sections"]}
    assert sections["Scores"]["pretraining seed"] == "0 · 1"
    assert sections["Scores"]["top1_selected"] == "0.3333 · 0.3333"
    assert sections["Chosen by the protocol"] == {"k": "20"}
    assert sections["Where and when"]["hardware"] == "2 × CPU"
    assert any("2 pretraining seeds" in fact for fact in simclr[0]["facts"])
    assert "<inf> is not finite" in byol[0]["reasons"][0]
    assert "no features" in byol[2]["reasons"][0]
    ((_, checkpoint),) = data["rows"][names.index("simclr")]
    assert dict(checkpoint)["parameters"] == "11,200,000"


def printed(board, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(table(board))
    return console.file.getvalue()


def test_the_terminal_shows_the_same_within_80_columns(records):
    text = printed(build(records, "x"))
    assert f"● {100 * (hits(0.6, 0) + hits(0.6, 1)).mean() / 2:.1f} ±" in text
    assert "57.38" in text
    assert EVIL[:24] in text
    assert "failed:  <inf> is not finite (byol in knn/digits)" in text
    assert "n/a: no features (byol in rank/digits)" in text
    assert "not run" in text

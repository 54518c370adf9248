"""The page without a browser: what is in the file, and what is packed in it."""

import base64
import gzip
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from sslbench.leaderboard.aggregates import DRAWS
from sslbench.leaderboard.board import build
from sslbench.leaderboard.page import page

CSV = "name\nsimclr\n"
EVIL = "</script><script>alert(1)</script><b onclick=x>"


def hits(p, seed, n=300):
    return (np.random.default_rng(seed).random(n) < p).astype(float)


@pytest.fixture
def board(make):
    records = [
        *(make("simclr", examples=hits(0.6, s), seed=s, selected={"k": 20}) for s in (0, 1)),
        make(EVIL, examples=hits(0.5, 2), checkpoint={"family": EVIL, "encoder": EVIL}),
        make("byol", status="failed", reason="Traceback:\n <inf> is not finite"),
        make("byol", task="probe", value=0.25, chance=0.1),
        make("simclr", task="rank", value=57.25, headline="rankme", chance=None),
        make("byol", task="rank", headline="rankme", status="not_applicable", reason="no features"),
        make("simclr", examples=hits(0.4, 4), checkpoint={"at": 0.5, "pretrain_loss": 0.5}),
    ]
    return build(records, EVIL)


@pytest.fixture
def html(board):
    return page(board, CSV)


class Parsed(HTMLParser):
    """Scripts by id, tags, names of attributes, addresses."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.scripts = [], [], {}
        self.attributes = set()
        self.inside = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value for name, value in attrs if name in ("src", "href", "action")]
        if tag == "script":
            self.inside = dict(attrs).get("id", dict(attrs).get("type"))
            self.scripts[self.inside] = ""

    def handle_endtag(self, tag):
        self.inside = None if tag == "script" else self.inside

    def handle_data(self, data):
        if self.inside is not None:
            self.scripts[self.inside] += data

    def packed(self, name):
        return gzip.decompress(base64.b64decode(self.scripts[f"packed-{name}"])).decode()


def test_it_needs_nothing_but_itself(html):
    found = Parsed(html)
    assert all(link.startswith("data:") for link in found.links)
    assert not re.search(r"https?://", html)
    assert not {"img", "iframe", "object"} & set(found.tags)
    assert found.tags.count("link") == 1  # the empty icon, which spares browsers a request
    assert "Plotly" in found.packed("plotly")
    assert "DataTable" in found.packed("datatables")
    assert found.packed("csv") == CSV


def test_names_with_markup_stay_text(html, board):
    found = Parsed(html)
    packed = {"data", "datatables", "plotly", "csv", "points", *(f"row-{i}" for i in range(3))}
    assert set(found.scripts) == {"module", *(f"packed-{name}" for name in packed)}
    assert "onclick" not in found.attributes
    names = {row["name"] for row in json.loads(found.packed("data"))["rows"]}
    assert names == {EVIL, "byol", "simclr"}


def test_numbers_marks_and_reasons_are_there(html):
    found = Parsed(html)
    data = json.loads(found.packed("data"))
    names = [row["name"] for row in data["rows"]]
    columns = [column["name"] for column in data["columns"]]
    assert columns == ["knn/digits/top1", "probe/digits/top1", "rank/digits/rankme"]
    simclr, byol = (data["cells"][names.index(name)] for name in ("simclr", "byol"))
    assert simclr[0][0] == pytest.approx((hits(0.6, 0) + hits(0.6, 1)).mean() / 2, rel=1e-5)
    assert simclr[0][3] == "best"
    assert (simclr[1], simclr[2][0]) == (["not_run"], 57.25)
    assert (byol[0], byol[1][0], byol[2]) == (["failed"], 0.25, ["not_applicable"])
    own = json.loads(found.packed(f"row-{names.index('simclr')}"))
    sections = {title: dict(lines) for title, lines in own["cells"][0]["sections"]}
    assert sections["Scores"]["pretraining seed"] == "0 · 1"
    assert sections["Chosen by the protocol"] == {"k": "20"}
    assert sections["Where and when"]["hardware"] == "2 × CPU"
    assert any("2 pretraining seeds" in fact for fact in own["cells"][0]["facts"])
    ((_, checkpoint),) = own["sections"]
    assert dict(checkpoint)["parameters"] == "11,200,000"
    cells = json.loads(found.packed(f"row-{names.index('byol')}"))["cells"]
    assert "<inf> is not finite" in cells[0]["reasons"][0]
    assert "no features" in cells[2]["reasons"][0]


def test_checkpoints_along_the_way_are_points_of_the_plots(html):
    found = Parsed(html)
    points = json.loads(found.packed("points"))
    assert points["epochs"] == [10]  # half of 20; the others have no loss
    assert points["loss"] == [0.5]
    assert points["value"] == [pytest.approx(hits(0.4, 4).mean(), rel=1e-5)]


def test_the_draws_behind_the_ranks_come_along(make):
    board = build(
        [make(n, examples=hits(p, i)) for i, (n, p) in enumerate({"a": 0.6, "b": 0.5}.items())], "x"
    )
    data = json.loads(Parsed(page(board, CSV)).packed("data"))["noise"]
    steps = np.frombuffer(base64.b64decode(data["steps"]), np.int8).reshape(1, 2, data["draws"])
    assert data["draws"] == 200 < DRAWS
    own = [board.cells[row, board.columns[0]].noise[:200] for row in board.rows]
    for drawn, scale, expected in zip(steps[0], data["scale"][0], own, strict=True):
        assert drawn * scale == pytest.approx(expected, abs=scale)


def test_the_modality_is_the_encoders(make):
    configs = {
        "a": {"image_size": 32},
        "b": {"image": {"image_size": 32}, "text": {}},
        "c": {"vocabulary": 10},
        "d": {"first": {"image_size": 8}, "second": {}},
    }
    records = [make(n, value=0.5, checkpoint={"encoder_config": c}) for n, c in configs.items()]
    data = json.loads(Parsed(page(build(records, "x"), CSV)).packed("data"))
    found = {row["name"]: row["facets"]["modality"] for row in data["rows"]}
    assert found == {"a": "image", "b": "image and text", "c": "text", "d": "image"}


def test_what_others_computed_too_is_marked(make):
    record = make(examples=hits(0.5, 0))
    later = record.provenance.model_copy(update={"created": "2026-03-01T00:00:00+00:00"})
    other = record.model_copy(update={"provenance": later})
    for records, marked in (([record], False), ([record, other], True)):
        html = page(build(records, "x"), CSV)
        ((cell,),) = json.loads(Parsed(html).packed("data"))["cells"]
        assert cell[4] is marked
        assert ("<b>✓</b>" in html) is marked

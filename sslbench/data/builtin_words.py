"""The rows of the word lists that come with sslbench."""

from sslbench.data.table import Archive, Row

_GENSIM = Archive(
    client="pip",
    package="gensim",
    version="4.4.0",
    filename="gensim-4.4.0.tar.gz",
    sha256="a3f5b626da5518e79a479140361c663089fe7998df8ba52d56e1ded71ac5bdf5",
    size=23_260_095,
)


def _rated(name: str, description: str, source: str, sizes: tuple[int, int, int], hash: str) -> Row:
    """Pairs of words with a rating."""
    return Row(
        name=name,
        description=description,
        licence="LGPL-2.1 (gensim); ratings: none stated, research use",
        source=f"PyPI gensim 4.4.0, test data ({source})",
        loader="sslbench.data.sources.word_sets:load_pairs",
        reducer=f"sslbench.data.sources.word_sets:reduce_{name}",
        archives=(_GENSIM,),
        modality="text",
        targets=("rating",),
        splits=dict(zip(("train", "validation", "test"), sizes, strict=True)),
        classes=0,
        chance=0.0,
        hash=hash,
    )


WORDS = (
    Row(
        name="word-analogy",
        description="Analogies of words, 14 kinds of relation",
        licence="LGPL-2.1 (gensim); Apache-2.0 (word2vec)",
        source="PyPI gensim 4.4.0, test data (arXiv:1301.3781)",
        loader="sslbench.data.sources.word_sets:load_analogies",
        reducer="sslbench.data.sources.word_sets:reduce_analogies",
        archives=(_GENSIM,),
        modality="text",
        targets=("analogy",),
        splits={"train": 1_956, "validation": 1_921, "test": 15_667},
        classes=14,
        chance=0.0,
        hash="f7a72647fba7a9aa58a1526f565e21db",
    ),
    _rated(
        "wordsim353",
        "Pairs of words rated for relatedness",
        "doi:10.1145/503104.503110",
        (35, 36, 282),
        "068cc6dfeb76487496839c4f368b833a",
    ),
    _rated(
        "simlex999",
        "Pairs of words rated for similarity",
        "arXiv:1408.3456",
        (100, 100, 799),
        "3e2d7b434e31c924c65396589ce958c0",
    ),
)

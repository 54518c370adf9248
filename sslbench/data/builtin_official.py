"""The rows of standard text datasets that users have on disk, in their official files."""

from sslbench.data.table import Row

_YES_NO = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")
_NLI = ("entailment", "neutral", "contradiction")


def _glue(
    folder: str,
    description: str,
    metric: str,
    size: int,
    texts: tuple[str | int, ...],
    label: str | int,
    values: tuple[str, ...] = (),
    names: tuple[str, ...] = (),
    **held_out: str,
) -> Row:
    """A task of GLUE.

    Args:
        folder: of the official files.
        description: for people.
        metric: GLUE's own; tasks report it among others.
        size: of the official dev split.
        texts: columns, by name, or by place where the file has no header.
        label: column.
        values: labels in the file, none where they are ratings.
        names: of the classes, where they are not `values`.
        held_out: files by split, where they are more than dev.tsv.
    """
    task = folder.replace("-", "").lower()
    target = "pair" if len(texts) > 1 else "label"
    return Row(
        name=f"glue-{task}",
        description=f"{description}; test: the official dev; GLUE's metric: {metric}",
        licence="that of its source, see gluebenchmark.com; research use",
        source=f"your copy of the official files in $SSLBENCH_DATA/glue/{folder}",
        loader="sslbench.data.sources.glue:load",
        modality="text",
        targets=(target if values else "rating",),
        splits={"train": None, "validation": None, "test": size},
        classes=len(values),
        options={
            "folder": folder,
            "texts": texts,
            "label": label,
            "values": values,
            "names": names or values,
            "held_out": held_out or {"test": "dev.tsv"},
        },
    )


# fmt: off
OFFICIAL: tuple[Row, ...] = (
    _glue("SST-2", "Sentences on films, positive or not", "accuracy", 872,
          ("sentence",), "label", _YES_NO, ("negative", "positive")),
    _glue("CoLA", "Sentences, grammatical or not", "Matthews correlation", 1_043,
          (3,), 1, _YES_NO, ("unacceptable", "acceptable")),
    _glue("MRPC", "Pairs from news, paraphrases or not", "F1 and accuracy", 408,
          ("#1 String", "#2 String"), "Quality", _YES_NO, ("different", "equivalent")),
    _glue("QQP", "Pairs of questions, duplicates or not", "F1 and accuracy", 40_430,
          ("question1", "question2"), "is_duplicate", _YES_NO, ("different", "duplicate")),
    _glue("STS-B", "Pairs of sentences, similarity 0 … 5", "Pearson and Spearman", 1_500,
          ("sentence1", "sentence2"), "score"),
    _glue("MNLI", "Premise and hypothesis (dev: matched)", "accuracy", 9_815,
          ("sentence1", "sentence2"), "gold_label", _NLI,
          test="dev_matched.tsv", mismatched="dev_mismatched.tsv"),
    _glue("QNLI", "Question, and sentence with its answer or not", "accuracy", 5_463,
          ("question", "sentence"), "label", _ENTAILMENT),
    _glue("RTE", "Premise and hypothesis", "accuracy", 277,
          ("sentence1", "sentence2"), "label", _ENTAILMENT),
    Row(
        name="conll2003",
        description="News with the names in it, IOB2 tags; metric: F1 of whole names",
        licence="Reuters Corpus agreement (NIST); research use",
        source="your eng.train, eng.testa, eng.testb in $SSLBENCH_DATA/conll2003",
        loader="sslbench.data.sources.conll2003:load",
        modality="text",
        targets=("tags",),
        splits={"train": 14_041, "validation": 3_250, "test": 3_453},
        classes=9,
    ),
    Row(
        name="squad",
        description="Questions on Wikipedia, SQuAD 1.1; test: the official dev",
        licence="CC-BY-SA-4.0",
        source="your train-v1.1.json and dev-v1.1.json in $SSLBENCH_DATA/squad",
        loader="sslbench.data.sources.squad:load",
        modality="text",
        targets=("answers",),
        splits={"train": None, "validation": None, "test": 10_570},
        classes=0,
    ),
)
# fmt: on

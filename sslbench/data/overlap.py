"""What is known of test data that encoders saw in pretraining."""

# Names of pretraining data (`--pretrained-on`, or a dataset of ours) and of the dataset that is
# tested on → what they share. No entry: nothing is known here, which proves nothing.
_MAP = "tiles of the same map of the Earth; the encoder may have seen the places of the test split"
_WIKIPEDIA = "its evidence and paragraphs are from Wikipedia, which is in the pretraining data"
SHARED = {
    **{(a, b): _MAP for a in ("koppen", "landmask") for b in ("koppen", "landmask") if a != b},
    ("cifar10-test", "cifar10-mini"): "cifar10-mini is made of CIFAR-10's test images",
    **{
        (corpus, dataset): _WIKIPEDIA
        for corpus in ("wikipedia", "wikipedia+bookcorpus")
        for dataset in ("vitaminc", "squad-dev")
    },
    ("sentence-pairs-1b", "squad-dev"): (
        "the pairs include SQuAD 2.0's train split: the same task, on other articles"
    ),
}


def overlap(pretrained_on: str | None, dataset: str) -> str | None:
    """What pretraining data and a dataset are known to share; None where nothing is known.

    Args:
        pretrained_on: "NAME" or "NAME/SPLIT".
        dataset: that is tested on.
    """
    return SHARED.get(((pretrained_on or "").partition("/")[0], dataset))

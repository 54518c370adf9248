"""The namings that others give to the same weights: the encoder's name → theirs."""

import re
from collections.abc import Callable

Rename = Callable[[tuple[str, ...]], dict[str, str] | None]  # None: no encoder of this kind


def _same(names: tuple[str, ...]) -> dict[str, str]:
    return {name: name for name in names}


def _sequential(places: dict[str, int]) -> Rename:
    """A ResNet whose children were put into an nn.Sequential."""

    def rename(names: tuple[str, ...]) -> dict[str, str] | None:
        if any(name.split(".")[0] not in places for name in names):
            return None
        heads = (name.partition(".") for name in names)
        return {f"{head}.{rest}": f"{places[head]}.{rest}" for head, _, rest in heads}

    return rename


def _replaced(*rules: tuple[str, str], of: str) -> Rename:
    """Names changed by regular expressions, where one of them matches `of`."""

    def rename(names: tuple[str, ...]) -> dict[str, str] | None:
        if not any(re.fullmatch(of, name) for name in names):
            return None
        out = {}
        for name in names:
            changed = name
            for pattern, text in rules:
                changed = re.sub(pattern, text, changed)
            out[name] = changed
        return out

    return rename


def _chunked(names: tuple[str, ...]) -> dict[str, str] | None:
    """DINOv2's blocks in four groups: `blocks.5.` is `blocks.1.5.` of 12."""
    numbers = [int(found[1]) for name in names if (found := re.match(r"blocks\.(\d+)\.", name))]
    if not numbers:
        return None
    group = max(1, (max(numbers) + 1) // 4)

    def place(match: re.Match[str]) -> str:
        return f"blocks.{int(match[1]) // group}.{match[1]}."

    return {name: re.sub(r"^blocks\.(\d+)\.", place, name) for name in names}


def _lukemelas(names: tuple[str, ...]) -> dict[str, str] | None:
    """The names of efficientnet_pytorch, whose blocks are numbered through all stages."""
    blocks = dict.fromkeys(
        found[0] for name in names if (found := re.match(r"blocks\.\d+\.\d+\.", name))
    )
    if not blocks or "conv_stem.weight" not in names:
        return None
    number = {block: count for count, block in enumerate(blocks)}
    expanding = {block for block in blocks if f"{block}conv_pwl.weight" in names}
    outside = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    others = {
        "conv_pw": "_expand_conv",
        "bn1": "_bn0",
        "conv_dw": "_depthwise_conv",
        "bn2": "_bn1",
        "conv_pwl": "_project_conv",
        "bn3": "_bn2",
    }
    squeeze = {"conv_reduce": "_se_reduce", "conv_expand": "_se_expand"}
    out = {}
    for name in names:
        block = re.match(r"blocks\.\d+\.\d+\.", name)
        layer, _, rest = name[len(block[0]) if block else 0 :].removeprefix("se.").partition(".")
        known = outside
        if block:
            known = {**squeeze, **(others if block[0] in expanding else first)}
        place = f"_blocks.{number[block[0]]}." if block else ""
        out[name] = f"{place}{known.get(layer, layer)}.{rest}"
    return out


LAYOUTS: dict[str, Rename] = {
    "": _same,
    "nn.Sequential of torchvision's ResNet": _sequential(
        {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    ),
    "nn.Sequential of lightly's ResNet": _sequential(
        {"conv1": 0, "bn1": 1, "layer1": 2, "layer2": 3, "layer3": 4, "layer4": 5}
    ),
    "mmpretrain's ViT": _replaced(
        (r"^blocks\.(\d+)\.norm(\d)", r"layers.\1.ln\2"),
        (r"^blocks\.(\d+)\.mlp\.fc1", r"layers.\1.ffn.layers.0.0"),
        (r"^blocks\.(\d+)\.mlp\.fc2", r"layers.\1.ffn.layers.1"),
        (r"^blocks\.", "layers."),
        (r"^patch_embed\.proj", "patch_embed.projection"),
        (r"^norm\.", "ln1."),
        of=r"blocks\.0\.attn\.qkv\.weight",
    ),
    "DINOv2's groups of blocks": _chunked,
    "efficientnet_pytorch": _lukemelas,
}

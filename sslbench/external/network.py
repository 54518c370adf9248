"""The network of a file → an Encoder around it, with the user's settings."""

from pathlib import Path

from torch import nn

from sslbench.backbones.opaque import KINDS, Opaque
from sslbench.errors import UserError, suggest
from sslbench.external.preprocessing import resolved
from sslbench.external.request import Request


def opened(
    kind: str,
    path: Path,
    files: dict[str, str],
    request: Request,
    network: nn.Module,
    shape: tuple[int | None, ...],
) -> tuple[Opaque, str]:
    """The encoder around the network of a file, in eval mode, and where its preprocessing is from.

    Args:
        kind: one of `KINDS`.
        path: of the file.
        files: name → sha256 of this file and others that belong to it.
        request: "output" and "pooling" in `encoder`, and the preprocessing.
        network: see `Opaque`.
        shape: of the network's input; None where it takes any size.

    Raises:
        UserError: a setting that these encoders do not have, an input that is no batch of square
            colour images, another image size than the network's, or one that `Opaque` raises.
    """
    if request.weights is not None or request.allow_missing:
        raise UserError(f"{path}: a {KINDS[kind]} file has one set of weights, and all of them")
    settings = {"name": kind, **request.encoder}
    if (name := settings.pop("name")) != kind:
        raise UserError(f"{path} is a {KINDS[kind]} file: its encoder is {kind!r}, not {name!r}")
    for name in settings.keys() - {"output", "pooling"}:
        raise UserError(f"{path}: setting {name}; {suggest(name, ['output', 'pooling'])}")
    if len(shape) != 4 or shape[1] not in (3, None) or len({*shape[2:]} - {None}) > 1:
        sizes = ", ".join("any" if side is None else str(side) for side in shape)
        raise UserError(f"{path}: its input is ({sizes}); square images (B, 3, S, S) expected")
    fixed = shape[2] or shape[3]
    wanted = request.preprocess.get("image_size", fixed)
    if fixed is not None and wanted != fixed:
        raise UserError(f"{path} takes images of {fixed} pixels; --preprocess image_size={wanted}")
    found = {} if fixed is None else {"image_size": fixed}
    said = "" if fixed is None else "size of the network's input; ImageNet's mean and std"
    kept, source = resolved(found, said, request.preprocess)
    chosen = {k: str(v) for k, v in settings.items() if (k, v) != ("pooling", "first")}
    config = {"name": kind, "sha256": files[path.name][:16], **kept, **chosen}
    try:
        return Opaque(config, network, "".join(files.values()), shape[0]).eval(), source
    except UserError as error:
        raise UserError(f"{path}: {error}") from error

"""Files of torch.export (.pt2) → an Encoder."""

import zipfile
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from sslbench.encoder import Encoder
from sslbench.errors import UserError
from sslbench.external.network import opened
from sslbench.external.request import Report, Request
from sslbench.hashing import file_sha256

PROGRAMS = ("models/model.json", "serialized_exported_program.json")  # the second up to torch 2.7
PIECE = 64  # images at a time where a program takes any number above 1


def load(path: Path, request: Request) -> tuple[Encoder, Report]:
    """The encoder in a file that `torch.export.save` wrote, as it was exported: in eval mode.

    See `Opaque` for the settings `output` and `pooling` in `request.encoder`. A file can run code
    in several ways, which torch does not prevent: weights and sample inputs may be pickles, sizes
    are expressions that sympy evaluates, guards are Python, and compiled libraries may lie beside
    them. To find all of that beforehand would take a sandbox, so a file needs
    `request.trust_code`, like a Python file.

    Raises:
        UserError: no trust, no such file, a damaged one, a program in training mode, one whose
            input is not a batch of images, or settings that do not fit it.
    """
    if not request.trust_code:
        raise UserError(f"{path}: a .pt2 file can run code: loading it needs --trust-code")
    try:
        with zipfile.ZipFile(path) as archive:
            if (bad := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"checksum of {bad} differs")
            if not any(name.endswith(PROGRAMS) for name in archive.namelist()):
                raise zipfile.BadZipFile("no exported program in it")
        program = torch.export.load(path)
        module = program.module()
    except Exception as error:  # torch raises whatever its parts do
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{path}: no file of torch.export, or a damaged one ({reason})") from error
    image = _input(program, path)
    shape = (_batch(program, image), *(s if isinstance(s, int) else None for s in image.shape[1:]))
    files, network = {path.name: file_sha256(path)}, Program(module, image.dtype)
    encoder, said = opened("torch_export", path, files, request, network, shape)
    count, dtype = len(network.state_dict()), str(image.dtype).removeprefix("torch.")
    kind = "torch.export"
    report = Report(kind, files, matched=count, wanted=count, dtype=dtype, preprocessing=said)
    return encoder, report


class Program(nn.Module):
    """An exported program, which has one mode only.

    Args:
        program: as `ExportedProgram.module` gives it.
        dtype: of its input.
    """

    def __init__(self, program: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.program, self.dtype = program, dtype

    def forward(self, images: Tensor) -> Any:
        """What the program gives."""
        return self.program(images.to(self.dtype))

    def train(self, mode: bool = True) -> Self:
        """Nothing: the modes of exported modules raise an error."""
        return self


def _input(program: ExportedProgram, path: Path) -> Tensor:
    """The program's input as it was traced, without values."""
    signature, nodes = program.graph_signature, list(program.graph.nodes)
    drops = any("dropout" in str(n.target) and any(a is True for a in n.args) for n in nodes)
    if drops or signature.buffers_to_mutate:
        raise UserError(f"{path} was exported in training mode; call eval() before the export")
    inputs = [n.meta.get("val") for n in nodes if n.name in signature.user_inputs]
    if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or not inputs[0].is_floating_point():
        found = ", ".join(map(str, signature.user_inputs)) or "none"
        raise UserError(f"{path}: its inputs are {found}; one of floats (B, 3, H, W) expected")
    return inputs[0]


def _batch(program: ExportedProgram, image: Tensor) -> int | None:
    """How many images the program takes; None: any number."""
    size = image.shape[0]
    if isinstance(size, int):
        return size
    bounds = program.range_constraints.get(size.node.expr)
    if bounds is None or (bounds.lower <= 1 and not bounds.upper.is_finite):
        return None
    return int(min(bounds.upper, max(bounds.lower, PIECE)))

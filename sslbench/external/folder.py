"""What loaders of folders share: the files that were read, and a strict account of the weights."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslbench.errors import UserError
from sslbench.external import reading
from sslbench.external.request import Report, Request
from sslbench.hashing import file_sha256


class Folder:
    """A checkpoint's folder, which keeps account of the files that were read.

    Attributes:
        path: of the folder.
        files: name → sha256 of what was read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        return (self.path / name).is_file()

    def _noted(self, path: Path) -> Path:
        self.files[path.relative_to(self.path).as_posix()] = file_sha256(path)
        return path

    def text(self, name: str) -> str:
        """What is in a file of text. Raises UserError where it is missing or no text."""
        try:
            return self._noted(self.path / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UserError(f"{self.path}: {name} is missing") from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.path / name}: {error}") from None

    def table(self, name: str) -> dict[str, Any]:
        """A JSON object. Raises UserError where it is missing or something else."""
        if name not in self:
            raise UserError(f"{self.path}: {name} is missing")
        return reading.table(self._noted(self.path / name))

    def _check(self, values: dict[str, Tensor], path: Path) -> None:
        """Raise UserError where weights are quantised, complex, or no values."""
        try:
            reading.sets(values)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        for name, value in values.items():
            if value.is_complex() or value.dtype in (torch.int8, torch.uint8):
                kind = str(value.dtype).removeprefix("torch.")
                raise UserError(f"{path}: {name} is stored as {kind}; floating numbers expected")

    def weights(self, *names: str) -> dict[str, Tensor]:
        """The tensors of the first of these files that is there, whole or in several parts.

        Raises:
            UserError: none of them is there, a part is missing, a file is damaged, or a pickle asks
                for more than weights.
        """
        for name in names:
            whole, index = self.path / name, self.path / (name + reading.INDEX)
            if whole.is_file():
                paths = [whole]
            elif index.is_file():
                paths = reading.parts(self._noted(index))
            else:
                continue
            trees = [reading.read(self._noted(path)) for path in paths]
            values = {name: value for tree in trees for name, value in tree.items()}
            if all(isinstance(value, Tensor) for value in values.values()):
                self._check(values, whole)
                return values
            raise UserError(f"{whole}: expected tensors by name, found {', '.join([*values][:3])}")
        raise UserError(f"{self.path}: no weights in it; expected {' or '.join(names)}")


def account(
    folder: Folder,
    request: Request,
    form: str,
    tensors: dict[str, Tensor],
    wanted: Collection[str],
    missing: Collection[str],
    unused: Collection[str],
    preprocessing: str = "",
) -> Report:
    """The report on what was loaded.

    Args:
        folder: that it came from.
        request: whether weights may be missing.
        form: the format of the files.
        tensors: of the checkpoint.
        wanted: names of the encoder's weights.
        missing: those of them that were not found by name and shape.
        unused: names of the checkpoint's weights that the encoder does not have.
        preprocessing: where it comes from.

    Raises:
        UserError: weights are missing that may not be, or all of them.
    """
    lost, matched = sorted(missing), len(wanted) - len(missing)
    if not matched or (lost and not request.allow_missing):
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        raise UserError(
            f"{folder.path}: {matched} of {len(wanted)} weights found by name and shape;"
            f" not {', '.join(lost[:3])}{more}"
        )
    types = Counter(str(tensor.dtype) for tensor in tensors.values() if tensor.is_floating_point())
    types.setdefault("torch.float32", 0)
    return Report(
        form,
        folder.files,
        matched=matched,
        wanted=len(wanted),
        missing=tuple(lost),
        unused=tuple(sorted(unused)),
        dtype=types.most_common(1)[0][0].removeprefix("torch."),
        preprocessing=preprocessing,
    )

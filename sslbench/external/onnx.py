"""ONNX files → an Encoder, run by onnxruntime."""

import difflib
import math
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from sslbench.encoder import Encoder
from sslbench.errors import UserError
from sslbench.external.network import opened
from sslbench.external.request import Report, Request
from sslbench.hashing import file_sha256

FLOATS = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}


def load(path: Path, request: Request) -> tuple[Encoder, Report]:
    """The encoder in an ONNX file, whose weights may lie in further files in its folder.

    The setting `output` in `request.encoder` names an output or any tensor inside the graph; see
    `Opaque` for the default and for `pooling`. Features are the same in each run with one number of
    threads; with another, or in batches of another size, they may differ by rounding.

    Raises:
        UserError: onnxruntime is not installed, the file is damaged, its input is not one batch of
            images, it names files outside its folder, or the settings do not fit it.
    """
    if not all(find_spec(name) for name in ("onnx", "onnxruntime")):
        raise UserError(f"{path}: ONNX files need `pip install 'sslbench[onnx]'`")
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise UserError(f"{path}: not an ONNX file, or a damaged one ({error})") from None
    files = {path.name: file_sha256(path), **_beside(path, model)}
    wanted = request.encoder.get("output")
    added = wanted is not None and _add_output(model, str(wanted), path)
    try:
        network = Graph(path, model.SerializeToString() if added else None)
    except Exception as error:  # onnxruntime's have no class in common
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: onnxruntime cannot read it ({reason})") from None
    inputs = network.session.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in FLOATS:
        named = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs) or "none"
        raise UserError(f"{path}: its inputs are {named}; one of floats (B, 3, H, W) expected")
    shape = tuple(side if isinstance(side, int) else None for side in inputs[0].shape)
    encoder, said = opened("onnx", path, files, request, network, shape)
    network.names = [encoder.output]  # the others need not be computed
    count, dtype = len(model.graph.initializer), str(network.dtype).removeprefix("torch.")
    return encoder, Report(
        "ONNX",
        files,
        matched=count,
        wanted=count,
        dtype=dtype,
        preprocessing=said,
        parameters=sum(math.prod(tensor.dims) for tensor in model.graph.initializer),
    )


class Graph(nn.Module):
    """An ONNX graph: images (B, 3, S, S) → the tensors `names`, by name.

    Args:
        path: of its file.
        content: of the file with changes; None: as it is.
    """

    def __init__(self, path: Path, content: bytes | None) -> None:
        super().__init__()
        self.path, self.content = path, content
        self.place = torch.device("cpu")
        self.session = self._start(self.place)
        self.names = [output.name for output in self.session.get_outputs()]
        self.dtype = FLOATS.get(self.session.get_inputs()[0].type, torch.float32)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Run on the device of the images, where onnxruntime can."""
        if images.device != self.place:
            self.session, self.place = self._start(images.device), images.device
        given = images.detach().cpu().to(self.dtype).numpy()
        found = self.session.run(self.names, {self.session.get_inputs()[0].name: given})
        pairs = zip(self.names, found, strict=True)
        return {name: torch.from_numpy(values).to(self.place) for name, values in pairs}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # a session cannot be copied, and there is nothing to train in it

    def _start(self, device: torch.device) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.use_deterministic_compute = True
        options.log_severity_level = 4  # errors are raised
        if self.content is not None:
            folder = "session.model_external_initializers_file_folder_path"
            options.add_session_config_entry(folder, str(self.path.parent.resolve()))
        providers: list[Any] = ["CPUExecutionProvider"]
        cuda = "CUDAExecutionProvider"
        if device.type == "cuda" and cuda in onnxruntime.get_available_providers():
            providers.insert(0, (cuda, {"device_id": device.index or 0}))
        source = self.content or str(self.path)
        return onnxruntime.InferenceSession(source, options, providers=providers)


def _constants(nodes: Iterable[Any]) -> Iterator[Any]:
    """Tensors in the attributes of nodes and of the graphs inside them."""
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for graph in (attribute.g, *attribute.graphs):
                yield from (*graph.initializer, *_constants(graph.node))


def _beside(path: Path, model: Any) -> dict[str, str]:
    """Name → sha256 of the files with weights that an ONNX file names, all in its folder."""
    nodes = [*model.graph.node, *(node for part in model.functions for node in part.node)]
    tensors = [*model.graph.initializer, *_constants(nodes)]
    names = {e.value for tensor in tensors for e in tensor.external_data if e.key == "location"}
    allowed = (path.parent.resolve(), path.resolve().parent)  # caches link files one by one
    for name in names:
        place = (path.parent / name).resolve()
        if not any(place.is_relative_to(folder) for folder in allowed):
            raise UserError(f"{path}: its weights {name!r} are outside its folder")
        if not place.is_file():
            raise UserError(f"{path}: its weights {name!r} are missing")
    return {name: file_sha256(path.parent / name) for name in sorted(names)}


def _add_output(model: Any, name: str, path: Path) -> bool:
    """Make a tensor inside the graph an output, unless it is one.

    Raises:
        UserError: no tensor has this name.
    """
    outputs = [output.name for output in model.graph.output]
    if name in outputs:
        return False
    tensors = [tensor for node in model.graph.node for tensor in node.output if tensor]
    if name not in tensors:
        near = ", ".join(difflib.get_close_matches(name, tensors, n=3))
        hint = f"did you mean {near}? " if near else ""
        raise UserError(f"{path}: no tensor {name!r}; {hint}outputs: {', '.join(outputs)}")
    model.graph.output.add().name = name
    return True

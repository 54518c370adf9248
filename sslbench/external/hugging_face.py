"""What transformers writes: its configuration as ours, and its weights under today's names."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sslbench.errors import UserError
from sslbench.external.folder import Folder
from sslbench.external.matching import further
from sslbench.external.request import Request

WEIGHTS = ("model.safetensors", "pytorch_model.bin")

# What stands in a configuration without changing what the model computes when it is evaluated.
_IGNORED = {"vocab_size", "torch_dtype", "use_cache", "num_labels", "finetuning_task"}
_IGNORED |= {"out_features", "out_indices", "stage_names", "initializer_range"}


def configuration(folder: Folder) -> dict[str, Any]:
    """Of config.json.

    Raises:
        UserError: it is missing, or it asks for code or for a quantised model.
    """
    config = folder.table("config.json")
    if config.get("auto_map"):
        raise UserError(
            f"{folder.path}: config.json has auto_map: the model needs code of its own, which is"
            " never run; only models that transformers itself has can be loaded"
        )
    if config.get("quantization_config"):
        raise UserError(f"{folder.path}: quantised weights cannot be loaded")
    return config


def settings(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    """What differs from the model type's defaults, without what only training needs."""
    from transformers import AutoConfig, PretrainedConfig

    plain = AutoConfig.for_model(kind)
    known = {*plain.to_dict(), *type(plain).attribute_map}
    special = {
        name: value
        for name, value in config.items()
        if name in known - _IGNORED - {*PretrainedConfig().to_dict()}
        and "drop" not in name
        and not name.startswith("_")
    }
    return {n: v for n, v in special.items() if _listed(v) != _listed(getattr(plain, n, None))}


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value  # as JSON has it


def chosen(
    folder: Folder, request: Request, described: dict[str, Any], name: str
) -> dict[str, Any]:
    """The encoder's configuration with the user's settings.

    Args:
        folder: for messages.
        request: "name" of its encoder must be the folder's, and the folder holds one set of
            weights.
        described: what the folder says.
        name: by which the user may call the encoder, beside its own.

    Raises:
        UserError: the user wants another encoder, or one of several sets of weights.
    """
    wanted = dict(request.encoder)
    called = wanted.pop("name", described["name"])
    if called not in (described["name"], name):
        raise UserError(f"{folder.path}: holds {described['name']}, not {called}")
    if request.weights is not None:
        raise UserError(f"{folder.path}: has one set of weights, none to choose by --weights")
    return {**described, **wanted}


def fill(
    model: Any, tensors: dict[str, Tensor], **construct: Any
) -> tuple[set[str], set[str], set[str]]:
    """Copy weights into a model of transformers, which also knows their names of other versions.

    Args:
        model: what is filled; its initialisation stays where weights are missing.
        tensors: of the checkpoint, of any floating type.
        construct: arguments that the model was made with beside its configuration.

    Returns:
        Names of the model's weights, those of them that were not found by name and shape, and
        names in the checkpoint that the model does not have.

    Raises:
        UserError: the weights are of a deeper model, or transformers cannot read them.
    """
    # Neither names a file or a hub, so that nothing but these tensors can be read.
    with _quiet():
        filled, found = type(model).from_pretrained(
            None,
            config=model.config,
            state_dict=tensors,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
            **construct,
        )
    if found["error_msgs"]:
        raise UserError("; ".join(found["error_msgs"]))
    missing = {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}
    start = f"{model.base_model_prefix}."  # which files have or have not, as models
    values = {name: value for name, value in filled.state_dict().items() if name not in missing}
    model.load_state_dict(values, strict=False)
    beyond = further(
        [name.removeprefix(start) for name in filled.state_dict()],
        [name.removeprefix(start) for name in found["unexpected_keys"]],
    )
    if beyond:
        raise UserError(
            "the weights are of another architecture than config.json says: they go on with "
            f"{', '.join(beyond[:3])}"
        )
    return {*filled.state_dict()}, missing, {*found["unexpected_keys"]}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bar and its table of weights, which the report replaces."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()

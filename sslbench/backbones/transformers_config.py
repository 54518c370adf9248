"""Configurations of transformers' models: only settings that the model has, and no dropout."""

from typing import Any

from sslbench.errors import UserError, suggest


def described(kind: str, settings: dict[str, Any], **defaults: Any) -> Any:
    """The configuration of a model type.

    Args:
        kind: transformers' model type.
        settings: as transformers names them; over the defaults.
        defaults: ours; those that the model type does not have are left out. Dropout is 0 unless
            the settings say otherwise, so that training does not depend on the number of processes.

    Raises:
        UserError: a setting that the model type does not have, or a value that it refuses.
    """
    from transformers import AutoConfig

    plain = AutoConfig.for_model(kind)
    known = {*plain.to_dict(), *type(plain).attribute_map}
    for name in settings:
        if name not in known - {"vocab_size"}:
            words = sorted(n for n in known if not n.startswith("_"))
            raise UserError(f"encoder {kind} has no setting {name!r}; {suggest(name, words)}")
    shares = {name for name in known if isinstance(getattr(plain, name, None), float)}
    still = {name: 0.0 for name in shares if "drop" in name}
    ours = {name: value for name, value in defaults.items() if name in known}
    try:
        return AutoConfig.for_model(kind, **{**ours, **still, **settings})
    except ValueError as error:
        raise UserError(f"encoder {kind}: {error}") from None

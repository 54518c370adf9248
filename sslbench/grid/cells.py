"""What a grid consists of: pretraining runs and evaluations, named by hashes of what they are."""

from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, get_type_hints

from sslbench import registry
from sslbench.data import load_train
from sslbench.encoder import Encoder, build, label
from sslbench.errors import NotApplicable, UserError
from sslbench.external.request import Request
from sslbench.features import EXTRACTOR_VERSION
from sslbench.hashing import digest
from sslbench.method import Method, Recipe
from sslbench.pretrain import LOOP_VERSION
from sslbench.random import mix
from sslbench.records import Checkpoint


@dataclass(frozen=True)
class Pretraining:
    """One pretraining run; names and numbers only, so that it travels to a job.

    Attributes:
        name: of the row; a variant's differs from its method's.
        method: as in the registry.
        settings: all of the method's, as plain values.
        recipe: the whole recipe, as plain values.
        encoder: configuration, without what is taken from the data.
        dataset: as `load_train` takes it.
        dataset_hash: of the split that is trained on.
        at: shares of the training, below 1, at which the encoder is kept.
    """

    name: str
    method: str
    method_version: int
    family: str
    settings: dict[str, Any]
    recipe: dict[str, Any]
    encoder: dict[str, Any]
    dataset: str
    dataset_hash: str
    epochs: int
    seed: int
    at: tuple[float, ...] = ()
    precision: str = "float32"

    @cached_property
    def key(self) -> str:
        """Hash of everything that determines the weights, and of the row's name."""
        return digest(asdict(self), LOOP_VERSION)

    def build(self) -> Method:
        """The method on its freshly initialised encoder, the same at every call.

        Raises:
            NotApplicable: the method cannot train this encoder or this data.
            UserError: a setting is wrong.
        """
        import torch

        cls = registry.method(self.method)
        _, data = load_train(self.dataset)
        settings = registry.settings(cls, self.settings)
        with torch.random.fork_rng(devices=[]):  # on the CPU: no GPU is touched here
            torch.manual_seed(mix(self.seed, 1))
            encoder = build(self.encoder, data)
            fits = ("any", "image_text" if encoder.text is not None else encoder.modality)
            if cls.modality not in (*fits, encoder.modality):
                raise NotApplicable(
                    f"{self.method} trains encoders of {cls.modality.replace('_', ' and ')}; "
                    f"{encoder.label} is of {encoder.modality}"
                )
            wanted = get_type_hints(cls.__init__).get("encoder", Encoder)
            if isinstance(wanted, type) and not isinstance(encoder, wanted):
                raise NotApplicable(f"{self.method} trains no encoder {encoder.config['name']!r}")
            torch.manual_seed(mix(self.seed, 2))
            try:
                method = cls(encoder, data, **settings)
            except ValueError as error:
                raise UserError(f"{self.method}: {error}") from None
        method.recipe = registry.override(Recipe(), self.recipe, f"{self.method}.recipe")
        return method

    def about(self, method: Method) -> dict[str, Any]:
        """What the checkpoint and its records say of this run."""
        return {
            "key": self.key,
            "name": self.name,
            "family": self.family,
            "method": self.method,
            "method_version": self.method_version,
            "settings": self.settings,
            "recipe": self.recipe,
            "encoder": method.encoder.label,
            "encoder_config": method.encoder.config,
            "pretrain_dataset": self.dataset,
            "pretrain_dataset_hash": self.dataset_hash,
            "pretrain_epochs": self.epochs,
            "pretrain_seed": self.seed,
        }

    def checkpoint(self) -> Checkpoint:
        """What a record says where the method could not even be built."""
        return Checkpoint(
            key=self.key,
            name=self.name,
            family=self.family,
            method=self.method,
            method_version=self.method_version,
            settings=self.settings,
            recipe=self.recipe,
            encoder=label(self.encoder),
            pretrain_dataset=self.dataset,
            pretrain_dataset_hash=self.dataset_hash,
            pretrain_epochs=self.epochs,
            pretrain_seed=self.seed,
        )


@dataclass(frozen=True)
class Evaluation:
    """One cell: a task on a dataset, for one checkpoint.

    Attributes:
        checkpoint: key of what determined the weights.
        at: share of the pretraining, 1 for its end.
        task: name of the column; a variant's differs from its protocol's.
        protocol: as in the registry.
    """

    checkpoint: str
    at: float
    task: str
    protocol: str
    version: int
    settings: dict[str, Any]
    dataset: str
    dataset_hash: str
    seed: int

    @cached_property
    def key(self) -> str:
        """Hash of everything that determines the scores."""
        return digest({f.name: getattr(self, f.name) for f in fields(self)}, EXTRACTOR_VERSION)


@dataclass(frozen=True)
class External:
    """A checkpoint that takes part as it is.

    Attributes:
        request: what it does not say itself.
    """

    name: str
    path: str
    key: str
    request: Request = field(default_factory=Request)


@dataclass(frozen=True)
class Work:
    """One source of weights, and the cells that evaluate it."""

    source: Pretraining | External
    cells: list[Evaluation]

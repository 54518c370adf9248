"""What every pretraining method must do, whatever it learns from; a new file is tested at once.

Run on GPUs too (`-m gpu`): the resume test under mixed precision, and the world-size test over NCCL
where there are several.
"""

import inspect
import json
import re
import typing
import warnings
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslbench import distributed, registry
from sslbench.checkpoint import load_encoder, load_state, weights_hash
from sslbench.method import Method, Recipe
from sslbench.monitor import CollapseWarning
from sslbench.pretrain import Options, train
from sslbench.random import Random
from tests.conftest import (
    run_processes,
)
from tests.methods.collapse import collapses
from tests.methods.small import BATCH, examples, make

NAMES = list(registry.entries("methods"))


def epoch_steps(name: str) -> int:
    return len(make(name).data) // BATCH


def trains(name: str) -> bool:
    return make(name).phases > 0


TRAINED = [name for name in NAMES if trains(name)]


def read_log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------------------ the contract


@pytest.mark.parametrize("name", NAMES)
def test_contract(name):
    entry, cls = registry.entries("methods")[name], registry.method(name)
    text = inspect.getdoc(inspect.getmodule(cls))
    assert re.match(r".+: .+\.\n", text), "first line: name, colon, the idea in one sentence"
    assert entry.describe()["summary"] == text.partition("\n")[0]
    assert isinstance(cls.paper, str)
    assert cls.pseudo_label
    assert entry.describe()["paper"] == cls.paper if cls.paper else cls.phases == 0
    assert cls.paper in text, "the docstring cites the paper"
    assert isinstance(cls.version, int)
    assert cls.version >= 1
    assert isinstance(cls.recipe, Recipe)
    assert cls.__doc__
    assert cls.__doc__ != Method.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_keywords_with_typed_and_documented_defaults(name):
    cls = registry.method(name)
    defaults = registry.settings(cls, {})
    assert registry.settings(cls, defaults) == defaults  # each default has the type it claims
    json.dumps(registry.plain(defaults))
    hints = typing.get_type_hints(cls.__init__)
    for setting in inspect.signature(cls).parameters.values():
        if setting.kind is setting.KEYWORD_ONLY:
            assert setting.default is not setting.empty
            assert setting.name in hints
            assert re.search(rf"^\s+{setting.name}: \S", cls.__doc__, re.MULTILINE)
        else:
            assert setting.name in ("encoder", "data")


def draw(method: Method) -> typing.Any:
    """Views of the first batch."""
    method.train()
    method.before_epoch(0)
    places = torch.arange(BATCH)
    with torch.no_grad():
        return method.views(method.data[places], Random(0, 0, places, BATCH))


@pytest.mark.parametrize("name", TRAINED)
def test_every_term_of_the_loss_has_a_gradient(name):
    method = make(name)
    views, terms = draw(method), {}
    method.log = lambda **values: terms.update(values)  # as they are, not detached
    loss = method.loss(views, 0.0)
    assert loss.shape == ()
    assert torch.isfinite(loss)
    assert len(terms.pop("embedding")) % BATCH == 0
    trained = [p for p in method.parameters() if p.requires_grad]
    for term, value in {"loss": loss, **terms}.items():
        if value.requires_grad:
            encoder = getattr(method, "student", method.encoder)  # what is kept may be a teacher
            where = list(encoder.parameters()) if term == "loss" else trained
            grads = torch.autograd.grad(value, where, retain_graph=True, allow_unused=True)
            assert sum(g.abs().sum() for g in grads if g is not None) > 0, term


@pytest.mark.parametrize("name", TRAINED)
def test_the_draw_decides_the_views_and_frozen_copies_get_no_gradient(name):
    method = make(name)
    views = draw(method)
    torch.rand(1)  # the global generator has no say in it
    torch.testing.assert_close(draw(method), views, rtol=0, atol=0)
    method.loss(views, 0.0).backward()
    assert all(p.grad is None for p in method.parameters() if not p.requires_grad)


# ------------------------------------------------------------------------------ world size


def double(values: typing.Any) -> typing.Any:
    """Views in double precision: what is a floating-point tensor, alone, in tuples or lists."""
    if isinstance(values, Tensor):
        return values.double() if values.is_floating_point() else values
    return type(values)(double(value) for value in values)


def train_all(folder: str, device: str) -> dict[str, tuple[dict[str, Tensor], list[float]]]:
    """What every method has become after training in double precision, and its logged losses.

    Double precision, because what is compared is the mathematics: a gradient that lacks a part is
    off by far more than 1e-6, what rounding does to it by far less.
    """
    if device == "cuda":
        device = f"cuda:{distributed.rank()}"
    found = {}
    for name in TRAINED:
        method = make(name, data=examples(registry.method(name).modality, 2)).double()
        views = method.views
        method.views = lambda batch, random, views=views: double(views(batch, random))
        place = Path(folder) / f"{name}-{distributed.world()}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CollapseWarning)
            train(method, place, epochs=2, seed=3, options=Options(device=device, log_steps=1))
        losses = []
        if distributed.rank() == 0:
            losses = [line["loss"] for line in read_log(place)]
        found[name] = ({k: v.cpu() for k, v in method.state_dict().items()}, losses)
    return found


@cache
def trained(world: int, device: str, folder: str) -> list[typing.Any]:
    """`train_all` in each of `world` processes."""
    if world == 1:
        return [train_all(folder, device)]
    backend = "nccl" if device == "cuda" else "gloo"
    return run_processes(world, train_all, folder, device, backend=backend)


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory):
    return str(tmp_path_factory.mktemp("worlds"))


def gpu(world: int) -> typing.Any:
    enough = torch.cuda.is_available() and torch.cuda.device_count() >= world
    reason = f"needs {world} CUDA devices"
    marks = [pytest.mark.gpu, pytest.mark.skipif(not enough, reason=reason)]
    return pytest.param(world, "cuda", marks=marks, id=f"{world}-cuda")


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize(("world", "device"), [(2, "cpu"), (4, "cpu"), gpu(2), gpu(4)])
def test_any_number_of_processes_gives_the_same(name, world, device, shared_folder):
    expected, losses = trained(1, device, shared_folder)[0][name]
    start = make(name, data=examples(registry.method(name).modality, 2)).double().state_dict()
    everywhere = trained(world, device, shared_folder)
    for rank, result in enumerate(everywhere):
        state, logged = result[name]
        if rank == 0:
            assert logged == pytest.approx(losses, rel=1e-6)  # in single precision
        assert state.keys() == expected.keys()
        for key, value in state.items():  # parameters, running statistics, teachers, queues
            torch.testing.assert_close(value, expected[key], rtol=1e-6, atol=1e-9, msg=key)
        moves = [
            torch.cat([(s[key] - start[key]).flatten() for key in s if key in parameters(name)])
            for s in (state, expected)
        ]
        assert float(moves[0].norm() / moves[1].norm()) == pytest.approx(1, abs=1e-6)
        assert float(F.cosine_similarity(*moves, dim=0)) == pytest.approx(1, abs=1e-6)


@cache
def parameters(name: str) -> set[str]:
    """Names of the encoder's parameters in the method."""
    return {key for key, _ in make(name).named_parameters() if key.startswith("encoder.")}


# ------------------------------------------------------------------------------ resume


@dataclass
class Dies:
    """A `progress` callback that raises at a step, as a node that dies."""

    at: int

    def __call__(self, step: int, steps: int, line: dict[str, float]) -> None:
        if step == self.at:
            raise InterruptedError


OPTIONS = Options(save_seconds=0.0, log_steps=1)  # saves after every step
PRECISIONS = [
    ("cpu", "float32"),
    ("cpu", "bfloat16"),
    *(
        pytest.param(
            "cuda",
            precision,
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
            ],
        )
        for precision in ("float32", "bfloat16", "float16")
    ),
]


def assert_same(a: typing.Any, b: typing.Any, where: str) -> None:
    """Equal bit for bit, whatever is nested in it."""
    if isinstance(a, Tensor):
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}.{number}")
    else:
        assert a == b, where


@pytest.mark.filterwarnings("ignore::sslbench.monitor.CollapseWarning")
@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize(("device", "precision"), PRECISIONS)
def test_an_interrupted_run_ends_as_if_it_had_not_been(name, device, precision, tmp_path):
    options = replace(OPTIONS, device=device, precision=precision)
    steps = make(name).phases * epoch_steps(name)
    outcome = train(make(name), tmp_path / "whole", epochs=2, seed=3, options=options)
    assert outcome.steps == 2 * steps

    # Dies inside the first epoch, in the first step of the second one, and inside that. What is
    # given to a resumed run was initialised with another seed: all that counts is in the state.
    for attempt, step in enumerate((3, steps + 1, 2 * steps - 1)):
        dying = replace(options, progress=Dies(step))
        with pytest.raises(InterruptedError):
            train(make(name, seed=attempt), tmp_path / "parts", epochs=2, seed=3, options=dying)
        saved = load_state(tmp_path / "parts" / "state.pt", torch.device(device))
        assert saved["step"] == step - 1
    resumed = train(make(name, seed=9), tmp_path / "parts", epochs=2, seed=3, options=options)

    assert resumed.steps == outcome.steps
    encoder, about = load_encoder(tmp_path / "parts")
    assert weights_hash(encoder) == resumed.weights_hash == about["weights_hash"]
    if device == "cpu":
        whole, parts = (
            load_state(tmp_path / kind / "state.pt", torch.device("cpu"))
            for kind in ("whole", "parts")
        )
        for key in ("method", "optimizer", "scaler", "step"):
            assert_same(whole[key], parts[key], key)
        assert (resumed.weights_hash, resumed.loss) == (outcome.weights_hash, outcome.loss)
    else:  # whose kernels add in any order
        vectors = [
            nn.utils.parameters_to_vector(load_encoder(tmp_path / kind)[0].parameters())
            for kind in ("whole", "parts")
        ]
        assert (vectors[0] - vectors[1]).norm() < 0.01 * vectors[0].norm()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in TRAINED])
def test_what_is_not_trained_is_saved_as_it_is(name, tmp_path):
    method = make(name)
    before = weights_hash(method.encoder)
    outcome = train(method, tmp_path, epochs=2, seed=0)
    assert (outcome.steps, outcome.loss, outcome.weights_hash) == (0, None, before)
    encoder, _ = load_encoder(tmp_path)
    inputs = method.encoder.preprocess(method.data[torch.arange(4)])
    torch.testing.assert_close(encoder(inputs), method.encoder.eval()(inputs))


# ------------------------------------------------------------------------------ collapse


def align(method: Method, views: tuple[Tensor, Tensor]) -> Tensor:
    """Pull the projections of two views together, and do nothing else."""
    first, second = (method.projector(method.encoder(view)) for view in views)
    method.log(embedding=first)
    return 2 - 2 * F.cosine_similarity(first, second, dim=1).mean()


def without_negatives(method: Method) -> None:
    method.loss = lambda views, progress: align(method, views)


def without_stop_gradient(method: Method) -> None:
    """One network is student and teacher, gets both gradients, and nothing predicts."""
    method.loss = lambda views, progress: align(method, views)
    method.after_step = lambda progress: None


def without_variance(method: Method) -> None:
    invariance, _, covariance = method.weights
    method.weights = (invariance, 0.0, covariance)


@pytest.mark.parametrize(
    ("name", "damage", "lr"),
    [
        ("simclr", without_negatives, 0.01),
        ("byol", without_stop_gradient, 0.01),
        ("vicreg", without_variance, 0.03),
    ],
)
def test_what_is_broken_collapses(name, damage, lr, tmp_path):
    collapses(name, damage, lr, tmp_path)

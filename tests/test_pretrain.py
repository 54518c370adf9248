"""The training loop, with methods made for what is tested."""

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sslbench.checkpoint import load_encoder, load_state, weights_hash
from sslbench.data.augment import Augmentation
from sslbench.data.split import Batch
from sslbench.errors import UserError
from sslbench.lock import exclusive
from sslbench.method import Method, Recipe
from sslbench.monitor import CollapseWarning, spread
from sslbench.pretrain import Options, Outcome, train
from sslbench.random import Random
from tests.conftest import run_processes, tiny_images, tiny_resnet

VIEW = Augmentation()
EVERY = Options(save_seconds=0.0, log_steps=1)  # a state and a log line after every step
STEPS = 8  # 2 epochs of 64 images in batches of 16


class Dummy(Method):
    """Predicts the mean colour; writes down what the loop asks of it."""

    paper = "none"
    recipe = Recipe("sgd", lr=0.05, batch_size=16, warmup=0.25)

    def __init__(self, encoder, data, *, phases=1):
        super().__init__(encoder, data)
        self.phases = phases
        self.head = nn.Linear(encoder.dim, 3)
        self.register_buffer("after", torch.zeros((), dtype=torch.float64))
        self.epochs: list[int] = []
        self.seen: list[Tensor] = []
        self.drawn: list[Tensor] = []
        self.losses: list[float] = []

    def before_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def views(self, batch: Batch, random: Random) -> Tensor:
        self.seen.append(batch.index)
        self.drawn.append(random.uniform())
        return VIEW(batch, 16, random)

    def loss(self, views: Tensor, progress: float) -> Tensor:
        h = self.encoder(views)
        self.log(embedding=h, height=h.mean())
        loss = (self.head(h) - views.mean((2, 3))).square().mean()
        self.losses.append(float(loss.detach()))
        return loss

    def after_step(self, progress: float) -> None:
        self.after += progress


def make(cls: type[Dummy] = Dummy, seed: int = 0, **settings: int) -> Dummy:
    torch.manual_seed(seed)
    return cls(tiny_resnet(), tiny_images(), **settings)


def run(method: Method, folder: Path, options: Options = EVERY, **changes) -> Outcome:
    return train(method, folder, **{"epochs": 2, "seed": 7, "options": options, **changes})


def read_log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def stop_at(step: int):
    """A `progress` callback that stops the run at a step, before its state is saved."""

    def progress(now: int, steps: int, line: dict[str, float]) -> None:
        if now == step:
            raise InterruptedError

    return replace(EVERY, progress=progress)


# ------------------------------------------------------------------------------ the steps


def test_every_epoch_visits_every_image_once_in_an_order_of_its_own(tmp_path):
    first, again, other = make(), make(), make()
    run(first, tmp_path / "a")
    run(again, tmp_path / "b")
    run(other, tmp_path / "c", seed=8)
    epochs = torch.cat(first.seen).view(2, 64)
    assert all(epoch.sort().values.equal(torch.arange(64)) for epoch in epochs)
    assert not epochs[0].equal(epochs[1])
    assert not epochs[0].equal(torch.cat(other.seen)[:64])
    assert epochs.flatten().equal(torch.cat(again.seen))
    assert first.epochs == [0, 1]


def test_every_step_draws_anew(tmp_path):
    method = make()
    run(method, tmp_path)
    places = torch.arange(16)
    for step, drawn in enumerate(method.drawn):
        assert drawn.equal(Random(7, step, places, 16).uniform())


def test_an_incomplete_batch_is_dropped(tmp_path):
    method = make()
    method.recipe = replace(method.recipe, batch_size=24)
    assert run(method, tmp_path).steps == 4
    assert [len(index) for index in method.seen] == [24] * 4


def test_a_batch_larger_than_the_data_is_cut_and_the_rate_with_it(tmp_path):
    method = make()
    method.recipe = replace(method.recipe, batch_size=640, warmup=0.0, schedule="constant")
    assert run(method, tmp_path).steps == 2
    assert read_log(tmp_path)[0]["lr"] == pytest.approx(0.005)


def test_one_step_is_gradient_descent_by_the_recipe(tmp_path):
    method, twin = make(), make()
    method.recipe = Recipe(
        "sgd", lr=0.5, weight_decay=0.1, batch_size=64, schedule="constant", clip=0.01
    )
    run(method, tmp_path, epochs=1)
    batch = twin.data[method.seen[0]]
    twin.train().loss(twin.views(batch, Random(7, 0, torch.arange(64), 64)), 0.0).backward()
    norm = torch.cat([p.grad.flatten() for p in twin.parameters()]).norm()
    assert norm > 0.01
    for (name, after), before in zip(method.named_parameters(), twin.parameters(), strict=True):
        decay = 0.1 * before.detach() if before.ndim > 1 else 0.0
        step = before.grad * (0.01 / (norm + 1e-6)) + decay
        torch.testing.assert_close(after.detach(), before.detach() - 0.5 * step, msg=name)


def test_progress_reaches_one_after_the_last_step(tmp_path):
    method = make()
    run(method, tmp_path)
    assert float(method.after) == pytest.approx(sum((k + 1) / STEPS for k in range(STEPS)))


def test_the_schedule_restarts_in_each_phase(tmp_path):
    method = make(phases=2)
    assert run(method, tmp_path).steps == 2 * STEPS
    rates = [line["lr"] for line in read_log(tmp_path)]
    assert rates[:STEPS] == pytest.approx(rates[STEPS:])
    assert method.epochs == [0, 1, 2, 3]


def test_nothing_to_train(tmp_path):
    method = make(phases=0)
    before = weights_hash(method.encoder)
    assert run(method, tmp_path) == Outcome(0, pytest.approx(0, abs=5), None, before)
    assert method.seen == []


def test_half_precision_trains_close_to_single(tmp_path):
    whole, half = make(), make()
    run(whole, tmp_path / "a")
    run(half, tmp_path / "b", replace(EVERY, precision="bfloat16"))
    assert whole.losses != half.losses
    assert half.losses[0] == pytest.approx(whole.losses[0], rel=0.05)
    assert half.losses[-1] < 0.5 * half.losses[0]


# ------------------------------------------------------------------------------ the log


def test_log_lines(tmp_path):
    method = make()
    outcome = run(method, tmp_path, Options(log_steps=3))
    log = read_log(tmp_path)
    assert [line["step"] for line in log] == [3, 6, 8]
    assert [line["epoch"] for line in log] == [0.75, 1.5, 2.0]
    assert [line["loss"] for line in log] == pytest.approx([method.losses[k] for k in (2, 5, 7)])
    # warm-up over 2 of 8 steps, then half a cosine over 6: steps 2, 5 and 7, counted from 0
    assert [line["lr"] for line in log] == pytest.approx([0.05, 0.025, 0.05 * 0.0669873], rel=1e-4)
    assert {"embedding_std", "rankme", "height", "seconds", "images_per_second"} <= log[0].keys()
    assert log[-1]["remaining_seconds"] == 0
    assert outcome.loss == pytest.approx(method.losses[-1])


def test_callbacks(tmp_path):
    calls, evaluated = [], []

    def online(encoder: nn.Module) -> dict[str, float]:
        evaluated.append(encoder.eval())
        return {"knn": 0.5}

    method = make()
    options = Options(
        log_steps=4, progress=lambda *a: calls.append(a), online=online, online_epochs=1
    )
    run(method, tmp_path, options)
    assert [(step, steps) for step, steps, _ in calls] == [(4, 8), (8, 8)]
    assert [line for _, _, line in calls] == read_log(tmp_path)
    assert evaluated == [method.encoder] * 2
    assert calls[0][2]["knn"] == 0.5
    assert method.training


class Constant(Dummy):
    """Has the same embedding for every image."""

    def loss(self, views: Tensor, progress: float) -> Tensor:
        loss = super().loss(views, progress)
        self.log(embedding=torch.ones(len(views), 4) + 1e-3 * torch.randn(len(views), 4))
        return loss


def test_collapse_warns_with_the_numbers(tmp_path):
    with pytest.warns(CollapseWarning, match=r"step 8: .* 0\.00\d\d of 1, RankMe 1\.0\d of 4"):
        run(make(Constant), tmp_path, Options())


# ------------------------------------------------------------------------------ what goes wrong


class Explodes(Dummy):
    """Is not a number from half of the training on."""

    def loss(self, views: Tensor, progress: float) -> Tensor:
        return super().loss(views, progress) * (float("nan") if progress >= 0.5 else 1.0)


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_a_good_state(tmp_path):
    for _ in range(2):  # a resumed run comes to the same end
        with pytest.raises(FloatingPointError, match=r"loss is nan at step 4 of 8 .*rates 0\.0"):
            run(make(Explodes), tmp_path)
        state = load_state(tmp_path / "state.pt", torch.device("cpu"))
        assert state["step"] == 4
        assert all(value.isfinite().all() for value in state["method"].values())
        assert len(read_log(tmp_path)) == 4


def test_embeddings_that_are_not_finite_stop_the_run():
    with pytest.raises(FloatingPointError, match="step 7: the embeddings are not finite"):
        spread(torch.tensor([[0.0, math.inf], [1.0, 0.0]]), 7)


def test_another_run_in_the_folder_is_refused(tmp_path):
    with pytest.raises(InterruptedError):
        run(make(), tmp_path, stop_at(3), about={"key": "one"})
    for changes in ({"about": {"key": "two"}}, {"seed": 8}, {"epochs": 3}):
        with pytest.raises(UserError, match="holds another run"):
            run(make(), tmp_path, **{"about": {"key": "one"}, **changes})
    run(make(), tmp_path, about={"key": "one"})
    with pytest.raises(UserError, match="holds another run"):
        run(make(), tmp_path, about={"key": "two"})


def test_a_folder_in_use_is_refused(tmp_path):
    with (
        exclusive(tmp_path),
        pytest.raises(UserError, match=f"another process works in it .*{os.getpid()}"),
    ):
        run(make(), tmp_path)


@pytest.mark.parametrize("file", ["state.pt", "run.json"])
def test_damaged_files_are_refused(file, tmp_path):
    with pytest.raises(InterruptedError):
        run(make(), tmp_path, stop_at(5))
    whole = (tmp_path / file).read_bytes()
    middle = len(whole) // 2
    altered = whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :]
    for damaged in (whole[:middle], b"", altered):
        if file == "run.json" and damaged is altered:
            continue  # any letters are a string
        (tmp_path / file).write_bytes(damaged)
        with pytest.raises(UserError, match=r"damaged.*remove the folder"):
            run(make(), tmp_path)
    (tmp_path / file).write_bytes(whole)
    assert run(make(), tmp_path).steps == STEPS


def test_a_batch_that_the_processes_cannot_share_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("sslbench.distributed.world", lambda: 3)
    with pytest.raises(UserError, match="batch size 16 is not divisible by 3 processes"):
        run(make(), tmp_path)


# ------------------------------------------------------------------------------ resume


def test_a_resumed_run_repeats_neither_epochs_nor_lines(tmp_path):
    whole, parts = make(), make()
    run(whole, tmp_path / "whole")
    with pytest.raises(InterruptedError):
        run(parts, tmp_path / "parts", stop_at(7))
    with (tmp_path / "parts" / "log.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')  # killed while writing
    resumed = make(seed=1)
    outcome = run(resumed, tmp_path / "parts")
    assert resumed.epochs == []  # inside the second epoch
    assert torch.cat(resumed.seen).equal(torch.cat(whole.seen[6:]))
    clocks = {"seconds", "images_per_second", "remaining_seconds"}
    a, b = (
        [{key: line[key] for key in line.keys() - clocks} for line in read_log(tmp_path / kind)]
        for kind in ("whole", "parts")
    )
    assert a == b
    assert outcome.weights_hash == weights_hash(whole.encoder)


def test_encoders_on_the_way_are_kept(tmp_path):
    options = replace(EVERY, at=(0.25, 0.5))
    with pytest.raises(InterruptedError):
        run(make(), tmp_path, replace(stop_at(5), at=(0.25, 0.5)), about={"key": "k"})
    method = make(seed=1)
    run(method, tmp_path, options, about={"key": "k"})
    hashes = set()
    for name, share, step in (
        ("encoder-0.25", 0.25, 2),
        ("encoder-0.5", 0.5, 4),
        ("encoder", 1.0, 8),
    ):
        encoder, about = load_encoder(tmp_path / name)
        assert (about["at"], about["pretrain_step"], about["key"]) == (share, step, "k")
        assert about["weights_hash"] == weights_hash(encoder)
        assert about["pretrain_loss"] == pytest.approx(read_log(tmp_path)[step - 1]["loss"])
        hashes.add(weights_hash(encoder))
    assert len(hashes) == 3
    assert weights_hash(method.encoder) in hashes


def test_a_finished_folder_is_returned_at_once(tmp_path):
    outcome = run(make(), tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    idle = make(seed=1)
    assert run(idle, tmp_path) == outcome
    assert idle.seen == []
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == files


def die_at_three(folder: str) -> None:
    """Trains until the process is killed as `kill -9` does."""

    def progress(step: int, steps: int, line: dict[str, float]) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    run(make(), Path(folder), replace(EVERY, progress=progress))


def test_a_killed_process_loses_at_most_the_last_interval(tmp_path):
    whole = run(make(), tmp_path / "whole")
    with pytest.raises(torch.multiprocessing.ProcessExitedException, match="SIGKILL"):
        run_processes(1, die_at_three, str(tmp_path / "parts"))
    assert (tmp_path / "parts" / ".lock").exists()
    resumed = make(seed=1)
    assert run(resumed, tmp_path / "parts").weights_hash == whole.weights_hash
    assert len(resumed.seen) == STEPS - 2

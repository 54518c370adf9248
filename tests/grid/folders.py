"""Run folders written by hand, file by file, as jobs leave them."""

import json
from pathlib import Path

from sslbench.grid.cells import Evaluation, Pretraining, Work
from sslbench.grid.slurm import prefix
from sslbench.records import Checkpoint, Provenance, Record


class RunFolder:
    """A run folder.

    Attributes:
        path: of it.
        code: name of the snapshot that submissions run.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.path, self.code = path, "0123456789abcdef"

    def checkpoint(self, run: Pretraining) -> Path:
        folder = self.path / "checkpoints" / run.key[:2] / run.key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def begun(self, run: Pretraining, seconds: float, remaining: float) -> Path:
        """A run with a saved state and a log whose last line was cut off."""
        folder = self.checkpoint(run)
        lines = [{"seconds": 1.0, "remaining_seconds": 9999.0},
                 {"seconds": seconds, "remaining_seconds": remaining}]  # fmt: skip
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "log.jsonl").write_text(text + '{"seconds": 7')
        (folder / "state.pt").write_bytes(b"state")
        (folder / "run.json").write_text('{"status": "running"}')
        return folder

    def finished(self, run: Pretraining, seconds: float = 60.0) -> Path:
        folder = self.begun(run, seconds, 0.0)
        (folder / "run.json").write_text('{"status": "finished", "outcome": {"steps": 1}}')
        (folder / "encoder").mkdir()
        (folder / "encoder" / "encoder.json").write_text("{}")
        return folder

    def record(self, run: Pretraining, cell: Evaluation, status: str = "ok", *,
               seconds: float = 60.0, trained: float | None = None,
               reason: str | None = None) -> Path:  # fmt: skip
        made = run.checkpoint().model_copy(update={"pretrain_seconds": trained})
        record = Record(
            key=cell.key, status=status, reason=reason, checkpoint=Checkpoint(**made.model_dump()),
            task=cell.task, protocol=cell.protocol, task_version=1, dataset=cell.dataset,
            headline="top1", provenance=Provenance(created="now", seconds=seconds),
        )  # fmt: skip
        path = self.path / "records" / cell.key[:2] / f"{cell.key}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(record.model_dump_json())
        return path

    def submitted(self, number: int, stage: str, *jobs: Work) -> str:
        """An array with one job for each item of work; returns the name of its jobs."""
        name = f"{prefix(self.path)}{number:05d}"
        folder = self.path / "jobs" / name
        folder.mkdir(parents=True)
        about = {
            "name": name,
            "stage": stage,
            "cells": [[cell.key for cell in job.cells] for job in jobs],
            "sources": [[job.source.key] for job in jobs],
            "gpus": 0,
        }
        (folder / "submission.json").write_text(json.dumps(about))
        (folder / f"{number}_submission.sh").write_text(f"export PYTHONPATH=/run/code/{self.code}")
        (folder / f"{number}_0_submitted.pkl").write_bytes(b"pickle")
        return name

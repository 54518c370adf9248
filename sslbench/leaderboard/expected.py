"""What this sslbench would write into a record: by its registries, and the data that are here."""

import json
import math
import warnings
from functools import cache
from typing import Any

from sslbench import registry
from sslbench.data import load, load_train
from sslbench.data.split import Dataset
from sslbench.data.table import rows
from sslbench.errors import UserError
from sslbench.evaluation import headline
from sslbench.leaderboard.findings import Said
from sslbench.records import Record
from sslbench.task import Task

OWN = ("folder:", "captions:", "coco:", "text:")  # datasets that only their owner has


class Expected:
    """Registries and datasets, each asked once. The network is never touched."""

    def __init__(self) -> None:
        self._tasks, self._methods = registry.entries("tasks"), registry.entries("methods")
        self._rows = rows(registry.plugin_folders())
        self._told: set[tuple[str, object]] = set()
        self._task, self._method = cache(registry.task), cache(registry.method)
        self._data, self._made = cache(self._load), cache(self._make)
        self._chance, self._trained_on = cache(self._level), cache(self._split_hash)

    def version(self, protocol: str) -> int | None:
        """Of a task, None if there is none of this name."""
        return self._task(protocol).version if protocol in self._tasks else None

    def task(self, record: Record) -> Said:
        """A task that is unknown, newer or has other settings, headline, direction or chance."""
        version = self.version(record.protocol)
        if version is None:
            yield "problem", f"no task {record.protocol!r} here; see sslbench list tasks"
        elif record.task_version > version:
            yield (
                "problem",
                f"version {record.task_version} of {record.protocol}; this sslbench has {version}: "
                "update sslbench",
            )
        elif record.task_version == version:
            yield from self._described(record)

    def method(self, record: Record) -> Said:
        """A method that is unknown, or of another version."""
        name, found = record.checkpoint.method, record.checkpoint.method_version
        if record.checkpoint.family == "external":
            return
        if name not in self._methods:
            yield "problem", f"no method {name!r} here; see sslbench list methods"
            return
        version = self._method(name).version
        text = f"version {found} of {name}; this sslbench has {version}"
        if found is None or found > version:
            yield "problem", f"{text}: update sslbench"
        elif found < version and self._first("method", (name, found)):
            yield "note", f"{text}: new rows of it would differ, from this record and all like it"

    def data(self, record: Record) -> Said:
        """Datasets that are unknown, or not those that this sslbench has."""
        if not record.dataset.startswith(OWN):
            yield from self._tested_on(record)
        c = record.checkpoint
        if c.family == "external" or c.pretrain_dataset is None or ":" in c.pretrain_dataset:
            return
        base = c.pretrain_dataset.partition("/")[0]
        if base not in self._rows:
            yield "problem", f"no dataset {base!r} to pretrain on; see sslbench list datasets"
            return
        if isinstance(reason := self._data(base), str):
            yield from self._away(base, reason)
            return
        found, error = self._trained_on(c.pretrain_dataset)
        if error:
            yield "problem", error
        elif found != c.pretrain_dataset_hash:
            text = f"pretrain_dataset_hash {c.pretrain_dataset_hash} of {c.pretrain_dataset}"
            yield "problem", f"{text}; {found} expected"

    def _described(self, record: Record) -> Said:
        cls = self._task(record.protocol)
        settings = json.dumps(record.task_settings, sort_keys=True)
        if isinstance(made := self._made(record.protocol, settings), str):
            yield "problem", made
            return
        if record.higher_is_better != cls.higher_is_better:
            found, wanted = record.higher_is_better, cls.higher_is_better
            yield "problem", f"higher_is_better = {found}; {record.protocol} has {wanted}"
        row = self._rows.get(record.dataset)
        if row is None or isinstance(data := self._data(row.name), str):
            return
        if (metric := headline(cls, data)) != record.headline:
            yield "problem", f"headline {record.headline!r}; {metric!r} expected on {row.name}"
        if record.status == "ok":
            level = self._chance(record.protocol, settings, row.name)
            if not _same(level, record.chance):
                yield "problem", f"chance {record.chance}; {level} expected on {row.name}"

    def _tested_on(self, record: Record) -> Said:
        row = self._rows.get(record.dataset)
        if row is None:
            yield "problem", f"no dataset {record.dataset!r} here; see sslbench list datasets"
            return
        data = self._data(row.name)
        expected = row.hash if isinstance(data, str) else row.hash or data.hash
        if expected is not None and record.dataset_hash != expected:
            text = f"dataset_hash {record.dataset_hash} of {row.name}; {expected} expected"
            yield "problem", f"{text}: computed on other data"
        if isinstance(data, str):
            yield from self._away(row.name, data)
            return
        for split, n in (("train", record.n_train), ("test", record.n_test)):
            if n not in (None, len(data[split])):
                yield "problem", f"n_{split} = {n}; {row.name} has {len(data[split])}"

    def _away(self, name: str, reason: str) -> Said:
        """A note in the first record only."""
        if self._first("dataset", name):
            known = "only its hash was" if self._rows[name].hash else "nothing of it was"
            yield "note", f"{reason}; {known} compared, in this record and all others"

    def _first(self, kind: str, what: object) -> bool:
        """Whether this was not told before."""
        new = (kind, what) not in self._told
        self._told.add((kind, what))
        return new

    def _load(self, name: str) -> Dataset | str:
        """The dataset, read as a whole, or why it is not here."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of another decoder: the table's hash counts here
            try:
                data = load(name)
                for split in data.splits.values():
                    len(split)
            except (UserError, OSError, ImportError) as error:
                return str(error)
        return data

    def _split_hash(self, name: str) -> tuple[str | None, str | None]:
        """Hash of the split to pretrain on, or what is wrong with its name."""
        try:
            return load_train(name)[1].hash, None
        except UserError as error:
            return None, str(error)

    def _make(self, protocol: str, settings: str) -> Task | str:
        """The task with its settings, or what is wrong with them."""
        cls = self._task(protocol)
        try:
            made: Task = cls(**registry.settings(cls, json.loads(settings)))
        except Exception as error:  # whatever a task makes of settings that somebody else wrote
            return f"settings that {protocol} does not take: {error}"
        return made

    def _level(self, protocol: str, settings: str, dataset: str) -> Any:
        """The task's level of chance, or what it raises on a dataset that is none for it."""
        made, data = self._made(protocol, settings), self._data(dataset)
        if isinstance(made, str) or isinstance(data, str):
            return None
        try:
            return made.chance(data)
        except Exception as error:
            return f"{type(error).__name__}: {error}"


def _same(a: Any, b: float | None) -> bool:
    if a is None or b is None or isinstance(a, str):
        return a is b
    return math.isclose(a, b, rel_tol=1e-9)

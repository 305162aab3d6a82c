"""Retrainings and their events for tests of whoever uses the run store."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from neurogate.v1 import training_pb2
from neurogate_gateway.store.database import Database
from neurogate_gateway.store.leases import RunLeases
from neurogate_gateway.store.notifier import RunNotifier
from neurogate_gateway.store.run import Run
from neurogate_gateway.store.run_starts import NewRun
from neurogate_gateway.store.runs import RunStore
from neurogate_gateway.store.schema import examples


class Retrainings:
    """The stores over one database, and short words to fill them."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        self.changes = RunNotifier()
        self.runs = RunStore(self.database, self.changes)
        self.claims = RunLeases(self.database, self.changes)

    def start(self, **changes: Any) -> Run:
        """A retraining that waits."""
        run, _ = self.start_or_find(**changes)
        return run

    def start_or_find(self, **changes: Any) -> tuple[Run, bool]:
        """The same, and whether it is new."""
        spec = changes.pop("spec", training_pb2.RetrainingSpec(from_scratch=True))
        limits = {"most_queued": 100, "check_counts": lambda _: None}
        limits.update({name: changes.pop(name) for name in list(changes) if name in limits})
        new = NewRun(**{"spec": spec, "launcher": "local", "actor": "tester"} | changes)
        return self.runs.create(new, **limits)

    def add_examples(self, count: int, class_id: str = "glioma", **changes: Any) -> list[str]:
        """Rows of examples without images; returns their identifiers."""
        moment = dt.datetime.now(dt.UTC)
        identifiers = [f"{class_id.encode().hex()[:8]:0>8}{number:056x}" for number in range(count)]
        row = {
            "class_id": class_id,
            "source": "UPLOAD",
            "create_time": moment,
            "width": 8,
            "height": 8,
            "size_bytes": 100,
            "prediction_id": "",
            "group": "",
            "actor": "tester",
        }
        with self.database.write() as connection:
            connection.execute(
                sa.insert(examples), [row | changes | {"example_id": name} for name in identifiers]
            )
        return identifiers

    def close(self) -> None:
        """Closes the database."""
        self.database.close()


def log_event(text: str) -> training_pb2.RetrainingEvent:
    """A line of a trainer's log."""
    return training_pb2.RetrainingEvent(log=training_pb2.RetrainingLogLine(level="info", text=text))

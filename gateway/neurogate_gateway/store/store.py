"""Everything that a gateway remembers: the database, the images, and what is kept in them."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import sqlalchemy as sa

from .blobs import ImageStore
from .database import Database
from .errors import RecordsSetupError
from .examples import ExampleStore, wanted_images
from .notifier import RunNotifier
from .predictions import PredictionStore
from .runs import RunLeases, RunStore

_THREADS: Final = 4
"""SQLite has one writer at a time; the others read."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Store:
    """The records of one gateway.

    Args:
        data_dir: Folder of the images, and of the database unless `url` names another.
        url: SQLAlchemy URL of the database; empty means SQLite in the folder.
        max_store_bytes: Size of all images together from which on new ones are refused.

    Raises:
        RecordsSetupError: The folder or the database cannot be used.
    """

    def __init__(self, data_dir: Path, url: str, *, max_store_bytes: int) -> None:
        data_dir = data_dir.absolute()
        try:
            data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.images = ImageStore(data_dir / "images", max_store_bytes)
        except OSError as error:
            raise RecordsSetupError(f"the folder of the records cannot be used: {error}") from error
        try:
            # Not as text: a "?" in the path would end it there.
            own = sa.URL.create("sqlite", database=os.fspath(data_dir / "records.db"))
            self.database = Database(url or own)
        except BaseException:
            self.images.close()
            raise
        self.notifier = RunNotifier()
        self.runs = RunStore(self.database, self.notifier)
        self.leases = RunLeases(self.database, self.notifier)
        self.examples = ExampleStore(self.database, self.images)
        self.predictions = PredictionStore(self.database, self.images)
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="store")

    async def run(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Runs work on the records in one of their threads.

        What has begun goes on when the caller is cancelled: a transaction is never left half-way.
        """
        call = functools.partial(work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def close(self) -> None:
        """Waits for work that has begun, and closes everything."""
        self._executor.shutdown(cancel_futures=True)
        self.database.close()
        self.images.close()

    def sweep(self, *, journal_days: float, max_predictions: int, image_days: float) -> int:
        """Removes what is past its time: predictions, their images, and images that no row names.

        Returns:
            How many images were removed.
        """
        self.predictions.forget(timedelta(days=journal_days), max_predictions)
        self.predictions.forget_images(timedelta(days=image_days))
        return self.images.remove_unless(functools.partial(wanted_images, self.database))

"""Trainers as jobs of a Ray cluster that is there already. All machines share the folders under one path."""

from __future__ import annotations

import asyncio
import importlib.util
import shlex
from collections.abc import Callable
from typing import Any, Final, TypeVar

from .launching import LOG_FILE, Job, JobState, JobStatus, LaunchError

T = TypeVar("T")

_STATES: Final = {"PENDING": JobState.WAITING, "RUNNING": JobState.RUNNING}


class RayLauncher:
    """Submits trainers to a Ray cluster.

    Args:
        address: Of the cluster's dashboard, e.g. "http://head:8265".
        cpus: Requested for a trainer.
        gpus: Requested for a trainer.

    Raises:
        ModuleNotFoundError: Ray is not installed.
    """

    name: Final = "ray"
    at_once: Final = 16
    """The cluster has a queue of its own; this only bounds what a gateway looks after."""

    def __init__(self, address: str, *, cpus: float, gpus: float) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ModuleNotFoundError("no module ray", name="ray")
        self._address = address
        self._cpus = cpus
        self._gpus = gpus
        self._client: Any = None

    async def start(self, job: Job) -> str:
        """As `Launcher`; the handle is Ray's submission id, which is the retraining's own."""
        log = shlex.quote(str(job.folder / LOG_FILE))
        entrypoint = f"exec {shlex.join(job.command)} >> {log} 2>&1"

        def submit(client: Any) -> str:  # noqa: ANN401 - Ray carries no types here
            # A submission whose answer was lost must not become two.
            if any(known.submission_id == job.run_id for known in client.list_jobs()):
                return job.run_id
            submitted: str = client.submit_job(
                entrypoint=entrypoint,
                submission_id=job.run_id,
                entrypoint_num_cpus=self._cpus,
                entrypoint_num_gpus=self._gpus or None,
            )
            return submitted

        return await self._ask(submit)

    async def status(self, handle: str) -> JobStatus:
        """As `Launcher`."""

        def look(client: Any) -> JobStatus:  # noqa: ANN401 - as above
            try:
                job = client.get_job_info(handle)
            except RuntimeError as error:
                if "404" not in str(error):
                    raise
                return JobStatus(JobState.LOST, "the Ray cluster does not know the job any longer")
            state = _STATES.get(job.status.value, JobState.ENDED)
            ended = f"Ray says {job.status.value}: {job.message or 'nothing more'}"
            return JobStatus(state, ended if state is JobState.ENDED else "")

        return await self._ask(look)

    async def cancel(self, handle: str) -> None:
        """As `Launcher`; Ray sends SIGTERM, and SIGKILL some seconds later."""
        await self._ask(lambda client: client.stop_job(handle))

    async def _ask(self, question: Callable[[Any], T]) -> T:
        def run() -> T:
            if self._client is None:
                # Takes a second and 100 MB, so not before it is needed.
                from ray.job_submission import JobSubmissionClient  # noqa: PLC0415

                self._client = JobSubmissionClient(self._address)
            return question(self._client)

        try:
            return await asyncio.to_thread(run)
        # Ray tells everything by RuntimeError or ConnectionError, its HTTP client by kinds of OSError.
        except (RuntimeError, OSError) as error:
            raise LaunchError(f"the Ray cluster at {self._address} says: {error}", passing=True) from error

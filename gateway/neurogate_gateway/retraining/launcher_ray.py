"""Trainers as jobs of a Ray cluster that is there already; all machines share the folders under one path."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import shlex
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NoReturn, TypeVar

from .launcher import LOG_FILE, Job, JobState, JobStatus, LaunchError

T = TypeVar("T")

_ANSWER_SECONDS: Final = 30.0
_NOT_FOUND: Final = 404
_STATES: Final = {"PENDING": JobState.WAITING, "RUNNING": JobState.RUNNING}


class _JobGoneError(RuntimeError):
    """The cluster knows no such job."""


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
    max_jobs: Final = 16
    """The cluster has a queue of its own; this only bounds what a gateway looks after."""

    def __init__(self, address: str, *, cpus: float, gpus: float) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ModuleNotFoundError("no module ray", name="ray")
        self._address = address
        self._cpus = cpus
        self._gpus = gpus
        self._client: Any = None
        # Of its own, one thread a job: a dashboard that hangs must not take the threads that change the
        # release and read files.
        self._threads = ThreadPoolExecutor(self.max_jobs, thread_name_prefix="ray-launcher")

    async def start(self, job: Job) -> str:
        """As `Launcher`; the handle is Ray's submission id, which is the retraining's own."""
        log = shlex.quote(str(job.folder / LOG_FILE))
        entrypoint = f"exec {shlex.join(job.command)} >> {log} 2>&1"

        def submit(client: Any) -> str:  # noqa: ANN401 - Ray carries no types here
            # A submission whose answer was lost must not become two.
            with contextlib.suppress(_JobGoneError):
                client.get_job_info(job.run_id)
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

        def ask(client: Any) -> JobStatus:  # noqa: ANN401 - as above
            try:
                job = client.get_job_info(handle)
            except _JobGoneError:
                return JobStatus(JobState.LOST, "the Ray cluster does not know the job any longer")
            state = _STATES.get(job.status.value, JobState.ENDED)
            ended = f"Ray says {job.status.value}: {job.message or 'nothing more'}"
            return JobStatus(state, ended if state is JobState.ENDED else "")

        return await self._ask(ask)

    async def cancel(self, handle: str) -> None:
        """As `Launcher`; Ray sends SIGTERM, and SIGKILL some seconds later."""
        await self._ask(lambda client: client.stop_job(handle))

    def close(self) -> None:
        """As `Launcher`; waits for no answer of the cluster."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _ask(self, call: Callable[[Any], T]) -> T:
        def run() -> T:
            if self._client is None:
                self._client = _client(self._address)
            return call(self._client)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, run)
        # Ray raises RuntimeError or ConnectionError for everything, its HTTP client kinds of OSError.
        except (RuntimeError, OSError) as error:
            raise LaunchError(f"the Ray cluster at {self._address} says: {error}", transient=True) from error


def _client(address: str) -> Any:  # noqa: ANN401 - as above
    # Takes a second and 100 MB, so not before it is needed.
    from ray.exceptions import RayError  # noqa: PLC0415
    from ray.job_submission import JobSubmissionClient  # noqa: PLC0415

    class Client(JobSubmissionClient):  # type: ignore[misc]
        """Ray's own client has no timeout, and raises one class of error for every status."""

        def _do_request(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - as above
            try:
                return super()._do_request(*args, **{"timeout": _ANSWER_SECONDS} | options)
            except RayError as error:
                # A cluster that wants a token has a kind of its own for that.
                raise RuntimeError(str(error)) from error

        def _raise_error(self, r: Any) -> NoReturn:  # noqa: ANN401 - as above
            if r.status_code == _NOT_FOUND:
                raise _JobGoneError("the Ray cluster does not know the job")
            raise RuntimeError(f"status {r.status_code}: {r.text}")

    return Client(address)

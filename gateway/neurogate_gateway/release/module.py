"""The release as one part of the gateway: assembles what the mode asks for, runs it, and publishes events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from neurogate.v1 import model_pb2
from neurogate_core.release_store import Release, ReleaseStore
from neurogate_core.repository import ModelRepository, RepositoryError

from neurogate_gateway.backends.versions import VersionView
from neurogate_gateway.inference.pipeline import InferencePipeline, PredictionObserver
from neurogate_gateway.observability.logging import log
from neurogate_gateway.observability.metrics import Metrics
from neurogate_gateway.settings import ConfigError, Settings

from .controller import CandidateJudge, ReleaseController
from .foreign_servers import ForeignServers
from .gate import Evaluator
from .guards import GuardWatch
from .messages import MODES, release_message, version_message
from .model_servers import ModelServers
from .policy import Policy, PolicyError, read_policy
from .release_metrics import ReleaseMetrics
from .router import STABLE, VersionRouter
from .service import ReleaseService
from .shadow import Shadow
from .watch import Event, WatchHub

_AFTER_DEFECT_SECONDS: Final = 1.0


class ReleaseModule:
    """The release of one gateway.

    Attributes:
        service: Makes the changes that callers ask for; None when the release is not managed.
        controller: The release; None when it is not managed.
        policy: What gate and guards ask for.
        hub: Streams of what happens.
        observers: Get every `PredictionEvent`.
    """

    def __init__(
        self, settings: Settings, router: VersionRouter, background: InferencePipeline, metrics: Metrics
    ) -> None:
        """Puts the parts together.

        Raises:
            ConfigError: A setting leads to something that cannot be used.
        """
        self.mode = settings.mode
        self.controller: ReleaseController | None = None
        self.policy = Policy()
        self.service: ReleaseService | None = None
        self.observers: tuple[PredictionObserver, ...] = ()
        self._router = router
        self._evaluator: Evaluator | None = None
        self._shadow: Shadow | None = None
        self._guard_watch: GuardWatch | None = None
        self._runs: list[Callable[[], Awaitable[None]]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.hub = WatchHub(self._present)
        self._newest: int | None = None
        router.pool.version_changed.add(lambda view: self._version_changed(view.number))
        if self.mode != "latest":
            self._manage(settings, background, metrics)

    def _manage(self, settings: Settings, background: InferencePipeline, metrics: Metrics) -> None:
        repository, pool = Path(settings.repository), self._router.pool
        try:
            if settings.policy:
                self.policy = read_policy(Path(settings.policy))
            store = ReleaseStore(repository, settings.model_name)
        except (PolicyError, RepositoryError) as error:
            raise ConfigError(str(error)) from error
        self.controller = controller = ReleaseController(
            store,
            ModelRepository(repository),
            self._router,
            retire_after=settings.retire_after_seconds,
            keep=settings.keep_versions,
        )
        seconds = settings.default_timeout_seconds
        if settings.sealed_images:
            source = Path(settings.sealed_images)
            self._evaluator = Evaluator(source, pool, background, self.policy, seconds=seconds)
            self._evaluator.reported.add(self._publish_version)
        self.service = service = ReleaseService(controller, self._router, self._evaluator, self.policy)
        self._shadow = Shadow(controller, pool, background, seconds=seconds)
        self._guard_watch = GuardWatch(controller, self.policy.guards)
        self.observers = (self._guard_watch, self._shadow)
        controller.changed.add(self._publish_release)
        self._guard_watch.noticed.add(lambda: self.hub.publish(Event(release=self.release())))
        if metrics.enabled:
            ReleaseMetrics(metrics, controller, self._shadow, self._guard_watch, self._evaluator)
        foreign_servers = ForeignServers(controller, pool, take_over=settings.take_over_model_servers)
        self._runs = [
            controller.run,
            ModelServers(repository, settings.model_name, controller, pool, foreign_servers).run,
            self._shadow.run,
        ]
        if self._evaluator is not None:
            self._runs.append(CandidateJudge(controller, pool, service, promote=self.mode == "gated").run)

    async def start(self) -> None:
        """Reads the release and starts what keeps to it."""
        if self.controller is not None:
            await self.controller.load()
        self._tasks = [asyncio.create_task(_kept_running(run)) for run in self._runs]

    def drain(self) -> None:
        """Ends the streams of watchers."""
        self.hub.close()

    async def stop(self) -> None:
        """Stops all tasks."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._guard_watch is not None:
            await self._guard_watch.close()
        if self._evaluator is not None:
            await self._evaluator.close()

    def report(self, version: int) -> model_pb2.GateReport | None:
        """The gate's last verdict on a version; None when it was not asked yet."""
        return self._evaluator.last_report(version) if self._evaluator is not None else None

    def release(self, release: Release | None = None) -> model_pb2.Release:
        """The release as the contract has it.

        Args:
            release: As of some change, without what shadow and guards see; None for the present one.
        """
        model = self._router.model
        if self.controller is None:
            newest = self._router.pool.newest
            labels = {} if newest is None else {STABLE: newest}
            return model_pb2.Release(model=model, mode=MODES[self.mode], labels=labels)
        if release is not None:
            return release_message(model, release, self.mode)
        message = release_message(model, self.controller.release, self.mode)
        agreement = self._shadow.agreement() if self._shadow is not None else None
        if agreement is not None:
            message.shadow.CopyFrom(agreement)
        if self._guard_watch is not None:
            message.guards.extend(self._guard_watch.states())
        return message

    def _present(self) -> list[Event]:
        versions = [self._version_event(view) for view in self._router.pool.versions()]
        return [*versions, Event(release=self.release())]

    def _version_event(self, view: VersionView) -> Event:
        return Event(version=version_message(self._router, view, self.report(view.number)))

    def _version_changed(self, number: int) -> None:
        self._publish_version(number)
        before, self._newest = self._newest, self._router.pool.newest
        if before == self._newest:
            return
        # The label "latest" has moved; where the release is not managed, it has no other.
        for other in {before, self._newest} - {None, number}:
            self._publish_version(other or 0)
        if self.controller is None:
            self.hub.publish(Event(release=self.release()))

    def _publish_version(self, number: int) -> None:
        view = self._router.pool.view(number)
        if view is not None:
            self.hub.publish(self._version_event(view))

    def _publish_release(self, before: Release) -> None:
        assert self.controller is not None  # noqa: S101 - it is what tells
        old, new = before.state.labels, self.controller.release.state.labels
        for number in sorted({*old.values(), *new.values()}):
            if {label for label in old if old[label] == number} != {
                label for label in new if new[label] == number
            }:
                self._publish_version(number)
        self.hub.publish(Event(release=self.release()))


async def _kept_running(run: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await run()
        except Exception as defect:  # noqa: BLE001 - a defect must not end it for good
            log(logging.ERROR, "release_task_failed", task=getattr(run, "__qualname__", ""), error=defect)
        await asyncio.sleep(_AFTER_DEFECT_SECONDS)

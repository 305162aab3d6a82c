"""StartRetraining: everything that can be refused is refused here, before anything is queued."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Collection, Mapping

from neurogate.v1 import error_pb2, training_pb2
from neurogate_core.hyperparameters import HyperparameterError, parse_hyperparameters

from neurogate_gateway.backends.verification import ServedVersion
from neurogate_gateway.deadline import Deadline
from neurogate_gateway.errors import GatewayError
from neurogate_gateway.observability.logging import log
from neurogate_gateway.release.promotion import StableResolver, VersionPromoter
from neurogate_gateway.store.examples import check_filter
from neurogate_gateway.store.run import Run
from neurogate_gateway.store.run_starts import NewRun
from neurogate_gateway.store.store import Store


class RetrainingService:
    """Checks what is asked for, and queues it.

    Args:
        records: Where it is queued.
        router: Knows "stable".
        base_versions: The versions that a warm start may begin from; None where there is no repository.
        launchers: Those that are configured; the first is the default.
        min_examples_per_class: Fewer of a class are refused; 0 allows a retraining without any.
        most_queued: How many may wait.
        promoter: The release; None where this gateway does not manage it.
    """

    def __init__(
        self,
        records: Store,
        router: StableResolver,
        *,
        base_versions: Callable[[], Collection[int]] | None,
        launchers: Collection[str],
        min_examples_per_class: int,
        most_queued: int,
        promoter: VersionPromoter | None,
    ) -> None:
        self._records = records
        self._router = router
        self._base_versions = base_versions
        self._launchers = tuple(launchers)
        self._least = min_examples_per_class
        self._most_queued = most_queued
        self._promoter = promoter

    async def start(
        self, asked: training_pb2.RetrainingSpec, *, request_id: str, actor: str, deadline: Deadline
    ) -> Run:
        """Queues a retraining; a repeat of a request gets the first one's.

        Raises:
            GatewayError: Why there is none.
        """
        digest = hashlib.sha256(asked.SerializeToString(deterministic=True)).hexdigest()
        runs = self._records.runs
        earlier = await self._records.run(runs.earlier, request_id, digest)
        if earlier is not None:
            return earlier
        spec = training_pb2.RetrainingSpec()
        spec.CopyFrom(asked)
        check_filter(spec.examples, field="spec.examples")
        _check_hyperparameters(spec.hyperparameters)
        spec.launcher = self._launcher(spec.launcher)
        if spec.promote and self._promoter is None:
            raise GatewayError(
                error_pb2.ERROR_REASON_RELEASE_NOT_MANAGED,
                "this gateway does not manage the release, so it can promote nothing",
                field="spec.promote",
            )
        if spec.gate_policy and self._promoter is None:
            raise GatewayError(
                error_pb2.ERROR_REASON_RELEASE_NOT_MANAGED,
                "this gateway does not manage the release, so no gate asks for a policy",
                field="spec.gate_policy",
            )
        version = await self._router.resolve_stable(deadline)
        _check_classes(spec.examples.class_ids, version)
        if spec.gate_policy and self._promoter is not None:
            self._promoter.check_policy(spec.gate_policy, version, field="spec.gate_policy")
        await self._fill_base(spec, version)

        def check_counts(counts: Mapping[str, int]) -> None:
            _check_classes(sorted(counts), version)
            self._check_counts(counts, set(spec.examples.class_ids) or set(counts))

        new = NewRun(
            spec=spec, launcher=spec.launcher, actor=actor, request_id=request_id, request_digest=digest
        )
        run, _ = await self._records.run(
            runs.create, new, most_queued=self._most_queued, check_counts=check_counts
        )
        log(logging.INFO, "retraining_queued", retraining=run.run_id, launcher=run.launcher, actor=actor)
        return run

    def _launcher(self, name: str) -> str:
        if not self._launchers:
            raise GatewayError(
                error_pb2.ERROR_REASON_LAUNCHER_NOT_CONFIGURED,
                "this gateway has no launcher, so nothing can run a trainer",
                field="spec.launcher",
            )
        if name and name not in self._launchers:
            raise GatewayError(
                error_pb2.ERROR_REASON_LAUNCHER_NOT_CONFIGURED,
                f"launcher {name!r} is not configured, only {', '.join(self._launchers)}",
                field="spec.launcher",
            )
        return name or self._launchers[0]

    async def _fill_base(self, spec: training_pb2.RetrainingSpec, stable: ServedVersion) -> None:
        """Checks the version to start from; without a word about the base it is "stable"."""
        if spec.from_scratch:
            return
        if spec.WhichOneof("base") != "warm_start_version":
            spec.warm_start_version = stable.number
        number = spec.warm_start_version
        known = await asyncio.to_thread(self._base_versions) if self._base_versions is not None else ()
        if number not in known:
            where = (
                "the repository, or its weights are gone"
                if self._base_versions is not None
                else "reach: no repository is configured"
            )
            raise GatewayError(
                error_pb2.ERROR_REASON_BASE_VERSION_NOT_FOUND,
                f"version {number} of model {stable.model} is not in {where}",
                field="spec.warm_start_version",
                resource=("model_version", f"{stable.model}/{number}"),
            )

    def _check_counts(self, counts: Mapping[str, int], wanted: Collection[str]) -> None:
        if not self._least:
            return
        few = {name: counts.get(name, 0) for name in sorted(wanted) if counts.get(name, 0) < self._least}
        if few or not wanted:
            told = ", ".join(f"{name} has {count}" for name, count in few.items()) or "there are none"
            raise GatewayError(
                error_pb2.ERROR_REASON_EXAMPLES_TOO_FEW,
                f"a retraining needs {self._least} examples of each of its classes, but {told}",
                field="spec.examples",
                metadata={"min_examples_per_class": str(self._least)}
                | {name: str(counts.get(name, 0)) for name in sorted(wanted)},
            )


def _check_hyperparameters(texts: Mapping[str, str]) -> None:
    try:
        parse_hyperparameters(texts)
    except HyperparameterError as error:
        raise GatewayError(
            error_pb2.ERROR_REASON_HYPERPARAMETER_INVALID,
            str(error),
            field=f'spec.hyperparameters["{error.name[:40]}"]',
        ) from None


def _check_classes(class_ids: Collection[str], version: ServedVersion) -> None:
    known = [identifier for identifier, _ in version.classes]
    for class_id in class_ids:
        if class_id not in known:
            raise GatewayError(
                error_pb2.ERROR_REASON_CLASS_NOT_FOUND,
                f"version {version.number} has no class {class_id!r}, only {', '.join(known)}",
                field="spec.examples.class_ids",
            )

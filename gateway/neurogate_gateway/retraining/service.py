"""StartRetraining: everything that can be refused is refused here, before anything is queued."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Collection, Mapping

from google.protobuf.message import Message
from neurogate.v1 import error_pb2, training_pb2
from neurogate_core.hyperparameters import HyperparameterError, parse_hyperparameters

from neurogate_gateway.backends.verification import ServedVersion
from neurogate_gateway.deadline import Deadline
from neurogate_gateway.errors import GatewayError
from neurogate_gateway.observability.logging import log
from neurogate_gateway.release.promotion import StableResolver, VersionPromoter
from neurogate_gateway.store.examples import check_filter
from neurogate_gateway.store.run import NewRun, Run
from neurogate_gateway.store.store import Store


class RetrainingService:
    """Checks what is asked for, and queues it.

    Args:
        store: Where it is queued.
        router: Knows "stable".
        base_versions: The versions that a warm start may begin from; None where there is no repository.
        launchers: Those that are configured; the first is the default.
        min_examples_per_class: Fewer of a class are refused; 0 allows a retraining without any.
        max_queued: How many may wait.
        promoter: The release; None where this gateway does not manage it.
    """

    def __init__(
        self,
        store: Store,
        router: StableResolver,
        *,
        base_versions: Callable[[], Collection[int]] | None,
        launchers: Collection[str],
        min_examples_per_class: int,
        max_queued: int,
        promoter: VersionPromoter | None,
    ) -> None:
        self._store = store
        self._router = router
        self._base_versions = base_versions
        self._launchers = tuple(launchers)
        self._min_examples = min_examples_per_class
        self._max_queued = max_queued
        self._promoter = promoter

    async def start(
        self, asked: training_pb2.RetrainingSpec, *, request_id: str, actor: str, deadline: Deadline
    ) -> Run:
        """Queues a retraining; a repeat of a request gets the first one's.

        Raises:
            GatewayError: Why there is none.
        """
        digest = message_digest(asked)
        runs = self._store.runs
        earlier = await self._store.run(runs.earlier, request_id, digest)
        if earlier is not None:
            return earlier
        spec = training_pb2.RetrainingSpec()
        spec.CopyFrom(asked)
        check_filter(spec.examples, field="spec.examples")
        try:
            parse_hyperparameters(spec.hyperparameters)
        except HyperparameterError as error:
            field = f'spec.hyperparameters["{error.name[:40]}"]'
            raise GatewayError(
                error_pb2.ERROR_REASON_HYPERPARAMETER_INVALID, str(error), field=field
            ) from None
        spec.launcher = self._launcher(spec.launcher)
        if self._promoter is None:
            for name, wanted in (("promote", spec.promote), ("gate_policy", spec.gate_policy)):
                if wanted:
                    raise GatewayError(
                        error_pb2.ERROR_REASON_RELEASE_NOT_MANAGED,
                        "this gateway does not manage the release, so it has no gate and promotes nothing",
                        field=f"spec.{name}",
                    )
        version = await self._router.resolve_stable(deadline)
        check_classes(version, spec.examples.class_ids, field="spec.examples.class_ids")
        if spec.gate_policy and self._promoter is not None:
            self._promoter.check_policy(spec.gate_policy, version, field="spec.gate_policy")
        await self._fill_base(spec, version)

        def check_counts(counts: Mapping[str, int]) -> None:
            check_classes(version, sorted(counts), field="spec.examples.class_ids")
            self._check_counts(counts, set(spec.examples.class_ids) or set(counts))

        new = NewRun(spec=spec, actor=actor, request_id=request_id, request_digest=digest)
        run = await self._store.run(runs.create, new, max_queued=self._max_queued, check_counts=check_counts)
        log(logging.INFO, "retraining_queued", retraining=run.run_id, launcher=run.launcher, actor=actor)
        return run

    def _launcher(self, name: str) -> str:
        if self._launchers and name in {"", *self._launchers}:
            return name or self._launchers[0]
        raise GatewayError(
            error_pb2.ERROR_REASON_LAUNCHER_NOT_CONFIGURED,
            f"launcher {name!r} is not configured, only {', '.join(self._launchers)}"
            if self._launchers
            else "this gateway has no launcher, so nothing can run a trainer",
            field="spec.launcher",
        )

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
        if not self._min_examples:
            return
        having = {name: counts.get(name, 0) for name in sorted(wanted)}
        few = [f"{name} has {count}" for name, count in having.items() if count < self._min_examples]
        if few or not wanted:
            raise GatewayError(
                error_pb2.ERROR_REASON_EXAMPLES_TOO_FEW,
                f"a retraining needs {self._min_examples} examples of each of its classes, but "
                f"{', '.join(few) or 'there are none'}",
                field="spec.examples",
                metadata={"min_examples_per_class": str(self._min_examples)}
                | {name: str(count) for name, count in having.items()},
            )


def message_digest(message: Message) -> str:
    """Hex SHA-256 that distinguishes requests under the same request_id."""
    return hashlib.sha256(message.SerializeToString(deterministic=True)).hexdigest()


def check_classes(version: ServedVersion, class_ids: Collection[str], *, field: str) -> None:
    """Refuses classes that a version does not have.

    Raises:
        GatewayError (CLASS_NOT_FOUND): There is one.
    """
    known = version.class_ids
    for class_id in class_ids:
        if class_id not in known:
            raise GatewayError(
                error_pb2.ERROR_REASON_CLASS_NOT_FOUND,
                f"version {version.number} has no class {class_id!r}, only {', '.join(known)}",
                field=field,
            )

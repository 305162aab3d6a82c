"""What runs retrainings in one gateway, as its settings say."""

from __future__ import annotations

from pathlib import Path

from neurogate_gateway.release.promotion import VersionPromoter
from neurogate_gateway.settings import Settings
from neurogate_gateway.store.errors import RecordsSetupError
from neurogate_gateway.store.store import Store, gateway_identity

from .checkpoints import Checkpoints
from .jobs import JobMaker
from .launcher import Launcher
from .launcher_local import LocalLauncher
from .launcher_ray import RayLauncher
from .runner import RetrainingRunner
from .worker import Limits

_READY_SECONDS = 600.0


def checkpoints_of(settings: Settings) -> Checkpoints:
    """Finds what can be started from."""
    return Checkpoints(
        Path(settings.repository),
        settings.model_name,
        base_run=Path(settings.base_run),
        runs_dir=_runs_dir(settings),
    )


def build_launchers(settings: Settings) -> list[Launcher]:
    """The launchers that are configured, the default first; none without a base run.

    Raises:
        RecordsSetupError: One needs a package that is not installed.
    """
    if not settings.base_run:
        return []
    launchers: list[Launcher] = [
        LocalLauncher(cores=settings.trainer_cores, memory_bytes=settings.trainer_memory_mib * 2**20)
    ]
    if settings.ray_address:
        try:
            ray = RayLauncher(settings.ray_address, cpus=settings.ray_cpus, gpus=settings.ray_gpus)
        except ModuleNotFoundError as error:
            raise RecordsSetupError(
                "ray_address is set, but ray is not installed: pip install 'neurogate[ray]'"
            ) from error
        launchers.append(ray)
    return sorted(launchers, key=lambda launcher: launcher.name != settings.launcher)


def build_runner(
    settings: Settings,
    records: Store,
    launchers: list[Launcher],
    checkpoints: Checkpoints,
    promoter: VersionPromoter | None,
) -> RetrainingRunner:
    """Looks after the retrainings of these launchers."""
    jobs = JobMaker(
        trainer=settings.trainer_command,
        base_run=Path(settings.base_run),
        runs_dir=_runs_dir(settings),
        repository=Path(settings.repository),
        model=settings.model_name,
        checkpoints=checkpoints,
        image_path=records.images.path,
    )
    return RetrainingRunner(
        records,
        owner=gateway_identity(),
        launchers=launchers,
        jobs=jobs,
        promoter=promoter,
        limits=Limits(hang_seconds=settings.trainer_hang_minutes * 60, ready_seconds=_READY_SECONDS),
    )


def _runs_dir(settings: Settings) -> Path:
    return Path(settings.runs_dir) if settings.runs_dir else Path(settings.data_dir) / "runs"

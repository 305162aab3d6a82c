"""The gateway's settings: one frozen object, from flags and environment.

Every field is a flag (`--max-image-bytes`) and an environment variable (`NEUROGATE_GATEWAY_MAX_IMAGE_BYTES`);
a flag wins. What is unknown or out of range is refused by name. Written on argparse because a settings
library would cost more start-up time than the rest of this package.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NoReturn

ENVIRONMENT_PREFIX: Final = "NEUROGATE_GATEWAY_"
DNS_PREFIX: Final = "dns:///"
"""Begins a backend_address whose addresses are looked up, again and again."""
FILE_PREFIX: Final = "file:"
"""Begins a backend_address that is the path of a file with the addresses, which is read again and again."""
MODES: Final = ("latest", "manual", "gated")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LAUNCHERS: Final = ("local", "ray")

# Kubernetes describes a service called neurogate-gateway to its neighbours by these.
_SERVICE_LINK: Final = re.compile(r"SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_\d+_(TCP|UDP|SCTP)(_.+)?)?")
_TRUTH: Final = {"true": True, "false": False}


class ConfigError(ValueError):
    """A setting that cannot be used; the message says which and what would be right."""


class PortUnavailableError(OSError):
    """An address cannot be listened on."""


def _setting(
    default: object,
    text: str,
    low: float | None = None,
    high: float | None = None,
    *,
    choices: Sequence[str] = (),
) -> Any:  # noqa: ANN401 - like dataclasses.field, it stands for a value of the field's type
    # Choices are named here once: in the help, and where another value is refused.
    text = f"{text.removesuffix('.')}: {', '.join(choices)}." if choices else text
    metadata = {"text": text, "low": low, "high": high, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Everything that an operator may set; docs/gateway.md has the same table with the reasons."""

    listen: str = _setting("127.0.0.1:50051", "Address to listen on, HOST:PORT; port 0 takes a free one.")
    backend_address: str = _setting(
        "127.0.0.1:8500",
        "Model servers' gRPC addresses: HOST:PORT with commas between, dns:///NAME:PORT, or file:PATH.",
    )
    model_name: str = _setting("brain_tumor", "Name of the model on the model server.")
    repository: str = _setting(
        "",
        "Folder of the model repository; versions are held to their files there. Empty: no access.",
    )
    release_mode: str = _setting(
        "", "How versions become stable (empty is manual with a repository, else latest).", choices=MODES
    )
    take_over_model_servers: bool = _setting(
        False,
        "Whether to configure model servers that serve something else under the model's name: true or false.",
    )
    policy: str = _setting("", "TOML file with what the gate and the live guards ask for. Empty: defaults.")
    evaluation_data: str = _setting(
        "", "Sealed images for the gate: a folder of class folders, or the trainer's evaluation.json."
    )
    retire_after_seconds: float = _setting(
        60.0, "How long a version that has lost its last label stays loaded.", 0.0, 604_800
    )
    keep_versions: int = _setting(
        0, "Versions without a label that stay on disk, the newest ones; 0 keeps all.", 0, 100_000
    )
    data_dir: str = _setting(
        "",
        "Folder of predictions, examples and retrainings. Empty: nothing is kept, TrainingService refuses.",
    )
    records_url: str = _setting(
        "", "Database of the records, postgresql+psycopg://USER@HOST/NAME. Empty: SQLite in the data folder."
    )
    max_store_bytes: int = _setting(
        20 * 2**30, "Size of all kept images from which on new ones are refused.", 2**20, 2**60
    )
    journal_days: float = _setting(
        30.0, "How long predictions are kept; 0 keeps no journal of them.", 0.0, 36_500
    )
    journal_max_predictions: int = _setting(1_000_000, "How many predictions are kept.", 1, 10**12)
    prediction_image_days: float = _setting(
        0.0, "How long images of predictions are kept, for feedback to become examples.", 0.0, 36_500
    )
    min_examples_per_class: int = _setting(
        5, "Examples of a class that a retraining needs; 0 allows one without examples.", 0, 10**6
    )
    max_queued_retrainings: int = _setting(10, "Most retrainings that wait.", 1, 1000)
    base_run: str = _setting(
        "", "Folder of the training run whose data set retrainings build on. Empty: no retraining."
    )
    runs_dir: str = _setting("", "Folder of the retrainings' runs. Empty: runs, in the data folder.")
    launcher: str = _setting("local", "Who runs trainers unless asked otherwise.", choices=LAUNCHERS)
    trainer_command: str = _setting("neurogate-trainer", "The trainer's command, a path or a name.")
    trainer_cores: int = _setting(0, "Cores of a trainer on this machine; 0 means all but one.", 0, 4096)
    trainer_memory_mib: int = _setting(
        8192, "Memory from which on a trainer on this machine is ended; 0 means no limit.", 0, 2**30
    )
    trainer_hang_minutes: float = _setting(
        15.0, "A trainer that tells nothing for so long is ended.", 0.1, 10_080
    )
    ray_address: str = _setting(
        "", "Ray cluster's dashboard, http://HOST:PORT, for the launcher ray. Empty: none."
    )
    ray_cpus: float = _setting(2.0, "Cores that a trainer asks Ray for.", 0.0, 4096)
    ray_gpus: float = _setting(0.0, "GPUs that a trainer asks Ray for.", 0.0, 4096)
    max_image_bytes: int = _setting(
        16 * 2**20, "Largest encoded image; every message limit follows from it.", 1024, 512 * 2**20
    )
    max_batch_items: int = _setting(256, "Most images of one BatchClassify.", 1, 4096)
    max_in_flight: int = _setting(
        64, "Most images being worked on at once; more single calls are refused.", 2, 100_000
    )
    backend_max_in_flight: int = _setting(
        0,
        "Most calls to one model server at once, one of them the gateway's own; 0 finds it.",
        0,
        100_000,
    )
    max_bulk_calls: int = _setting(
        32, "Most batches, streams, uploads and lists with thumbnails open at once.", 1, 10_000
    )
    max_watches: int = _setting(
        256, "Most WatchRetraining and WatchModelVersions calls open at once.", 1, 10_000
    )
    stream_window: int = _setting(
        16, "Most images of one batch or stream that are read but not yet answered.", 1, 1024
    )
    transform_threads: int = _setting(
        0, "Threads that decode and resize; 0 means one per usable core.", 0, 256
    )
    allow_burned_in_annotation: bool = _setting(
        False,
        "Whether to read DICOM images that say that a person's data are drawn into them: true or false.",
    )
    poll_interval_seconds: float = _setting(
        0.5, "Time between two looks at the model server's versions.", 0.05, 5
    )
    default_timeout_seconds: float = _setting(
        30.0, "Deadline of calls that bring none, and of each image of a batch or stream.", 0.1, 3600
    )
    min_deadline_seconds: float = _setting(
        0.02, "A call with less time left than this is refused before any work.", 0.0, 60
    )
    swap_wait_seconds: float = _setting(
        5.0,
        "Longest wait of a call for a version's proof while versions change.",
        0.0,
        60,
    )
    metrics_address: str = _setting(
        "", "Address of the metrics for Prometheus, HOST:PORT; port 0 takes a free one. Empty: none."
    )
    drain_seconds: float = _setting(
        30.0, "Time for accepted calls to finish after SIGTERM or SIGINT.", 0.0, 3600
    )
    channelz: bool = _setting(
        False, "Whether to serve channelz, which shows peers' addresses to every caller: true or false."
    )
    log_level: str = _setting("info", "Least severe log lines to write.", choices=LOG_LEVELS)

    def __post_init__(self) -> None:
        """Refuses values that cannot work.

        Raises:
            ConfigError: Naming the setting, its value and what would be right.
        """
        for field in dataclasses.fields(self):
            value, low, high = getattr(self, field.name), field.metadata["low"], field.metadata["high"]
            choices = field.metadata["choices"]
            # Comparisons with NaN are false, so this form refuses it too.
            if low is not None and not low <= value <= high:
                raise ConfigError(f"{field.name} is {value}, expected {low} to {high}")
            if choices and value not in {field.default, *choices}:
                raise ConfigError(f"{field.name} is {value!r}, expected one of {', '.join(choices)}")
        split_address("listen", self.listen, lowest_port=0)
        _check_backends(self.backend_address)
        if self.metrics_address:
            split_address("metrics_address", self.metrics_address, lowest_port=0)
        if not self.model_name or not self.model_name.isprintable() or "/" in self.model_name:
            raise ConfigError(f"model_name is {self.model_name!r}, expected a name without slashes")
        if self.ray_address and not re.fullmatch(r"https?://\S+", self.ray_address):
            raise ConfigError(f"ray_address is {self.ray_address!r}, expected http://HOST:PORT")
        for wrong, message in (
            (self.mode != "latest" and not self.repository, f"release_mode {self.mode} needs a repository"),
            (self.mode == "gated" and not self.sealed_images, "release_mode gated needs evaluation_data"),
            (
                self.records_url and not self.data_dir,
                "records_url is set without data_dir, which the images need",
            ),
            (
                self.prediction_image_days and not self.journal_days,
                "prediction_image_days is set, but journal_days is 0, so that no prediction is kept",
            ),
            (
                self.base_run and not (self.data_dir and self.repository),
                "base_run is set, but retrainings need data_dir and repository too",
            ),
            (self.launcher == "ray" and not self.ray_address, "launcher ray needs ray_address"),
        ):
            if wrong:
                raise ConfigError(message)

    @property
    def sealed_images(self) -> str:
        """What the gate measures versions on: as it is set, else the base run's sealed test split."""
        base = self.base_run and os.path.join(self.base_run, "evaluation.json")  # noqa: PTH118 - it stays text
        return self.evaluation_data or base

    @property
    def mode(self) -> str:
        """How versions become "stable", after the default is resolved."""
        return self.release_mode or ("manual" if self.repository else "latest")

    def loggable(self) -> dict[str, Any]:
        """The settings that are not the defaults, without the password that a URL may hold."""
        shown = dataclasses.replace(
            self, records_url=re.sub(r"(?<=//)([^:/]*):.*@", r"\1:***@", self.records_url)
        )
        values = ((field, getattr(shown, field.name)) for field in dataclasses.fields(self))
        return {field.name: value for field, value in values if value != field.default}

    @property
    def max_message_bytes(self) -> int:
        """What channels accept: twice the image limit and some room.

        So an image that is too large by less than twice arrives, and is refused with a reason.
        """
        return 2 * self.max_image_bytes + 2**20

    @property
    def transform_workers(self) -> int:
        """Number of transform threads after "one per core" is resolved."""
        if hasattr(os, "sched_getaffinity"):
            return self.transform_threads or len(os.sched_getaffinity(0))
        return self.transform_threads or os.cpu_count() or 1


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        # Looked up only here: it takes longer to import than all of this module.
        from importlib.metadata import version  # noqa: PLC0415

        print(f"{parser.prog} {version('neurogate')}")  # noqa: T201 - this is what was asked for
        parser.exit()


def parse_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Settings from flags and environment, flags first.

    Args:
        arguments: Command line without the program's name.
        environment: All of it; only names with the prefix are looked at.

    Raises:
        ConfigError: Something is unknown, malformed or out of range.
        SystemExit: `--help` or `--version` was asked for.
    """
    fields = dataclasses.fields(Settings)
    variables = [ENVIRONMENT_PREFIX + field.name.upper() for field in fields]
    for variable in environment:
        name = variable.removeprefix(ENVIRONMENT_PREFIX)
        if name != variable and variable not in variables and not _SERVICE_LINK.fullmatch(name):
            raise ConfigError(f"unknown environment variable {variable}{_nearest(variable, variables)}")
    parser = _Parser(
        prog="neurogate-gateway",
        description="Classifies brain MRI slices on a TensorFlow Serving backend. Research software.",
        epilog=f"Each flag is also an environment variable, e.g. {ENVIRONMENT_PREFIX}LISTEN; a flag wins.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, dest=argparse.SUPPRESS, help="show the version and exit"
    )
    flags = {field.name: "--" + field.name.replace("_", "-") for field in fields}
    for field in fields:
        text = f"{field.metadata['text']} (default: {field.default})"
        parser.add_argument(flags[field.name], metavar="VALUE", default=None, help=text)
    known, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        flag = unknown[0].partition("=")[0]
        raise ConfigError(f"unknown argument {unknown[0]!r}{_nearest(flag, list(flags.values()))}")
    values: dict[str, Any] = {}
    for field, variable in zip(fields, variables, strict=True):
        by_flag, by_variable = getattr(known, field.name), environment.get(variable)
        if by_flag is not None:
            values[field.name] = _value(flags[field.name], by_flag, type(field.default))
        elif by_variable is not None:
            values[field.name] = _value(variable, by_variable, type(field.default))
    return Settings(**values)


def _value(source: str, text: str, kind: type[Any]) -> object:
    try:
        return _TRUTH[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        wanted = {bool: "true or false", int: "a whole number"}.get(kind, "a number")
        raise ConfigError(f"{source} is {text!r}, expected {wanted}") from None


def _nearest(unknown: str, known: Sequence[str]) -> str:
    matches = difflib.get_close_matches(unknown, known, n=1, cutoff=0.5)
    return f"; did you mean {matches[0]}?" if matches else ""


def _check_backends(backends: str) -> None:
    """Refuses what does not say where the model servers are.

    Raises:
        ConfigError: It is neither a list of addresses, nor a name to resolve, nor a file.
    """
    if backends.startswith(FILE_PREFIX):
        if not backends.removeprefix(FILE_PREFIX).strip("/"):
            raise ConfigError(f"backend_address is {backends!r}, expected file:PATH")
    elif backends.startswith(DNS_PREFIX):
        split_address("backend_address", backends.removeprefix(DNS_PREFIX), lowest_port=1)
    else:
        split_addresses("backend_address", backends.split(","))


def split_addresses(name: str, addresses: Iterable[str]) -> tuple[str, ...]:
    """The addresses without the space around them.

    Raises:
        ConfigError: One is not HOST:PORT, or stands there twice.
    """
    bare = [address.strip() for address in addresses]
    for address in bare:
        split_address(name, address, lowest_port=1)
        if bare.count(address) > 1:
            raise ConfigError(f"{name} names the address {address!r} twice")
    return tuple(bare)


def split_address(name: str, address: str, *, lowest_port: int) -> tuple[str, int]:
    """Host and port of HOST:PORT or [IPV6]:PORT.

    Raises:
        ConfigError: It is neither.
    """
    host, colon, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    plausible = (
        bool(bare) and not any(c.isspace() or c in "/[]" for c in bare) and (":" not in bare or bare != host)
    )
    if not colon or not plausible or not port.isascii() or not port.isdigit():
        raise ConfigError(f"{name} is {address!r}, expected HOST:PORT")
    if not lowest_port <= int(port) <= 65535:
        raise ConfigError(f"{name} has port {port}, expected {lowest_port} to 65535")
    return bare, int(port)

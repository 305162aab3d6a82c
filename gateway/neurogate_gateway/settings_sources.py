"""Settings from flags and environment.

Every field is a flag (`--max-image-bytes`) and an environment variable (`NEUROGATE_GATEWAY_MAX_IMAGE_BYTES`);
a flag wins. What is unknown is refused by name. Hand-written on argparse because a settings library would
cost more start-up time than the rest of this package.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from .settings import ConfigError, Settings

ENVIRONMENT_PREFIX: Final = "NEUROGATE_GATEWAY_"
# Kubernetes describes a service called neurogate-gateway to its neighbours by these.
_SERVICE_LINK: Final = re.compile(r"SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_\d+_(TCP|UDP|SCTP)(_.+)?)?")
_TRUTH: Final = {"true": True, "false": False}


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
    fields = {field.name: field for field in dataclasses.fields(Settings)}
    texts: dict[str, tuple[str, str]] = {}
    variables = {ENVIRONMENT_PREFIX + name.upper(): name for name in fields}
    for variable, value in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        if _SERVICE_LINK.fullmatch(variable.removeprefix(ENVIRONMENT_PREFIX)):
            continue
        if variable not in variables:
            raise ConfigError(f"unknown environment variable {variable}{_nearest(variable, variables)}")
        texts[variables[variable]] = (variable, value)

    parser = _Parser(
        prog="neurogate-gateway",
        description="Classifies brain MRI slices on a TensorFlow Serving backend. Research software.",
        epilog=f"Each flag is also an environment variable, e.g. {ENVIRONMENT_PREFIX}LISTEN; a flag wins.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, dest=argparse.SUPPRESS, help="show the version and exit"
    )
    for name, field in fields.items():
        text = f"{field.metadata['text']} (default: {field.default})"
        parser.add_argument(_flag(name), metavar="VALUE", default=None, help=text)
    known, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        flag = unknown[0].partition("=")[0]
        raise ConfigError(
            f"unknown argument {unknown[0]!r}{_nearest(flag, [_flag(name) for name in fields])}"
        )
    for name, value in vars(known).items():
        if value is not None:
            texts[name] = (_flag(name), value)

    defaults = Settings()
    values: dict[str, Any] = {}
    for name, (source, text) in texts.items():
        kind: type[bool | int | float | str] = type(getattr(defaults, name))
        try:
            values[name] = _TRUTH[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError):
            wanted = {bool: "true or false", int: "a whole number"}.get(kind, "a number")
            raise ConfigError(f"{source} is {text!r}, expected {wanted}") from None
    return Settings(**values)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _nearest(unknown: str, known: Mapping[str, str] | Sequence[str]) -> str:
    matches = difflib.get_close_matches(unknown, list(known), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]}?" if matches else ""

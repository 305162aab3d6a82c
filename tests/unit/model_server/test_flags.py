from __future__ import annotations

import dataclasses

import pytest
from neurogate_model_server.flags import UNSUPPORTED, FlagError, Flags, parse_flags, usage


def test_flags_are_read_by_their_type() -> None:
    flags, unknown = parse_flags(
        [
            "--port=1",
            "--model_name=a=b",
            "--enable_grpc_healthcheck_service",
            "--enable_model_warmup=false",
            "--num_load_threads=-1",
        ]
    )
    assert unknown == []
    assert flags == dataclasses.replace(
        Flags(),
        port=1,
        model_name="a=b",
        enable_grpc_healthcheck_service=True,
        enable_model_warmup=False,
        num_load_threads=-1,
    )


@pytest.mark.parametrize("argument", ["--enable_batching=0", "--enable_batching=False", "--enable_profiler"])
def test_a_flag_that_is_not_supported_may_have_the_value_that_it_has_anyway(argument: str) -> None:
    assert parse_flags([argument]) == (Flags(), [])


@pytest.mark.parametrize(
    "argument",
    ["--no_such_flag=1", "--nosuch", "word", "-port=1", "--port", "--Port=1", "", "--rest_api_port"],
)
def test_what_is_no_flag_is_handed_back(argument: str) -> None:
    assert parse_flags([argument]) == (Flags(), [argument])


@pytest.mark.parametrize(
    "argument",
    [
        "--port=x",
        "--port=",
        "--port=1.5",
        "--port=1s",
        "--port=1_0",
        "--enable_model_warmup=yes",
        "--enable_batching=yes",
        "--version=",
    ],
)
def test_a_value_that_cannot_be_read_is_named(argument: str) -> None:
    with pytest.raises(FlagError, match=argument.split("=", maxsplit=1)[0]):
        parse_flags([argument])


def test_flags_of_the_real_server_that_are_not_supported_are_refused_by_name() -> None:
    for name, usual in UNSUPPORTED.items():
        other = {"true": "false", "false": "true"}.get(usual, "other")
        with pytest.raises(FlagError, match=f"--{name} is a flag of TensorFlow Serving"):
            parse_flags([f"--{name}={other}"])
        assert parse_flags([f"--{name}={usual}"]) == (Flags(), [])


def test_no_flag_is_both_supported_and_refused() -> None:
    names = {field.name for field in dataclasses.fields(Flags)}
    assert not names & UNSUPPORTED.keys()
    assert all(f"--{name}=" in usage() for name in names)

"""The command `neurogate-gateway` as a real process: start, log, signals, drain, wrong settings."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from unittest import mock

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pb2
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from neurogate.v1 import classification_pb2 as pb
from neurogate.v1 import classification_pb2_grpc
from neurogate_gateway import app as gateway
from neurogate_gateway import main
from neurogate_gateway.settings import Settings
from neurogate_testing.fake_backend import FakeBackend, sample_image
from neurogate_testing.gateway_command import command, serving_command
from neurogate_testing.gateway_harness import failure_of, serving_gateway

REQUEST = pb.ClassifyRequest(image=sample_image())


async def test_it_starts_serves_and_ends() -> None:
    async with FakeBackend() as backend, serving_command(backend, "--log-level", "debug") as (process, stub):
        request = pb.ClassifyRequest(image=sample_image(), request_id="abc")
        assert (await stub.Classify(request)).model.version == 1
        process.process.terminate()
        assert await process.end() == 0
        [settings] = [line["settings"] for line in process.lines if line["event"] == "starting"]
        assert settings["backend_address"] == backend.address
        [call] = [line for line in process.lines if line["event"] == "call"]
        assert (call["request_id"], call["code"], call["version"]) == ("abc", "OK", 1)
        assert process.lines[-1]["event"] == "stopped"
        assert all({"time", "level", "event"} <= line.keys() for line in process.lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_accepted_calls_finish_and_new_ones_are_refused(number: signal.Signals) -> None:
    async with FakeBackend() as backend, serving_command(backend) as (process, stub):
        backend.versions[1].gate.clear()
        backend.running = 0
        single = stub.Classify(REQUEST)
        items = [pb.BatchClassifyItem(image=sample_image(seed)) for seed in range(3)]
        batch = stub.BatchClassify(pb.BatchClassifyRequest(items=items))
        stream = stub.StreamClassify()
        await stream.write(pb.StreamClassifyRequest(key="a", image=sample_image()))
        await backend.until(lambda: backend.running == 5)
        async with grpc.aio.insecure_channel(process.address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            process.process.send_signal(number)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            await process.until("draining")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await classification_pb2_grpc.ClassificationServiceStub(channel).Classify(REQUEST)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        # A stream that is open goes on for as long as the drain lasts.
        await stream.write(pb.StreamClassifyRequest(key="b", image=sample_image()))
        backend.versions[1].gate.set()
        assert (await single).model.version == 1
        assert len((await batch).results) == 3
        assert (await stream.read()).key == "a"
        assert (await stream.read()).key == "b"
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert await process.end() == 0
        assert process.lines[-1]["in_order"] is True


async def test_a_stream_without_end_is_ended_with_a_reason() -> None:
    async with (
        FakeBackend() as backend,
        serving_command(backend, "--drain-seconds", "0.2") as (process, stub),
    ):
        stream = stub.StreamClassify()
        await stream.write(pb.StreamClassifyRequest(key="a", image=sample_image()))
        assert (await stream.read()).key == "a"
        process.process.terminate()
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await stream.read()
        assert failure_of(ended.value).reason == "SHUTTING_DOWN"
        assert await process.end() == 0
        assert process.lines[-1]["in_order"] is True


async def test_a_request_that_is_still_arriving_gets_its_answer() -> None:
    async with FakeBackend() as backend, serving_command(backend) as (process, _):
        arriving = asyncio.Event()

        async def late() -> AsyncIterator[bytes]:
            await arriving.wait()
            yield REQUEST.SerializeToString()

        async with grpc.aio.insecure_channel(process.address) as channel:
            # On the wire a unary call like any other, whose request takes its time.
            service = pb.DESCRIPTOR.services_by_name["ClassificationService"].full_name
            call = channel.stream_unary(
                f"/{service}/Classify", response_deserializer=pb.ClassifyResponse.FromString
            )(late())
            # Answered on the same connection, so the gateway knows of the call before it.
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            process.process.terminate()
            await process.until("draining")
            ended = asyncio.ensure_future(process.end())
            await asyncio.wait([ended], timeout=3)
            assert not ended.done()
            arriving.set()
            assert (await call).model.version == 1
            assert await ended == 0


async def test_a_reflection_stream_that_is_kept_open_holds_up_nothing() -> None:
    async with FakeBackend() as backend, serving_command(backend) as (process, _):
        async with grpc.aio.insecure_channel(process.address) as channel:
            stream = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
            await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            assert (await stream.read()).list_services_response.service
            process.process.terminate()
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await stream.read()
            assert ended.value.details() == "the gateway is shutting down"
            assert await process.end() == 0
        assert process.lines[-1]["in_order"] is True


async def test_a_server_is_taken_out_by_the_file_of_addresses_and_its_calls_are_answered(
    tmp_path: Path,
) -> None:
    backends = tmp_path / "backends"
    async with FakeBackend() as first, FakeBackend() as second:
        for backend in (first, second):
            backend.add_version(1)
        backends.write_text(f"{first.address}\n")
        listen = ("--listen", "127.0.0.1:0", "--poll-interval-seconds", "0.05")
        async with command(*listen, "--backend-address", f"file:{backends}") as process:
            address = (await process.until("listening"))["address"]
            await process.until("version_ready")
            async with grpc.aio.insecure_channel(address) as channel:
                stub = classification_pb2_grpc.ClassificationServiceStub(channel)
                first.versions[1].gate.clear()
                running = first.running
                call = stub.Classify(REQUEST)
                await first.until(lambda: first.running == running + 1)
                backends.write_text(f"{second.address}  # in its place\n")
                process.process.send_signal(signal.SIGHUP)
                assert (await process.until("backend_left"))["backend"] == first.address
                await process.until("version_ready")
                assert (await stub.Classify(REQUEST)).model.version == 1
                first.versions[1].gate.set()
                assert (await call).model.version == 1
                assert (await process.until("backend_drained"))["backend"] == first.address
            process.process.terminate()
            assert await process.end() == 0


async def test_the_second_signal_stops_at_once() -> None:
    async with FakeBackend() as backend, serving_command(backend) as (process, stub):
        backend.versions[1].gate.clear()
        backend.running = 0
        call = stub.Classify(REQUEST)
        await backend.until(lambda: backend.running == 1)
        process.process.terminate()
        await process.until("draining")
        process.process.terminate()
        assert await process.end() == 128 + signal.SIGTERM
        with pytest.raises(grpc.aio.AioRpcError) as cut:
            await call
        assert cut.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_port_that_is_taken_is_named() -> None:
    async with FakeBackend() as backend, command("--listen", backend.address) as process:
        assert await process.end() == 1
        assert process.lines[-1]["event"] == "port_unavailable"
        assert backend.address in process.lines[-1]["message"]


async def test_a_wrong_setting_ends_it_with_a_message() -> None:
    async with command(NEUROGATE_GATEWAY_LISTEN="nowhere") as process:
        assert process.process.stderr is not None
        told = (await process.process.stderr.read()).decode()
        assert told == "neurogate-gateway: listen is 'nowhere', expected HOST:PORT\n"
        assert await process.process.wait() == 2


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
@pytest.mark.parametrize("channelz", [True, False])
async def test_reflection_and_channelz(channelz: bool, version: str) -> None:
    async with serving_gateway(channelz=channelz) as (gateway, _):
        # The messages of both are the same.
        reflection = gateway.channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )()
        await reflection.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = {service.name for service in (await reflection.read()).list_services_response.service}
        assert listed == {
            "neurogate.v1.ClassificationService",
            "neurogate.v1.ModelService",
            "neurogate.v1.TrainingService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            *(["grpc.channelz.v1.Channelz"] if channelz else []),
        }
        service = "neurogate.v1.ClassificationService"
        for symbol in (*listed, f"{service}.Classify", "neurogate.v1.ClassifyRequest"):
            await reflection.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol))
            files = [
                descriptor_pb2.FileDescriptorProto.FromString(file)
                for file in (await reflection.read()).file_descriptor_response.file_descriptor_proto
            ]
            described = {
                f"{files[0].package}.{each.name}" for each in (*files[0].service, *files[0].message_type)
            }
            assert symbol.removesuffix(".Classify") in described
            if symbol.startswith(service):
                # What the file imports comes with it.
                assert "google/rpc/status.proto" in {file.name for file in files}
        for symbol in (f"{service}.Nothing", "neurogate.v1.Nothing", "nothing", ""):
            await reflection.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol))
            error = (await reflection.read()).error_response
            assert error.error_code == grpc.StatusCode.NOT_FOUND.value[0]
        reflection.cancel()
        servers = channelz_pb2_grpc.ChannelzStub(gateway.channel).GetServers(channelz_pb2.GetServersRequest())
        if channelz:
            assert (await servers).server
        else:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await servers
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_calls_cut_at_the_end_of_the_drain_get_the_reason() -> None:
    async with FakeBackend() as backend, serving_command(backend, "--drain-seconds", "0") as (process, stub):
        backend.versions[1].gate.clear()
        backend.running = 0
        items = [pb.BatchClassifyItem(image=sample_image())]
        calls = [stub.Classify(REQUEST), stub.BatchClassify(pb.BatchClassifyRequest(items=items))]
        silent = stub.StreamClassify()
        await backend.until(lambda: backend.running == 2)
        process.process.terminate()
        for call in (*calls, silent.read()):
            with pytest.raises(grpc.aio.AioRpcError) as cut:
                await call
            assert cut.value.code() is grpc.StatusCode.UNAVAILABLE
            assert failure_of(cut.value).reason == "SHUTTING_DOWN"
        assert await process.end() == 0
        assert process.lines[-1]["in_order"] is False
        ended = [line["reason"] for line in process.lines if line["event"] == "call"]
        assert set(ended) == {"SHUTTING_DOWN"}


@pytest.mark.parametrize(
    "fails",
    [
        "neurogate_gateway.release.module.ReleaseModule.start",
        "neurogate_gateway.retraining.module.RetrainingModule.start",
        "grpc.aio._server.Server.start",
    ],
)
async def test_a_start_that_fails_ends_in_order_what_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    ended: list[str] = []
    monkeypatch.setattr(gateway, "_NOTICE_SECONDS", 0)
    monkeypatch.setattr(main, "log", lambda level, event, **fields: ended.append(event))
    monkeypatch.setattr(fails, mock.AsyncMock(side_effect=RuntimeError("broken")))
    settings = Settings(
        listen="127.0.0.1:0",
        backend_address="127.0.0.1:9",
        data_dir=str(tmp_path),
        metrics_address="127.0.0.1:0",
    )
    async with asyncio.timeout(60):
        assert await main._serve(settings) == 1
    assert ended == ["start_failed"]
    # Neither a task nor a thread of its parts is left.
    assert asyncio.all_tasks() == {asyncio.current_task()}
    names = {thread.name.rpartition("_")[0] or thread.name for thread in threading.enumerate()}
    assert not names & {"journal", "journal-rows", "records", "image-store", "transform"}
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().remove_signal_handler(number)

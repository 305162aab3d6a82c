"""proto/neurogate/tfs/v1/tfs.proto against the official tensorflow-serving-api, in both directions.

The structural part compares every declared field with the official descriptor, so that a field added or
changed later cannot drift. The other part sends generated messages through the bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import wrappers_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from neurogate.tfs.v1 import tfs_pb2
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_pb2,
    model_service_pb2,
    predict_pb2,
    prediction_service_pb2,
    status_pb2,
)
from tensorflow_serving.config import file_system_storage_path_source_pb2, model_server_config_pb2

Policy = file_system_storage_path_source_pb2.FileSystemStoragePathSourceConfig.ServableVersionPolicy

OFFICIAL: dict[type[Message], type[Message]] = {
    tfs_pb2.TensorShape: tensor_shape_pb2.TensorShapeProto,
    tfs_pb2.TensorShape.Dim: tensor_shape_pb2.TensorShapeProto.Dim,
    tfs_pb2.Tensor: tensor_pb2.TensorProto,
    tfs_pb2.ModelSpec: model_pb2.ModelSpec,
    tfs_pb2.PredictRequest: predict_pb2.PredictRequest,
    tfs_pb2.PredictResponse: predict_pb2.PredictResponse,
    tfs_pb2.GetModelStatusRequest: get_model_status_pb2.GetModelStatusRequest,
    tfs_pb2.GetModelStatusResponse: get_model_status_pb2.GetModelStatusResponse,
    tfs_pb2.ModelVersionStatus: get_model_status_pb2.ModelVersionStatus,
    tfs_pb2.StatusProto: status_pb2.StatusProto,
    tfs_pb2.ReloadConfigRequest: model_management_pb2.ReloadConfigRequest,
    tfs_pb2.ReloadConfigResponse: model_management_pb2.ReloadConfigResponse,
    tfs_pb2.ModelServerConfig: model_server_config_pb2.ModelServerConfig,
    tfs_pb2.ModelConfigList: model_server_config_pb2.ModelConfigList,
    tfs_pb2.ModelConfig: model_server_config_pb2.ModelConfig,
    tfs_pb2.ServableVersionPolicy: Policy,
    tfs_pb2.ServableVersionPolicy.Latest: Policy.Latest,
    tfs_pb2.ServableVersionPolicy.All: Policy.All,
    tfs_pb2.ServableVersionPolicy.Specific: Policy.Specific,
}
OFFICIAL_ENUMS: dict[EnumDescriptor, tuple[EnumDescriptor, Callable[[str], str]]] = {
    tfs_pb2.DataType.DESCRIPTOR: (
        types_pb2.DataType.DESCRIPTOR,
        lambda name: name.removesuffix("_UNSPECIFIED").replace("DATA_TYPE_", "DT_"),
    ),
    tfs_pb2.ModelVersionStatus.State.DESCRIPTOR: (
        get_model_status_pb2.ModelVersionStatus.State.DESCRIPTOR,
        lambda name: name.removesuffix("_UNSPECIFIED").removeprefix("STATE_"),
    ),
}
METHODS: dict[str, tuple[type[Message], type[Message]]] = {
    "tensorflow.serving.PredictionService.Predict": (tfs_pb2.PredictRequest, tfs_pb2.PredictResponse),
    "tensorflow.serving.ModelService.GetModelStatus": (
        tfs_pb2.GetModelStatusRequest,
        tfs_pb2.GetModelStatusResponse,
    ),
    "tensorflow.serving.ModelService.HandleReloadConfigRequest": (
        tfs_pb2.ReloadConfigRequest,
        tfs_pb2.ReloadConfigResponse,
    ),
}
PAIRS = {ours.DESCRIPTOR.full_name: official.DESCRIPTOR for ours, official in OFFICIAL.items()}
PAIRS[wrappers_pb2.Int64Value.DESCRIPTOR.full_name] = wrappers_pb2.Int64Value.DESCRIPTOR


def declared_messages() -> list[Descriptor]:
    found, pending = [], list(tfs_pb2.DESCRIPTOR.message_types_by_name.values())
    while pending:
        message = pending.pop()
        if not message.GetOptions().map_entry:
            found.append(message)
        pending.extend(message.nested_types)
    return found


def declared_enums() -> list[EnumDescriptor]:
    nested = [enum for message in declared_messages() for enum in message.enum_types]
    return [*tfs_pb2.DESCRIPTOR.enum_types_by_name.values(), *nested]


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


# ---- the shape of the declarations


def test_every_declared_message_and_enum_is_compared() -> None:
    assert {message.full_name for message in declared_messages()} == {
        ours.DESCRIPTOR.full_name for ours in OFFICIAL
    }
    assert {enum.full_name for enum in declared_enums()} == {enum.full_name for enum in OFFICIAL_ENUMS}


@pytest.mark.parametrize("ours", OFFICIAL, ids=lambda message: message.DESCRIPTOR.full_name)
def test_every_declared_field_is_the_official_one(ours: type[Message]) -> None:
    official = OFFICIAL[ours].DESCRIPTOR
    for field in ours.DESCRIPTOR.fields:
        other = official.fields_by_number.get(field.number)
        assert other is not None, f"{official.full_name} has no field {field.number}"
        compare_fields(field, other)


def compare_fields(field: FieldDescriptor, other: FieldDescriptor) -> None:
    where = f"{field.full_name} and {other.full_name}"
    assert field.name == other.name, where
    assert field.is_repeated == other.is_repeated, where
    assert field.is_packed == other.is_packed, where
    assert field.has_presence == other.has_presence, where
    assert is_map(field) == is_map(other), where
    assert getattr(field.containing_oneof, "name", None) == getattr(other.containing_oneof, "name", None), (
        where
    )
    if field.type == FieldDescriptor.TYPE_INT32 and other.type == FieldDescriptor.TYPE_ENUM:
        return  # the same varint; the enum is the whole list of canonical codes
    assert field.type == other.type, where
    if is_map(field):
        for part in ("key", "value"):
            compare_fields(field.message_type.fields_by_name[part], other.message_type.fields_by_name[part])
    elif field.message_type is not None:
        assert PAIRS[field.message_type.full_name].full_name == other.message_type.full_name, where
    elif field.enum_type is not None:
        assert OFFICIAL_ENUMS[field.enum_type][0].full_name == other.enum_type.full_name, where


@pytest.mark.parametrize("ours", OFFICIAL_ENUMS, ids=lambda enum: enum.full_name)
def test_every_declared_enum_value_is_the_official_one(ours: EnumDescriptor) -> None:
    official, translate = OFFICIAL_ENUMS[ours]
    for value in ours.values:
        assert official.values_by_number[value.number].name == translate(value.name)


@pytest.mark.parametrize("path", METHODS)
def test_the_called_methods_take_and_give_these_messages(path: str) -> None:
    service_name, method_name = path.rsplit(".", 1)
    services = [
        *prediction_service_pb2.DESCRIPTOR.services_by_name.values(),
        *model_service_pb2.DESCRIPTOR.services_by_name.values(),
    ]
    service = next(service for service in services if service.full_name == service_name)
    method = service.methods_by_name[method_name]
    request, response = METHODS[path]
    assert method.input_type.full_name == OFFICIAL[request].DESCRIPTOR.full_name
    assert method.output_type.full_name == OFFICIAL[response].DESCRIPTOR.full_name


# ---- the bytes

SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=20),
    FieldDescriptor.TYPE_DOUBLE: st.floats(allow_nan=False),
    FieldDescriptor.TYPE_FLOAT: st.floats(allow_nan=False, width=32),
    FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_STRING: st.text(max_size=10),
    FieldDescriptor.TYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: st.integers(0, 2**64 - 1),
}


def values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return bodies(field.message_type, depth - 1)
    if field.enum_type is not None:
        # Also a number that nobody declares: proto3 enums are open.
        return st.sampled_from([*(value.number for value in field.enum_type.values), 2**31 - 1])
    return SCALARS[field.type]


def bodies(descriptor: Descriptor, depth: int = 4) -> st.SearchStrategy[dict[str, Any]]:
    """Field values by name, for any message, every field of it now and then."""
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for field in descriptor.fields:
        if field.message_type is not None and depth == 0:
            continue
        if is_map(field):
            entry = field.message_type.fields_by_name
            fields[field.name] = st.dictionaries(
                values(entry["key"], depth), values(entry["value"], depth), max_size=2
            )
        elif field.is_repeated:
            fields[field.name] = st.lists(values(field, depth), max_size=3)
        else:
            fields[field.name] = values(field, depth)
    return st.fixed_dictionaries({}, optional=fields)


def fill(message: Message, body: dict[str, Any]) -> Message:
    """Sets the fields; of a oneof the last one set stays."""
    for name, value in body.items():
        field = message.DESCRIPTOR.fields_by_name[name]
        if is_map(field):
            target = getattr(message, name)
            for key, item in value.items():
                if isinstance(item, dict):
                    fill(target[key], item)
                else:
                    target[key] = item
        elif field.is_repeated:
            for item in value:
                if isinstance(item, dict):
                    fill(getattr(message, name).add(), item)
                else:
                    getattr(message, name).append(item)
        elif isinstance(value, dict):
            getattr(message, name).SetInParent()
            fill(getattr(message, name), value)
        else:
            setattr(message, name, value)
    return message


def plain(message: Message) -> dict[int, Any]:
    """What a message says, by field number, whatever its type is called."""
    result: dict[int, Any] = {}
    for field, value in message.ListFields():
        if is_map(field):
            result[field.number] = {
                key: plain(item) if isinstance(item, Message) else item for key, item in value.items()
            }
        elif field.is_repeated:
            result[field.number] = [plain(item) if isinstance(item, Message) else item for item in value]
        else:
            result[field.number] = plain(value) if isinstance(value, Message) else value
    return result


def serialize(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


EACH_MESSAGE = pytest.mark.parametrize("ours", OFFICIAL, ids=lambda message: message.DESCRIPTOR.full_name)
GENEROUS = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


@EACH_MESSAGE
@GENEROUS
@given(data=st.data())
def test_what_we_send_is_read_officially_and_would_be_sent_alike(
    ours: type[Message], data: st.DataObject
) -> None:
    body = data.draw(bodies(ours.DESCRIPTOR))
    sent = fill(ours(), body)
    read = OFFICIAL[ours].FromString(serialize(sent))
    assert plain(read) == plain(sent)
    assert serialize(read) == serialize(sent)
    # And a message that the official stubs built themselves, from the same values.
    assert serialize(fill(OFFICIAL[ours](), body)) == serialize(sent)


@EACH_MESSAGE
@GENEROUS
@given(data=st.data())
def test_what_is_sent_officially_is_read_and_kept_whole(ours: type[Message], data: st.DataObject) -> None:
    """Fields that we do not declare survive a round trip through our messages."""
    official = OFFICIAL[ours]
    sent = fill(official(), data.draw(bodies(official.DESCRIPTOR, depth=3)))
    read = ours.FromString(serialize(sent))
    assert official.FromString(serialize(read)) == sent
    declared = {field.number for field in ours.DESCRIPTOR.fields}
    assert set(plain(read)) == set(plain(sent)) & declared

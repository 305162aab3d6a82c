"""proto/neurogate.binpb: what other languages need to generate stubs, in a clone with nothing installed."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import descriptor_pb2
from neurogate.v1 import classification_pb2, error_pb2, manifest_pb2, model_pb2, training_pb2

ROOT = Path(__file__).resolve().parents[3]
CONTRACT = (classification_pb2, error_pb2, manifest_pb2, model_pb2, training_pb2)


def image() -> dict[str, descriptor_pb2.FileDescriptorProto]:
    content = (ROOT / "proto" / "neurogate.binpb").read_bytes()
    return {file.name: file for file in descriptor_pb2.FileDescriptorSet.FromString(content).file}


def test_it_is_the_contract_that_the_stubs_have() -> None:
    files = image()
    for module in CONTRACT:
        file = files[module.DESCRIPTOR.name]
        assert file.source_code_info.location, "comments become the documentation of other languages' stubs"
        mine = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(mine)
        assert [message.name for message in file.message_type] == [each.name for each in mine.message_type]
        assert [(service.name, [method.name for method in service.method]) for service in file.service] == [
            (service.name, [method.name for method in service.method]) for service in mine.service
        ]


def test_all_imports_are_in_it_before_those_that_need_them() -> None:
    seen: set[str] = set()
    for name, file in image().items():
        assert set(file.dependency) <= seen, name
        seen.add(name)


def test_other_languages_get_names_that_they_can_use() -> None:
    for module in CONTRACT:
        options = image()[module.DESCRIPTOR.name].options
        assert options.go_package == "neurogate/v1;neurogatev1"
        assert (options.java_package, options.java_multiple_files) == ("com.neurogate.v1", True)
        # Not "Error", which would hide java.lang.Error.
        assert options.java_outer_classname.endswith("Proto")
        assert options.csharp_namespace == "Neurogate.V1"

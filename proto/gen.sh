#!/usr/bin/env bash
# Writes the Python stubs of every .proto, and neurogate.binpb, into proto/ (or into the folder given as $1).
# The pinned grpcio-tools decides what they look like: generated code must not be newer than the oldest
# protobuf and grpcio that pyproject.toml allows.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-proto}
python=${PYTHON:-.venv/bin/python}
bin=$(dirname "$(command -v "$python")")

# Imported google protos come from the installed googleapis-common-protos, for buf as for protoc.
include=build/googleapis
source=$("$python" -c 'import google.rpc, pathlib; print(pathlib.Path(list(google.rpc.__path__)[0]).parent)')
for file in api/annotations api/http rpc/code rpc/status; do
    mkdir -p "$include/google/$(dirname $file)"
    cp "$source/$file.proto" "$include/google/$file.proto"
done

mkdir -p "$out"
mapfile -t protos < <(cd proto && find neurogate -name '*.proto' | sort)
"$python" -m grpc_tools.protoc -Iproto -I"$include" \
    --plugin="protoc-gen-mypy_grpc=$bin/protoc-gen-mypy_grpc" \
    --python_out="$out" --pyi_out="$out" "${protos[@]}"
# Only files with services get gRPC stubs.
mapfile -t services < <(cd proto && grep -l '^service ' "${protos[@]}")
"$python" -m grpc_tools.protoc -Iproto -I"$include" \
    --plugin="protoc-gen-mypy_grpc=$bin/protoc-gen-mypy_grpc" \
    --grpc_python_out="$out" --mypy_grpc_out="$out" "${services[@]}"

# The contract with all that it imports and its comments, for whoever has no googleapis: other languages' plugins
# by `buf generate`, protoc by --descriptor_set_in, grpcurl and ghz by their protoset.
"$bin/buf" build --path proto/neurogate/v1 --output "$out/neurogate.binpb"

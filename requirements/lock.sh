#!/usr/bin/env bash
# Rewrites the pinned requirements. Needs `uv`, which reads every platform's metadata at once.
set -euo pipefail
cd "$(dirname "$0")/.."
compile() {
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --no-emit-index-url "$@"
}
compile --upgrade --constraint requirements/limits.in --extra dev --output-file requirements/dev.txt pyproject.toml
compile --constraint requirements/dev.txt --extra gateway --extra records --extra cli --extra dicom --output-file requirements/gateway.txt pyproject.toml
compile --constraint requirements/dev.txt --extra trainer --extra dicom --output-file requirements/trainer.txt pyproject.toml
compile --constraint requirements/dev.txt --output-file requirements/bench.txt requirements/bench.in

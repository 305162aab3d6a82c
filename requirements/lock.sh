#!/usr/bin/env bash
# Rewrites the pinned requirements. Needs `uv`, which reads every platform's metadata at once.
set -euo pipefail
cd "$(dirname "$0")/.."
compile() {
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --no-emit-index-url "$@" pyproject.toml
}
compile --upgrade --constraint requirements/limits.in --extra dev --output-file requirements/dev.txt
compile --constraint requirements/dev.txt --extra gateway --extra cli --output-file requirements/gateway.txt
compile --constraint requirements/dev.txt --extra trainer --output-file requirements/trainer.txt

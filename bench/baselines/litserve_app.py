"""LitServe with a worker process per core; pictures come as base64 in JSON, as its documentation shows."""

from __future__ import annotations

import argparse
import base64
import os
from collections.abc import Callable
from typing import Any

import litserve
import numpy as np


class Classifier(litserve.LitAPI):
    """The same compiled call as the tuned FastAPI baseline."""

    def setup(self, device: str) -> None:
        del device
        # Here and not above: each worker is a process of its own, and TensorFlow does not survive a fork.
        from _compiled import decode, load  # noqa: PLC0415

        self._decode: Callable[[bytes], np.ndarray] = decode
        self._run = load()

    def decode_request(self, request: dict[str, str]) -> np.ndarray:
        return self._decode(base64.b64decode(request["image"]))

    def predict(self, images: np.ndarray) -> np.ndarray:
        return self._run(images)

    def encode_response(self, probabilities: np.ndarray) -> dict[str, Any]:
        index = int(probabilities.argmax())
        return {"index": index, "probability": float(probabilities[index])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    workers = len(os.sched_getaffinity(0))
    server = litserve.LitServer(Classifier(), accelerator="cpu", workers_per_device=workers)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()

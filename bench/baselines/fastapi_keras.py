"""FastAPI and model.predict, as most tutorials have it."""

from __future__ import annotations

import io
import os

import keras
import numpy as np
from fastapi import FastAPI, Request
from PIL import Image

SIDE = int(os.environ["BENCH_SIDE"])
network = keras.models.load_model(os.environ["BENCH_NETWORK"], compile=False)
network.predict(np.zeros((1, SIDE, SIDE, 3), np.float32), verbose=0)
app = FastAPI()


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/classify")
async def classify(request: Request) -> dict[str, float | int]:
    image = (
        Image.open(io.BytesIO(await request.body()))
        .convert("RGB")
        .resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    )
    probabilities = network.predict(np.asarray(image, np.float32)[np.newaxis], verbose=0)[0]
    index = int(probabilities.argmax())
    return {"index": index, "probability": float(probabilities[index])}

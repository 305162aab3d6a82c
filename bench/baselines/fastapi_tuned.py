"""FastAPI done well: compiled call, one TensorFlow thread per request, as many requests at once as cores."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

from _compiled import decode, load
from fastapi import FastAPI, Request

run = load()
pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
app = FastAPI()


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


def _classify(data: bytes) -> dict[str, float | int]:
    probabilities = run(decode(data))
    index = int(probabilities.argmax())
    return {"index": index, "probability": float(probabilities[index])}


@app.post("/classify")
async def classify(request: Request) -> dict[str, float | int]:
    return await asyncio.get_running_loop().run_in_executor(pool, _classify, await request.body())

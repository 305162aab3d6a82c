"""Bounds what a stream has read but not answered."""

from __future__ import annotations

import asyncio


class Window:
    """Bounds what is read but not answered; one image may always enter, however large."""

    def __init__(self, images: int, size: int) -> None:
        self._images = images
        self._bytes = size
        self._held_images = 0
        self._held_bytes = 0
        self._room = asyncio.Event()
        self._room.set()

    @property
    def held(self) -> int:
        """Images that were read and have no answer yet."""
        return self._held_images

    async def opening(self) -> None:
        """Waits until one more image may be read."""
        while self._held_images >= self._images:
            self._room.clear()
            await self._room.wait()

    async def enter(self, size: int) -> None:
        """Waits until an image of this size may be worked on, and lets it in."""
        while self._held_images and self._held_bytes + size > self._bytes:
            self._room.clear()
            await self._room.wait()
        self._held_images += 1
        self._held_bytes += size

    def leave(self, size: int) -> None:
        """Takes note that an image's answer has been sent."""
        self._held_images -= 1
        self._held_bytes -= size
        self._room.set()

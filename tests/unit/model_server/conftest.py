from __future__ import annotations

from neurogate_testing.serving_fixtures import serving_store

__all__ = ["serving_store"]

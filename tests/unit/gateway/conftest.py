from __future__ import annotations

from neurogate_testing.databases import postgresql_server, records_url
from neurogate_testing.stores import store

__all__ = ["postgresql_server", "records_url", "store"]

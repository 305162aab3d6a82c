"""The harness is no installed package: its folder goes on the path for these tests."""

from __future__ import annotations

import sys
from pathlib import Path

# At import, since the test modules import the harness at theirs.
sys.path.append(str(Path(__file__).resolve().parents[3] / "bench"))

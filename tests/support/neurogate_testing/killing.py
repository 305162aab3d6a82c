"""Work that kills its process before or after each of its changes of the file system, one process for each.

A test starts a script by `start`, and the script calls `at_every_step`. The test reads by `reports` what has
become of each process, and looks at the files before the next one begins.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CHANGES = ("mkdir", "open", "fsync", "fchmod", "rename", "replace", "unlink", "rmdir", "ftruncate", "write")


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Runs a script that may import this package; both of its ends are pipes of text."""
    support = str(Path(__file__).parents[1])
    script = f"import sys; sys.path.insert(0, {support!r})\n{script}"
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def reports(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """What became of each process; the next one begins when the caller comes back."""
    assert process.stdout is not None
    assert process.stdin is not None
    steps = {"before": 0, "after": 0}
    for line in process.stdout:
        report = json.loads(line)
        assert report["killed"] or report["status"] == 0
        steps[report["when"]] += report["killed"]
        yield report
        process.stdin.write("\n")
        process.stdin.flush()
    process.communicate()
    assert process.returncode == 0
    assert min(steps.values()) >= 8


def at_every_step(work: Callable[[str], None]) -> None:
    """Does the work again and again, each time in a fork that ends one step later and has its own name."""
    sys.stdout.flush()
    for when in ("before", "after"):
        step = 0
        while True:
            child = os.fork()
            if not child:
                _arm(step, when)
                work(f"{when}-{step}")
                os._exit(0)
            _, status = os.waitpid(child, 0)
            killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
            report = {
                "name": f"{when}-{step}",
                "when": when,
                "step": step,
                "killed": killed,
                "status": status,
            }
            sys.stdout.write(json.dumps(report) + "\n")
            sys.stdout.flush()
            sys.stdin.readline()
            if not killed:
                break
            step += 1


def _arm(step: int, when: str) -> None:
    """The n-th call of any function by which the file system changes is the process' last."""
    left = step

    def armed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal left
            if when == "before" and left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args, **options)
            if when == "after" and left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return result

        return call

    for name in CHANGES:
        setattr(os, name, armed(getattr(os, name)))
    fcntl.flock = armed(fcntl.flock)

"""The demo of the whole loop: first version, new labelled images, retraining, gate, promotion, and the gain.

Every step can be done again without harm, so an interrupted demo goes on where it was: data and versions are
reused, an image that is there is not sent again, and a retraining that has ended well is found again by its
request_id. One that was interrupted is cancelled, and the next demo asks for another.
"""

from __future__ import annotations

import contextlib
import os
import time

from neurogate_client import Client, NeurogateError, Retraining, enum_name, labelled_images

from neurogate_cli.local_stack import processes
from neurogate_cli.local_stack.servers import EVALUATION, READY_SECONDS, Servers
from neurogate_cli.render.follow import ENDED, follow
from neurogate_cli.render.output import own_name, print_line, stdout
from neurogate_cli.render.release import gate_view
from neurogate_cli.render.uploads import Tally, send, show_upload

from . import folder as demo_run
from .report import Measured, measure, show_before_and_after
from .steps import MODEL, Steps, first_version, log_files, make_images, print_next

FEW = 30
"""Images a class that the first version learns from."""

NEW = 150
"""Images a class that are uploaded later."""

SEALED = 50
"""Images a class that no version learns from, and all are measured on."""

SIDE = 256
_REQUEST_ID = "demo-loop"

POLICY = """\
# What the demo's gate asks for. Less than the default: with 50 sealed images of a class, its recall is known
# to about twelve points either way.
[gate]
min_accuracy = 0.75
min_recall = 0.55
"""
_CANCEL_SECONDS = 20.0
_UNFINISHED = {"FAILED", "CANCELLED"}


def loop(supervisor: processes.Supervisor, steps: Steps, paths: demo_run.Paths) -> bool:
    """Runs the demo; True when the new version was promoted and is better than the first.

    Raises:
        ChildFailedError, MissingProgramError: a program has failed, or is not installed.
        DemoError: the folder holds something else.
        NeurogateError, NotServingError: the servers do not do what they are asked.
    """
    _first_version(supervisor, steps, paths)
    paths.policy.write_text(POLICY, encoding="utf-8")
    held_out = demo_run.held_out_images(paths)
    first = demo_run.published_version(paths)
    servers = Servers(
        repository=paths.models,
        model=MODEL,
        port=processes.free_port(),
        model_server_port=processes.free_port(),
        records=paths.records,
        evaluation=paths.run / EVALUATION,
        base_run=paths.run,
        policy=paths.policy,
        # Nobody else is served here.
        trainer_cores=os.cpu_count() or 1,
    )
    console = stdout()
    with log_files(paths.logs) as on_line, Client(servers.target) as client:
        with steps.step("Servers: model server and gateway on free ports of 127.0.0.1"):
            servers.start(supervisor, on_line)
            servers.wait_until_ready(supervisor, client)
            # Where the demo was run before, it is not the stable one any more, and ready a little later.
            supervisor.wait_until(lambda: _is_ready(client, first), READY_SECONDS, "the first version")
        with steps.step(f"Before: version {first} on {len(held_out)} sealed images"):
            before = measure(steps.log, client, held_out, first)
            console.print(_accuracy(before))
        with steps.step("Upload: new labelled images, over gRPC"):
            tally = Tally()
            send(client, list(labelled_images(paths.new / "Training")), tally)
            show_upload(console, tally, client.list_examples(page_size=1).total_by_class)
        with steps.step("Retraining: started and watched over gRPC"):
            run = _retrain(client, first)
            print_line(console, f"retraining {run.retraining_id}")
            try:
                run = follow(client, run.retraining_id, console)
            except KeyboardInterrupt:
                # A retraining outlives its gateway; a demo that was stopped is to leave nothing running.
                _cancel(client, run.retraining_id)
                raise
        state = enum_name(run, "state")
        if state != "SUCCEEDED":
            if run.HasField("gate"):
                console.print(gate_view(run.gate))
            print_line(steps.log, f"the retraining ended as {state}", "red")
            for line in run.error.splitlines():
                print_line(steps.log, f"  {line}", "dim")
            return False
        with steps.step("Gate: both versions on the sealed images, through the gateway"):
            console.print(gate_view(run.gate))
        with steps.step(f"Promotion: version {run.version} becomes stable"):
            reason = "the demo's retraining, which the gate accepts"
            labels = client.promote(run.version, reason=reason).release.labels
            console.print(f"stable is version {labels['stable']}")
        with steps.step(f"After: version {run.version} on the same {len(held_out)} sealed images"):
            after = measure(steps.log, client, held_out, None)
            show_before_and_after(console, before, after)
    name = own_name()
    print_next(
        [
            f"{name} up --repository {paths.models} --policy {paths.policy}",
            f"{name} release      (from another terminal: who is stable, and why)",
            f"{name} rollback     (and back again)",
        ]
    )
    return before.failed == after.failed == 0 and after.accuracy > before.accuracy


def _first_version(supervisor: processes.Supervisor, steps: Steps, paths: demo_run.Paths) -> None:
    sizes = ["--size", str(SIDE)]
    first_version(
        supervisor,
        steps,
        paths,
        data=f"Data: {FEW} labelled images a class to begin with, {SEALED} sealed ones",
        training=f"Training: a first version of {MODEL} from few images",
        sizes=[*sizes, "--train-per-class", str(FEW), "--test-per-class", str(SEALED)],
    )
    with steps.step(f"New images: {NEW} a class, from other phantoms"):
        new = ["--train-per-class", str(NEW), "--test-per-class", "0", "--seed", "1"]
        make_images(supervisor, paths.new, [*sizes, *new])


def _is_ready(client: Client, version: int) -> bool:
    with contextlib.suppress(NeurogateError):
        return enum_name(client.get_model_version(version), "state") == "READY"
    return False


def _retrain(client: Client, first: int) -> Retraining:
    # One that ended well is found again; after one that came to nothing there is another.
    lost = sum(enum_name(each, "state") in _UNFINISHED for each in client.list_retrainings(limit=1000))
    return client.start_retraining(warm_start_version=first, request_id=f"{_REQUEST_ID}-{lost}")


def _cancel(client: Client, run_id: str) -> None:
    end = time.monotonic() + _CANCEL_SECONDS
    with contextlib.suppress(NeurogateError):
        run = client.cancel_retraining(run_id, reason="the demo was interrupted")
        while enum_name(run, "state") not in ENDED and time.monotonic() < end:
            time.sleep(0.2)
            run = client.get_retraining(run_id)


def _accuracy(found: Measured) -> str:
    return (
        f"accuracy through the gateway: {found.accuracy:.1%} ({found.right.total()} of {found.seen.total()})"
    )

"""Admission: slots, turns, deadlines and sizes, without any network."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from neurogate_gateway.deadline import Deadline
from neurogate_gateway.errors import DeadlineTooShortError, OverloadedError
from neurogate_gateway.inference.admission import Admission, Slot


def admission(*, slots: int = 4, bulk_calls: int = 2, min_deadline: float = 0.02) -> Admission:
    return Admission(
        max_image_bytes=10,
        max_in_flight=slots,
        max_bulk_calls=bulk_calls,
        max_watches=1,
        min_deadline=min_deadline,
    )


def single(gate: Admission) -> contextlib.AbstractContextManager[Slot]:
    return gate.single(b"x", Deadline.after(5))


def low_priority(gate: Admission) -> contextlib.AbstractContextManager[Slot]:
    return gate.low_priority(b"x")


async def hold(gate: Admission, release: asyncio.Event, began: list[int], number: int) -> None:
    async with gate.bulk_image():
        began.append(number)
        await release.wait()


async def settle() -> None:
    """Lets everything that can run without waiting run."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_deadline_ends_what_runs_inside() -> None:
    with pytest.raises(DeadlineTooShortError):
        async with Deadline.after(0).enforced():
            await asyncio.Event().wait()
    async with Deadline.after(float("inf")).enforced():
        await asyncio.sleep(0)


def test_a_capped_deadline_is_the_sooner_one() -> None:
    assert Deadline.after(100).capped(1).remaining() <= 1
    assert Deadline.after(1).capped(100).remaining() <= 1


def test_a_slot_is_given_back_after_an_error() -> None:
    gate = admission()
    with pytest.raises(ZeroDivisionError), single(gate):
        raise ZeroDivisionError
    assert gate.in_flight == 0


def test_quiet_images_come_behind_callers_unless_they_press() -> None:
    gate = admission(slots=4)
    with low_priority(gate), pytest.raises(OverloadedError), low_priority(gate):
        pass
    with single(gate), low_priority(gate):
        pass
    with single(gate), single(gate):
        with pytest.raises(OverloadedError), low_priority(gate):
            pass
        with gate.low_priority(b"x", pressing=True):
            assert gate.in_flight == 2


async def test_bulk_images_hold_half_and_take_turns_in_order() -> None:
    gate = admission(slots=4)
    release, began = asyncio.Event(), list[int]()
    tasks = [asyncio.create_task(hold(gate, release, began, number)) for number in range(6)]
    await settle()
    assert began == [0, 1]
    with single(gate), single(gate):
        assert gate.in_flight == 4
    release.set()
    await asyncio.gather(*tasks)
    assert began == [0, 1, 2, 3, 4, 5]
    assert gate.in_flight == 0


async def test_bulk_images_wait_while_single_calls_hold_everything() -> None:
    gate = admission(slots=2)
    release, began = asyncio.Event(), list[int]()
    with single(gate), single(gate):
        task = asyncio.create_task(hold(gate, release, began, 0))
        await settle()
        assert began == []
    await settle()
    assert began == [0]
    release.set()
    await task


async def test_who_stops_waiting_loses_the_turn_and_nothing_else() -> None:
    gate = admission(slots=2)
    release, began = asyncio.Event(), list[int]()
    tasks = [asyncio.create_task(hold(gate, release, began, number)) for number in range(3)]
    await settle()
    assert began == [0]
    tasks[1].cancel()
    await settle()
    release.set()
    await asyncio.gather(tasks[0], tasks[2])
    assert began == [0, 2]
    assert gate.in_flight == 0


async def test_a_turn_that_comes_with_the_cancellation_goes_on_to_the_next() -> None:
    gate = admission(slots=2)
    release, began = asyncio.Event(), list[int]()
    async with gate.bulk_image():
        tasks = [asyncio.create_task(hold(gate, release, began, number)) for number in range(2)]
        await settle()
    # The slot is the first task's by now, but that has had no chance to run.
    tasks[0].cancel()
    await settle()
    assert began == [1]
    release.set()
    await tasks[1]
    assert gate.in_flight == 0

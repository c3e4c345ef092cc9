"""When the next list of users whose limit moves is read."""

from __future__ import annotations

import asyncio

import pytest

from marzban_bridge.reconcile.users.list_turn import ListTurn


async def read_while(turn, *, users, begun):
    """Return whether another list is read when so many of these users have begun."""
    async with turn.taken() as to_begin:
        to_begin.listed(users)
        for _ in range(begun):
            to_begin.begin()
        other = asyncio.create_task(take(turn))
        for _ in range(3):
            await asyncio.sleep(0)
        was_read = other.done()
    async with asyncio.timeout(120):
        await other
    return was_read


async def take(turn):
    async with turn.taken():
        pass


@pytest.mark.parametrize(("users", "begun"), [(4, 2), (4, 4), (5, 3), (1, 1)])
async def test_the_next_list_is_read_when_half_of_the_users_of_the_last_one_have_begun(
    users, begun
):
    assert not await read_while(ListTurn(), users=users, begun=(users + 1) // 2 - 1)
    assert await read_while(ListTurn(), users=users, begun=begun)


async def test_a_turn_ends_with_a_list_that_failed():
    turn = ListTurn()
    with pytest.raises(OSError, match="away"):
        async with turn.taken():
            raise OSError("away")
    async with asyncio.timeout(120):
        await take(turn)

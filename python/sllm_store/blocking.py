"""What blocks, called from an event loop."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")


async def unbroken(function: Callable[[], _Result], stop: Callable[[], None] = lambda: None) -> _Result:
    """Call it in a thread. When this is cancelled, `stop` it, and end after it has returned: what it works on is the
    caller's again then."""
    future = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        stop()
        await asyncio.wait([future])
        raise

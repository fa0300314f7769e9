"""The garbage collector, held back while thousands of objects are made that are no garbage."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused_collections() -> Iterator[None]:
    """Every so many new objects the collector looks through the young ones, and through all of them again and again as
    their number grows: with 20,000 tensors that takes longer than making them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()

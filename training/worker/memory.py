"""Lack of memory anywhere in a trainer's process, as the one error that says what to change.

The loops' own steps say so themselves, after a second try in halves; all else is caught here, at the process's edge.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from training.errors import OutOfMemory

log = logging.getLogger("training.worker.memory")

REMEDY = "lower the recipe's pass_tokens, set training.recompute_activations, or give the worker more memory"


@contextmanager
def memory_told() -> Iterator[None]:
    """Within: lack of memory is raised as OutOfMemory. The log says where it was."""
    try:
        yield
    except MemoryError as error:
        raise _told(error) from error
    except RuntimeError as error:
        from training.loops.steps import is_out_of_memory  # takes seconds to import, where it is not there yet

        if not is_out_of_memory(error):
            raise
        raise _told(error) from error


def _told(error: Exception) -> OutOfMemory:
    log.error("memory ran out", exc_info=error)
    first = next(iter(str(error).splitlines()), "") or type(error).__name__
    return OutOfMemory(f"memory ran out outside the optimizer's steps ({first}): {REMEDY}; trainer.log says where")

"""Several questions at once, in threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Q = TypeVar("_Q")
_A = TypeVar("_A")


def all_at_once(ask: Callable[[_Q], _A], questions: Sequence[_Q]) -> tuple[_A, ...]:
    """The answers in the order of the questions. Raises what the first failed one raised, when all have ended."""
    if not questions:
        return ()
    pool = ThreadPoolExecutor(len(questions))
    try:
        answers = tuple(pool.map(ask, questions))
    except Exception:
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    except BaseException:  # Ctrl-C does not wait for answers: closing the engine ends them
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
    return answers

"""Patience with networks: what may be asked again, how often, and how long to wait between."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from mtpgraft.errors import MtpgraftError

_T = TypeVar("_T")


class Retry(Exception):  # noqa: N818 (an instruction, not an error that anyone sees)
    """An attempt failed in a way that another may not.

    what: for the error, if no attempt is left. is_unreached: no server was there to answer.
    """

    def __init__(self, what: str, retry_after_s: float | None = None, *, is_unreached: bool = False) -> None:
        super().__init__(what)
        self.what = what
        self.retry_after_s = retry_after_s
        self.is_unreached = is_unreached


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to be patient: attempts in all, and seconds between them (doubled each time, with jitter).

    n_unreached_attempts: of the first contact with a server that is not there. A machine without a network is told so
        in two seconds; one whose connection breaks in the middle has `n_attempts`.
    max_retry_after_s: longest wait that a server's Retry-After gets.
    """

    n_attempts: int = 6
    n_unreached_attempts: int = 3
    first_delay_s: float = 0.5
    max_delay_s: float = 8.0
    max_retry_after_s: float = 60.0

    def delay_s(self, n_failures: int, retry_after_s: float | None) -> float:
        if retry_after_s is not None:
            return min(retry_after_s, self.max_retry_after_s)
        # Jitter, so that the connections of one process do not come back all at once.
        return min(self.max_delay_s, self.first_delay_s * 2.0 ** (n_failures - 1)) * random.uniform(0.75, 1.0)


def retrying(
    ask: Callable[[], _T],
    policy: RetryPolicy,
    stopping: threading.Event,
    gave_up: Callable[[Retry, int], MtpgraftError],
) -> _T:
    """The result of `ask`, a first contact, which raises Retry for what another attempt may cure.

    gave_up: the error to raise of the last failure and the number of attempts. stopping: set to wait no longer.
    """
    n_failures = 0
    while True:
        try:
            return ask()
        except Retry as failure:
            n_failures += 1
            n_most = min(policy.n_attempts, policy.n_unreached_attempts) if failure.is_unreached else policy.n_attempts
            if n_failures >= n_most:
                raise gave_up(failure, n_failures) from failure.__cause__
            stopping.wait(policy.delay_s(n_failures, failure.retry_after_s))

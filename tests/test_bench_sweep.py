"""The sweep: its search over surfaces that are made up, cliffs and noise included, and one real run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtpgraft.bench.engine import LaunchSpec
from mtpgraft.bench.engines.embedded import EmbeddedEngine
from mtpgraft.bench.metrics import Spread
from mtpgraft.bench.prompts import Prompt, Suite
from mtpgraft.bench.protocol import plan_bench
from mtpgraft.bench.result import BenchResult
from mtpgraft.bench.sweep import OFF, Choice, Setting, Space, Trial, choose, finalists, next_setting
from mtpgraft.bench.sweeprun import decision, sweep
from mtpgraft.errors import EngineError, UsageError
from tests.conftest import TRAINED
from tests.test_bench_protocol import Failing

Surface = Callable[[Setting], float]
SPACE = Space()
GRID = [Setting(n, p) for n in SPACE.n_max for p in SPACE.p_min]


def search(surface: Surface, space: Space = SPACE) -> list[Trial]:
    trials: list[Trial] = []
    while (setting := next_setting(space, trials)) is not None:
        trials.append(Trial(setting.n_max, setting.p_min, surface(setting)))
        assert len(trials) <= 1 + len(space.n_max) * len(space.p_min)
    return trials


def drafting(right: float, decay: float, draft_cost: float, cliff_at: int, cliff: float) -> Surface:
    """Tokens per step over the time of a step. right: share of first drafts that are right; decay: per position; p_min
    leaves out doubtful drafts, which are wrong more often. From `cliff_at` tokens in a batch on, a step takes `cliff`
    times as long, as where a kernel ends."""

    def speed(setting: Setting) -> float:
        kept = 1 - setting.p_min * (1 - right)
        tokens, reached, drafted, accepted = 1.0, 1.0, 0.0, 1.0
        for position in range(setting.n_max):
            reached *= kept
            drafted += reached
            accepted *= kept * min(1.0, (right + (1 - right) * 0.6 * setting.p_min) * decay**position)
            tokens += accepted
        cost = 1 + draft_cost * drafted
        return 100 * tokens / (cost * cliff if drafted + 1 > cliff_at else cost)

    return speed


surfaces = st.builds(
    drafting,
    right=st.floats(0.3, 0.98),
    decay=st.floats(0.8, 1.0),
    draft_cost=st.floats(0.0, 0.5),
    cliff_at=st.integers(2, 9),
    cliff=st.sampled_from((1.0, 2.0, 14.0)),
)


@given(surfaces)
@settings(deadline=None)
def test_finds_what_drafting_models_have_to_give(surface: Surface) -> None:
    trials = search(surface)
    best = finalists(trials)[0]
    assert surface(best) == max(trial.tokens_per_second for trial in trials if trial.n_max)
    assert surface(best) >= 0.88 * max(map(surface, GRID))


@given(surfaces, st.integers(0, 2**32))
@settings(deadline=None)
def test_noise_does_not_lead_it_far_astray(surface: Surface, seed: int) -> None:
    random = Random(seed)
    trials = search(lambda setting: surface(setting) * random.uniform(0.97, 1.03))
    assert max(map(surface, finalists(trials))) >= 0.85 * max(map(surface, GRID))


@given(st.dictionaries(st.sampled_from([OFF, *GRID]), st.floats(0.1, 1000), min_size=31, max_size=31))
@settings(max_examples=50, deadline=None)
def test_any_surface_ends_without_a_setting_run_twice(speeds: dict[Setting, float]) -> None:
    trials = search(speeds.__getitem__)
    tried = [trial.setting for trial in trials]
    assert tried[0] == OFF and len(set(tried)) == len(tried)
    best = max(trials[1:], key=lambda trial: trial.tokens_per_second)
    assert finalists(trials)[0] == best.setting
    # It stopped at a place that no neighbour on the grid beats.
    for dn, dp in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        n, p = SPACE.n_max.index(best.n_max) + dn, SPACE.p_min.index(best.p_min) + dp
        if 0 <= n < len(SPACE.n_max) and 0 <= p < len(SPACE.p_min):
            assert speeds[Setting(SPACE.n_max[n], SPACE.p_min[p])] <= best.tokens_per_second


def test_the_4090_cliff() -> None:
    """84 tok/s at n=3, 6 at n=4: it must see n=3, look behind the cliff once, and stop there."""
    measured = {0: 46.0, 1: 66.0, 2: 78.0, 3: 84.0, 4: 6.0, 5: 6.0, 6: 6.0}
    trials = search(lambda setting: measured[setting.n_max])
    assert finalists(trials)[0] == Setting(3)
    assert max(trial.n_max for trial in trials) == 5


def test_one_dip_is_crossed() -> None:
    measured = {0: 40.0, 1: 60.0, 2: 70.0, 3: 20.0, 4: 90.0, 5: 80.0, 6: 70.0}
    assert finalists(search(lambda setting: measured[setting.n_max]))[0] == Setting(4)


def test_finalists_are_few_and_ran() -> None:
    trials = [Trial(0, 0.0, 500.0), Trial(1, 0.0, 100.0), Trial(2, 0.0, 0.0), Trial(3, 0.0, 79.0), Trial(1, 0.5, 81.0)]
    assert finalists(trials) == (Setting(1), Setting(1, 0.5))
    assert finalists(trials[:1]) == () and finalists([trials[0], trials[2]]) == ()


def test_the_choice_is_the_median_and_names_its_ties() -> None:
    speeds = {"off": Spread(100, 98, 102), "n=1": Spread(120, 110, 130), "n=2": Spread(118, 117, 119)}
    assert choose(speeds, "off") == Choice("n=1", ("n=2",))
    assert choose({**speeds, "off": Spread(120, 119, 121)}, "off") == Choice("off", ("n=1", "n=2"))


@pytest.mark.parametrize("values", [{"n_max": ()}, {"n_max": (2, 1)}, {"p_min": (0.0, 0.0)}])
def test_a_space_is_in_order(values: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(UsageError, match="rising"):
        Space(**values)


SHORT = Suite("short", "completion", 16, (Prompt("def", "code", "def read("),))


def test_a_real_sweep() -> None:
    plan = plan_bench(
        LaunchSpec(TRAINED / "donor-bf16.gguf", n_ctx=256, n_threads=1),
        SHORT,
        n_max=(1, 2),
        p_min=(0.0, 0.75),
        repeats=2,
    )
    heard: list[Trial] = []
    result = sweep(plan, (EmbeddedEngine(),), on_trial=heard.append)
    assert tuple(heard) == result.sweep
    assert [trial.setting for trial in result.sweep[:3]] == [OFF, Setting(1), Setting(2)]
    assert all(trial.tokens_per_second > 0 for trial in result.sweep)
    assert all(trial.acceptance is not None for trial in result.sweep if trial.n_max == 2 and not trial.p_min)
    kept = {Setting(arm.arm.n_max, arm.arm.p_min) for arm in result.arms}
    assert kept == {OFF, *finalists(result.sweep)}
    assert all(list(arm.by_repeat()) == [0, 1] for arm in result.arms)
    assert decision(result).best in {arm.arm.name for arm in result.arms}
    assert BenchResult.from_json(result.to_json()) == result


def test_a_setting_that_cannot_run_is_a_cliff_and_no_end(tmp_path: Path) -> None:
    launch = LaunchSpec(TRAINED / "donor-bf16.gguf", n_ctx=256, n_threads=1)
    plan = plan_bench(launch, SHORT, n_max=(1, 2, 3), repeats=1)
    engine = Failing(EmbeddedEngine(tmp_path), lambda spec: spec.draft is not None and spec.draft.n_max == 2)
    result = sweep(plan, (engine,))
    assert {trial.n_max: trial.tokens_per_second > 0 for trial in result.sweep} == {0: True, 1: True, 2: False, 3: True}
    assert any("n=2 was not measured" in note for note in result.notes)
    assert "n=2" not in {arm.arm.name for arm in result.arms}

    with pytest.raises(EngineError, match="no room"):
        sweep(plan, (Failing(EmbeddedEngine(tmp_path), lambda spec: spec.draft is not None),))


def test_a_running_server_is_not_swept() -> None:
    plan = plan_bench(LaunchSpec(Path("m.gguf")), SHORT, engines=("a",), fixed={"a"})
    with pytest.raises(UsageError, match="running server"):
        sweep(plan, (EmbeddedEngine(),))

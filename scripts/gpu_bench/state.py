"""Steps that can be interrupted: units of work whose files say that they are done, and a clock with a budget."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from mtpgraft.errors import MtpgraftError

# A unit that cannot be stopped at a second's notice must not run into the caller's own limit.
GRACE_S = 20.0


class End(IntEnum):
    """How a step ended; also the program's exit codes, of which 2 is: not possible here."""

    DONE = 0
    FAILED = 1
    NOT_POSSIBLE = 2
    MORE_TO_DO = 3


class OutOfTimeError(Exception):
    """The unit at work would pass the step's limit."""


class LeftOutError(Exception):
    """The unit is not for this machine, and the others go on without it; the text says why."""


class UnitFailedError(Exception):
    """A unit's program failed; the text is what to tell the user."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One piece of work that is done whole or again.

    outputs: the files that it leaves, each put under its name when it is complete. seconds: the estimate.
    """

    name: str
    seconds: float
    outputs: tuple[Path, ...]
    work: Callable[[], None]

    @property
    def is_done(self) -> bool:
        return all(path.exists() for path in self.outputs)


class Work:
    """The one folder of a run: `models/` and `build/` (large), `results/` (small, all that collect reads), `logs/`.

    results/state.json holds the seconds that each step took so far and what was left out and why.
    """

    def __init__(self, folder: Path, budget_s: float, step_limit_s: float) -> None:
        self.folder = folder.absolute()
        self.budget_s = budget_s
        self._deadline = time.monotonic() + step_limit_s
        self._step = ""
        self._clock = time.monotonic()
        self._state = _read_state(self.results / "state.json")

    @property
    def models(self) -> Path:
        return _made(self.folder / "models")

    @property
    def results(self) -> Path:
        return _made(self.folder / "results")

    @property
    def logs(self) -> Path:
        return _made(self.folder / "logs")

    @property
    def spent_s(self) -> float:
        """Seconds of all steps so far, earlier calls included."""
        return sum(self._state.spent_s.values())

    @property
    def spent_by_step(self) -> Mapping[str, float]:
        return self._state.spent_s

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._state.notes.values())

    @property
    def left_s(self) -> float:
        """What a unit that starts now may take: of the budget and of this call."""
        return min(self.budget_s - self.spent_s, self._deadline - time.monotonic())

    def check_time(self) -> None:
        """Raises OutOfTimeError when the unit at work must stop: to be called between its parts."""
        if self._deadline - time.monotonic() < GRACE_S:
            raise OutOfTimeError

    def note(self, about: str, text: str | None) -> None:
        """Keep one sentence about something that was left out; None takes it back."""
        if text is None:
            self._state.notes.pop(about, None)
        else:
            self._state.notes[about] = f"{about}: {text}"
            say(f"  note: {about}: {text}")
        self._save()

    def run_step(self, step: str, units: Sequence[Unit]) -> End:
        """Run the units that are not done. What failed or was left out has a note, and is tried again next time."""
        end = End.DONE
        self._step, self._clock = step, time.monotonic()
        say(f"{step}: {sum(unit.is_done for unit in units)} of {len(units)} done before")
        for unit in units:
            if unit.is_done:
                continue
            if unit.seconds > self.left_s:
                kind = "budget" if self.budget_s - self.spent_s < unit.seconds else "limit per call"
                self.note(unit.name, f"not run: about {unit.seconds:.0f} s do not fit into the {kind}")
                if kind == "budget":
                    continue  # a smaller one may still fit
                return End.MORE_TO_DO
            say(f"  {unit.name} (about {unit.seconds:.0f} s)")
            started = time.monotonic()
            try:
                unit.work()
            except OutOfTimeError:
                self.note(unit.name, "not finished within the limit per call")
                return End.MORE_TO_DO
            except LeftOutError as error:
                self.note(unit.name, f"left out: {error}")
            except (UnitFailedError, MtpgraftError) as error:
                hint = error.hint if isinstance(error, MtpgraftError) else None
                self.note(unit.name, f"failed: {error}" + (f"; try: {hint}" if hint else ""))
                end = End.FAILED
            else:
                self.note(unit.name, None)
                say(f"    {time.monotonic() - started:.0f} s")
            finally:
                self._save()
        return end

    def _save(self) -> None:
        now = time.monotonic()
        if self._step:
            self._state.spent_s[self._step] = self._state.spent_s.get(self._step, 0.0) + now - self._clock
        self._clock = now
        write_json(self.results / "state.json", {"spent_s": self._state.spent_s, "notes": self._state.notes})


@dataclass(frozen=True, slots=True)
class _State:
    spent_s: dict[str, float]
    notes: dict[str, str]


def _read_state(path: Path) -> _State:
    if not path.is_file():
        return _State({}, {})
    data = json.loads(path.read_text(encoding="utf-8"))
    return _State(dict(data["spent_s"]), dict(data["notes"]))


def write_json(path: Path, value: object) -> None:
    """Whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


def read_json(path: Path) -> dict[str, object]:
    data: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return data


def run_program(
    command: Sequence[str], work: Work, name: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> None:
    """Run a program with its output in logs/NAME.log.

    Raises UnitFailedError with the log's last lines, OutOfTimeError when the call's limit ended it.
    """
    log = work.logs / f"{name}.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=env, cwd=cwd, start_new_session=True
        )
        try:
            code = process.wait(max(1.0, work.left_s - GRACE_S))
        except subprocess.TimeoutExpired:
            raise OutOfTimeError from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)  # its compilers and workers, too
                process.wait()
    if code:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:]
        raise UnitFailedError(f"{Path(command[0]).name} ended with {code} ({' | '.join(tail)}); see {log}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder

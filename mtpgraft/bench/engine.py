"""What an engine is: something that is started with a LaunchSpec and then answers completions.

Two Protocols and their values, nothing else. `Engine` is a kind of engine (the embedded one, a llama-server binary, a
server that already runs); `Session` is one start of it: one model, one setting, one process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeAlias

Json: TypeAlias = Mapping[str, "Json"] | Sequence["Json"] | str | int | float | bool | None
Scalar: TypeAlias = str | int | float | bool


@dataclass(frozen=True, slots=True)
class DraftSpec:
    """How a session drafts with MTP. llama.cpp fixes all of it at start-up, so each setting needs its own session.

    n_max: tokens drafted per step, at most (`--spec-draft-n-max`).
    p_min: a draft ends at the first token less likely than this (`--spec-draft-p-min`).
    sidecar: the head as a separate file (`-md`); None: the model's own head.
    synth_rates: accept the draft's 1st, 2nd, ... token at random with these probabilities (`--spec-synth-rates`, one
        per token of n_max, never rising) in place of verifying it. It isolates the engine's speed from the head's
        quality; the text is then invalid.
    """

    n_max: int
    p_min: float = 0.0
    sidecar: Path | None = None
    synth_rates: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """One start of an engine.

    draft: None starts without speculative decoding (the off arm).
    n_threads: None lets the engine choose (see `host.default_threads`).
    n_batch: None keeps the engine's own.
    warmup: the engine's own empty run at start-up.
    extra: settings of the embedded engine by llama.cpp's own names (common_params), passed through and recorded.
    n_gpu_layers: None lets the engine choose.
    cache_type_k, cache_type_v: types of the KV cache, passed through whatever they are: forks know more than llama.cpp.
    rpc: `host:port` of each ggml-rpc-server that holds a part of the model.
    args: more arguments of the command line, for engines that have one.
    env: environment variables set for this start.
    """

    model: Path
    n_ctx: int = 4096
    draft: DraftSpec | None = None
    n_threads: int | None = None
    n_parallel: int = 1
    n_batch: int | None = None
    warmup: bool = True
    extra: tuple[tuple[str, Scalar], ...] = ()
    n_gpu_layers: int | None = None
    cache_type_k: str | None = None
    cache_type_v: str | None = None
    rpc: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """One completion. The defaults are the ones a fair measurement needs: greedy, and no prompt cache.

    shape: `completion` sends the raw text, `chat` sends it as one user message through the model's chat template.
    """

    prompt: str
    n_predict: int
    temperature: float = 0.0
    seed: int = 1
    cache_prompt: bool = False
    grammar: str | None = None
    shape: str = "completion"


@dataclass(frozen=True, slots=True)
class CompletionResult:
    """What an engine answered, and its own timings.

    tokens: token ids where the engine gives them.
    predicted_ms: from the first predicted token to the last, so it covers `n_predicted - 1` tokens: the first one
        comes out of the prompt's last batch (llama.cpp b11434 tools/server/server-common.h, `n_gen_steps`).
    predicted_per_second: the engine's own figure.
    prompt_n: prompt tokens processed, cached ones excluded.
    draft_n, draft_n_accepted: 0 where the engine reports none: llama.cpp leaves both out when nothing was drafted.
    n_draft_steps: verification steps, where the engine counts them.
    accepted_per_position: of those steps, how many accepted the draft's 1st, 2nd, ... token.
    stop: "length", "stop", or the engine's own word.
    wall_ms: from sending the request to having its whole answer, by our clock.
    first_token_ms: from sending the request to the first token: by our clock where the answer was streamed, else the
        engine's own prompt time.
    """

    text: str
    tokens: tuple[int, ...] | None
    n_predicted: int
    predicted_ms: float
    predicted_per_second: float
    prompt_n: int
    prompt_ms: float
    draft_n: int
    draft_n_accepted: int
    n_draft_steps: int | None
    accepted_per_position: tuple[int, ...] | None
    stop: str
    wall_ms: float | None = None
    first_token_ms: float | None = None


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Which engine, which build. `build` says where its number comes from when the engine itself does not know it.

    kind: `llama.cpp` (forks included), `ik_llama.cpp`, `vllm`, `openai` (any other compatible server).
    build_number: llama.cpp's own counting, None where unknown or another project's.
    """

    name: str
    version: str
    build: str
    system: str
    devices: tuple[str, ...]
    kind: str = "llama.cpp"
    build_number: int | None = None


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """What is known of one start.

    command: the command line, as one could type it; empty for an engine that has none.
    log: the engine's log so far, as text; empty where it is out of reach.
    """

    command: tuple[str, ...] = ()
    log: str = ""


class Session(Protocol):
    """A started engine. Closing it ends its process; closing twice is harmless."""

    @property
    def spec(self) -> LaunchSpec: ...

    @property
    def n_threads(self) -> int | None:
        """Threads that the engine was told to use, where that is known."""
        ...

    def complete(self, request: CompletionRequest) -> CompletionResult:
        """Raises EngineError when the engine refuses the request, EngineDiedError when it ends or goes silent."""
        ...

    def complete_all(self, requests: Sequence[CompletionRequest]) -> tuple[CompletionResult, ...]:
        """All at once, one slot each, answers in the order of the requests. Counters that the engine keeps for all
        slots together (`n_draft_steps`, `accepted_per_position`) are None then. Raises what `complete` raises."""
        ...

    def facts(self) -> SessionFacts: ...

    def close(self) -> None: ...

    def __enter__(self) -> Session: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Engine(Protocol):
    """A kind of engine."""

    @property
    def is_fixed(self) -> bool:
        """Somebody else started it and it cannot be restarted: it runs in the one setting that it has, whatever a
        LaunchSpec says (but see running.drafts_by_request), and a bench says what it skipped."""
        ...

    def info(self) -> EngineInfo:
        """Raises EngineError, with what to install, when the engine is not there."""
        ...

    def start(self, spec: LaunchSpec) -> Session:
        """Raises InputError for a file that is not there, EngineError when the engine cannot run this model."""
        ...

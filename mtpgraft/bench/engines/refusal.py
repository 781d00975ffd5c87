"""Errors that every engine of llama.cpp's raises in the same words."""

from __future__ import annotations

from mtpgraft.bench.engine import EngineInfo, LaunchSpec
from mtpgraft.bench.engines.builds import blocking_trouble
from mtpgraft.errors import EngineError, RefusedError


def refuse_known_bad(info: EngineInfo, engine: object) -> None:
    """Raises RefusedError for a build in which MTP is known not to start: better said before a model is loaded."""
    trouble = blocking_trouble(info.build_number)
    if trouble is not None:
        raise RefusedError(
            f"MTP does not start in builds b{trouble.since} to b{trouble.until}: {trouble.consequence}",
            file=engine,
            found=info.build,
            expected=f"another build ({trouble.source})",
            hint=trouble.advice,
        )


def rejected(engine: str, why: str, spec: LaunchSpec) -> EngineError:
    """The engine answered a request with a refusal."""
    return EngineError(
        f"{engine} rejected a completion",
        file=spec.model,
        found=why,
        hint="use a shorter prompt or more context" if "context size" in why else None,
    )

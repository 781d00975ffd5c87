"""From what a user typed to an open model: model spec -> sources -> container."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mtpgraft.container import MAX_HEADER_NBYTES, GGUFModel, gguf_from_sources, open_gguf
from mtpgraft.modelspec import HubSpec, LocalSpec, UrlSpec, parse_spec
from mtpgraft.source.base import Source
from mtpgraft.source.http import HttpSource
from mtpgraft.source.local import folder_entries, is_folder
from mtpgraft.source.transport import Fetched

if TYPE_CHECKING:
    from mtpgraft.container.checkpoint import Checkpoint
    from mtpgraft.source.hub import HubRepo


def open_model(spec: str | Path, max_header_nbytes: int = MAX_HEADER_NBYTES) -> GGUFModel:
    """Open the GGUF that `spec` names (grammar: modelspec.py). Only its header is read. The caller closes it.

    Raises InputError when nothing is there or several files match, InvalidFileError or TruncatedError for a bad header,
    TransientError when the network fails.
    """
    parsed = parse_spec(spec)
    if isinstance(parsed, LocalSpec):
        return open_gguf(parsed.path, max_header_nbytes)
    return _from_sources(open_sources(parsed), max_header_nbytes)


def open_donor(spec: str | Path, max_header_nbytes: int = MAX_HEADER_NBYTES) -> GGUFModel | Checkpoint:
    """Open what `spec` names, a GGUF or a safetensors checkpoint. A repo or folder that holds GGUF files is taken for
    them, unless a .safetensors file is named. The caller closes it.

    Raises what `open_model` and `open_checkpoint` raise.
    """
    from mtpgraft.container.checkpoint import checkpoint_from_files, is_checkpoint, open_checkpoint

    parsed = parse_spec(spec)
    if isinstance(parsed, LocalSpec):
        path = parsed.path
        names = [entry.name for entry in folder_entries(path)] if is_folder(path) else []
        in_folder = is_checkpoint(names) and not any(name.endswith(".gguf") for name in names)
        if in_folder or path.suffix == ".safetensors":
            return open_checkpoint(path)
        return open_gguf(path, max_header_nbytes)
    if isinstance(parsed, UrlSpec):
        return _from_sources(open_sources(parsed), max_header_nbytes)
    from mtpgraft.source.hub import open_repo

    repo = open_repo(parsed)
    if names_checkpoint(parsed, repo):
        return checkpoint_from_files(repo.name, repo.paths, repo.open)
    return _from_sources(_gguf_sources(repo, parsed), max_header_nbytes)


def names_checkpoint(spec: HubSpec, repo: HubRepo) -> bool:
    """True when `spec` means the repo's safetensors and not a GGUF in it."""
    if spec.file is not None:
        return spec.file.endswith(".safetensors")
    return spec.quant is None and not repo.has_gguf and repo.has_safetensors


def _from_sources(sources: list[Source], max_header_nbytes: int) -> GGUFModel:
    try:
        return gguf_from_sources(sources, max_header_nbytes)
    except BaseException:
        for source in sources:
            source.close()
        raise


def open_sources(spec: HubSpec | UrlSpec) -> list[Source]:
    """The remote file that `spec` names, or all shards of its set, in order. The caller closes them."""
    if isinstance(spec, UrlSpec):
        from mtpgraft.source.url import open_url, shard_urls

        return _all_opened(open_url, shard_urls(spec.url))
    from mtpgraft.source.hub import open_repo

    return _gguf_sources(open_repo(spec), spec)


def _gguf_sources(repo: HubRepo, spec: HubSpec) -> list[Source]:
    return _all_opened(repo.open, repo.select_gguf(spec))


def _all_opened(open_one: Callable[[str], Source], names: Iterable[str]) -> list[Source]:
    sources: list[Source] = []
    try:
        for name in names:
            sources.append(open_one(name))
    except BaseException:
        for source in sources:
            source.close()
        raise
    return sources


def fetched(model: GGUFModel) -> Fetched | None:
    """What reading `model` has cost the network, or None when it is local."""
    sources = [shard.source for shard in model.shards if isinstance(shard.source, HttpSource)]
    if not sources:
        return None
    return Fetched(
        sum(source.stats.n_bytes for source in sources),
        sum(source.stats.n_requests for source in sources),
        sum(source.size for source in sources),
    )

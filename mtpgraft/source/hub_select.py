"""Which file of a repo is meant. Pure: file names in, file names out; nothing is guessed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from mtpgraft.errors import InputError
from mtpgraft.source.splits import parse_shard_name

_NO_MODEL = re.compile(r"(?:^|[-_./])(?:mmproj|imatrix)", re.IGNORECASE)
"""Vision projectors and importance matrices are GGUF files and no models; a path still names them."""
_MAX_LISTED = 12


def select_gguf(paths: Iterable[str], repo: str, quant: str | None = None, file: str | None = None) -> tuple[str, ...]:
    """The file that is meant, or all shards of its set, in order.

    repo: for messages. With neither `quant` nor `file` the repo must hold one model.
    Raises InputError when nothing matches, several do, or shards are missing; it lists what is there.
    """
    there = sorted(path for path in paths if path.lower().endswith(".gguf"))
    if file is not None:
        if file not in there:
            raise _nothing(repo, f"no file {file}", there)
        return _with_shards(file, there, repo)
    models = [path for path in there if not _NO_MODEL.search(path)]
    if not models:
        raise InputError("holds no GGUF file", file=repo, expected="a .gguf file", found=f"{len(there)} of them")
    firsts = _sets(models)
    chosen = firsts if quant is None else _matching(firsts, quant)
    if not chosen:
        raise _nothing(repo, f"nothing named {quant}", firsts)
    if len(chosen) > 1:
        which = "several models" if quant is None else f"several models named {quant}"
        raise InputError(
            f"holds {which}", file=repo, expected="one", found=_listed(chosen),
            hint=f"name one: {repo}:{_tag(chosen[0]) if quant is None else chosen[0]}",
        )  # fmt: skip
    return _with_shards(chosen[0], there, repo)


def matches_quant(path: str, quant: str) -> bool:
    """True when the file's name holds `quant` as a word, followed by `-` or `.`, as llama.cpp's -hf matches its tags
    (common/download.cpp @ b11434). Q4_K does not match Q4_K_M."""
    name = path.rsplit("/", 1)[-1]
    return re.search(rf"(?:^|[^A-Za-z0-9]){re.escape(quant)}[.-]", name, re.IGNORECASE) is not None


def _matching(firsts: Sequence[str], quant: str) -> list[str]:
    found = [path for path in firsts if matches_quant(path, quant)]
    if found:
        return found
    # Some repos name the quant in the folder alone: BF16/model-00001-of-00004.gguf
    return [path for path in firsts if quant.lower() in (part.lower() for part in path.split("/")[:-1])]


def _sets(paths: Sequence[str]) -> list[str]:
    """One path per model: single files, and the lowest shard there is of each set."""
    seen: set[tuple[str, int]] = set()
    out: list[str] = []
    for path in paths:
        shard = parse_shard_name(path)
        if shard is not None:
            if (shard.prefix, shard.count) in seen:
                continue
            seen.add((shard.prefix, shard.count))
        out.append(path)
    return out


def _with_shards(path: str, there: Sequence[str], repo: str) -> tuple[str, ...]:
    shard = parse_shard_name(path)
    if shard is None:
        return (path,)
    wanted = tuple(shard.sibling(number) for number in range(1, shard.count + 1))
    missing = [name for name in wanted if name not in there]
    if missing or not 1 <= shard.number <= shard.count:
        raise InputError(
            "the split set is incomplete", file=f"{repo}/{path}", expected=f"{shard.count} shards",
            found=f"missing {_listed(missing)}" if missing else path,
        )  # fmt: skip
    return wanted


def _nothing(repo: str, what: str, there: Sequence[str]) -> InputError:
    if not there:
        return InputError("holds no GGUF file", file=repo, expected="a .gguf file", found="none")
    return InputError(f"holds {what}", file=repo, expected="one of the files there", found=_listed(there))


def _listed(paths: Sequence[str]) -> str:
    rest = f" and {len(paths) - _MAX_LISTED} more" if len(paths) > _MAX_LISTED else ""
    return ", ".join(paths[:_MAX_LISTED]) + rest


def _tag(path: str) -> str:
    """The quant in a file's name, or the path."""
    found = re.search(r"((?:UD-)?(?:I?Q\d[A-Z0-9_]*|TQ\d_\d|BF16|F16|F32|MXFP4[A-Z_]*|NVFP4))[.-]", path, re.IGNORECASE)
    return found[1] if found else path

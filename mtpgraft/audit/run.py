"""Audits targets: each model judged by itself, in parallel, then together with the files beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path

from mtpgraft.audit import rules
from mtpgraft.audit.build import finding
from mtpgraft.audit.gguf import Judged, judge
from mtpgraft.audit.sidecars import Profile, matched, needs_siblings, profile_of
from mtpgraft.audit.targets import Item, Kind, expand, gguf_in
from mtpgraft.audit.upstream import Lookup, Norms, Upstream, upstream_repos
from mtpgraft.audit.values import FAILING, AuditResult, Finding, Verdict, overall
from mtpgraft.container import GGUFModel, open_gguf
from mtpgraft.errors import ExitCode, InvalidFileError, MtpgraftError, TruncatedError
from mtpgraft.head import HeadState
from mtpgraft.source.local import folder_entries, is_file
from mtpgraft.source.splits import parse_shard_name

_MAX_SIBLINGS = 64


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """deep: read the head's data too. n_jobs: models read at a time. upstream: ask the Hub about the originals of local
    files too; for repos on the Hub that is always done. lookup: what was learnt of them."""

    deep: bool = False
    n_jobs: int = 8
    upstream: bool = False
    lookup: Lookup = field(default_factory=Lookup, repr=False)


@dataclass(frozen=True, slots=True)
class Audited:
    """A result, and what the files beside it need to know of a local GGUF."""

    result: AuditResult
    profile: Profile | None = None
    folder: Path | str | None = None
    """What its siblings share: the folder, or the name of the folder in a repo."""


OnResult = Callable[[AuditResult], None]


def audit(
    targets: str | Path | Iterable[str | Path],
    options: AuditOptions | None = None,
    on_result: OnResult | None = None,
) -> list[AuditResult]:
    """The results of all models that the targets name, in order: one of what `mtpgraft audit` takes, or any number.

    on_result: told of each as it is done, on the thread that called.
    Raises UsageError and InputError for targets that mean nothing; what cannot be read is a result with an `error`.
    """
    options = options or AuditOptions()
    items = list(expand([targets] if isinstance(targets, (str, Path)) else targets))
    tell = on_result or (lambda result: None)
    found: list[Audited] = []
    for many in _mapped(items, options):
        for audited in many:
            found.append(audited)
            tell(audited.result)
    return together(found)


def exit_code(results: Iterable[AuditResult], fail_on: frozenset[Verdict] = FAILING) -> ExitCode:
    """2 (or 3) when something could not be read, 1 when a verdict is among `fail_on`, else 0."""
    seen = list(results)
    errors = {result.error_code for result in seen if result.error is not None}
    if errors:
        return ExitCode.RETRY if errors == {ExitCode.RETRY} else ExitCode.BAD_INPUT
    return ExitCode.FINDINGS if any(result.verdict in fail_on for result in seen) else ExitCode.DONE


def audit_item(item: Item, options: AuditOptions) -> list[Audited]:
    """One item by itself; a repo gives one result per model in it. Never raises what belongs to the file."""
    try:
        if item.kind is Kind.NOTHING:
            return [Audited(_unreadable(item.label, item.note, ExitCode.BAD_INPUT))]
        if item.kind is Kind.CHECKPOINT:
            from mtpgraft.audit.checkpoint import audit_folder

            assert item.path is not None
            return [Audited(audit_folder(item.path, item.label))]
        if item.kind is Kind.REMOTE:
            from mtpgraft.audit.remote import audit_remote

            assert item.spec is not None
            return audit_remote(item.spec, item.label, options)
        return [_audit_gguf(item, options)]
    except MtpgraftError as error:
        return [Audited(failed(item.label, error))]


def failed(label: str, error: MtpgraftError, n_bytes: int | None = None) -> AuditResult:
    """The result for a file whose reading ended in this error: broken files are findings, all else is an error."""
    rule = None
    if isinstance(error, TruncatedError):
        rule = rules.TRUNCATED
    elif isinstance(error, InvalidFileError):
        rule = rules.CORRUPT
    if rule is None or rule.verdict is None:
        return _unreadable(label, str(error), error.exit_code)
    evidence = tuple(part for part in (error.where, error.what) if part)
    broken = finding(rule, label, error.expected or "a whole file", error.found or error.what, evidence)
    return AuditResult(label, rule.verdict, findings=(broken,), n_bytes=n_bytes)


def judged_deeply(
    model: GGUFModel,
    label: str,
    siblings: Iterable[Path],
    upstream: Upstream | None = None,
    norms: Callable[[], Norms | None] | None = None,
) -> Judged:
    """A model by its header and by its head's data. siblings: files that may hold an original of the same model.

    norms: reads those of the model's upstream, when they are wanted.
    """
    from mtpgraft.audit.deep import deep_findings
    from mtpgraft.audit.kin import kin_findings, upstream_findings

    judged = judge(model, label, upstream)
    if judged.head is None or not judged.head.blocks:
        return judged
    more = deep_findings(model, judged.head, label)
    if not more:
        more = kin_findings(model, judged.head, label, siblings)
    of_upstream = norms() if norms is not None and not more else None
    if of_upstream is not None:
        more = upstream_findings(model, judged.head, label, of_upstream)
    return replace(judged, findings=(*judged.findings, *more))


def header_or_deep(
    model: GGUFModel,
    label: str,
    siblings: Iterable[Path],
    deep: bool,
    upstream: Upstream | None = None,
    norms: Callable[[], Norms | None] | None = None,
) -> Judged:
    """A model judged by its header, or by its head's data too."""
    return judged_deeply(model, label, siblings, upstream, norms) if deep else judge(model, label, upstream)


def import_heavy(deep: bool, remote: bool) -> None:
    """Import what threads will need: numpy and others import in circles, and fail when two threads begin at once."""
    if deep:
        import_module("gguf.quants")
    if remote:
        for name in ("HfApi", "get_hf_file_metadata", "hf_hub_url", "try_to_load_from_cache"):
            getattr(import_module("huggingface_hub"), name)


def _audit_gguf(item: Item, options: AuditOptions) -> Audited:
    assert item.path is not None
    incomplete = _incomplete_set(item.path, item.label)
    if incomplete is not None:
        return Audited(AuditResult(item.label, Verdict.TRUNCATED, findings=(incomplete,)))
    try:
        with open_gguf(item.path) as model:
            siblings = siblings_of(item.path) if options.deep else []
            norms = partial(options.lookup.norms_of, upstream_repos(model)) if options.upstream else None
            judged = header_or_deep(model, item.label, siblings, options.deep, norms=norms)
            if options.upstream and judged.head is not None and judged.head.state is HeadState.NONE:
                upstream = options.lookup.of(upstream_repos(model))
                judged = header_or_deep(model, item.label, siblings, options.deep, upstream)
            return Audited(judged.result(), profile_of(judged), item.path.parent)
    except MtpgraftError as error:
        size = item.path.stat().st_size if is_file(item.path) else None
        return Audited(failed(item.label, error, size))


def siblings_of(path: Path) -> list[Path]:
    """The other GGUF files in the same folder, of each split set one shard."""
    own = parse_shard_name(path.name)
    found = []
    for other in gguf_in(path.parent, (entry.name for entry in folder_entries(path.parent) if entry.is_file())):
        shard = parse_shard_name(other.name)
        same_set = own is not None and shard is not None and (shard.prefix, shard.count) == (own.prefix, own.count)
        if other.name != path.name and not same_set:
            found.append(other)
    return found[:_MAX_SIBLINGS]


def _incomplete_set(path: Path, label: str) -> Finding | None:
    shard = parse_shard_name(path.name)
    if shard is None:
        return None
    names = [shard.sibling(number) for number in range(1, shard.count + 1)]
    there = {entry.name for entry in folder_entries(path.parent)}
    missing = [name for name in names if name not in there]
    if not missing:
        return None
    observed = f"{shard.count - len(missing)} shards"
    return finding(rules.SPLIT_INCOMPLETE, label, f"{shard.count} shards", observed, tuple(missing[:8]))


def _unreadable(label: str, why: str, code: ExitCode) -> AuditResult:
    found = finding(rules.UNREADABLE, label, "a readable model", why)
    return AuditResult(label, Verdict.UNKNOWN, findings=(found,), error=why, error_code=int(code))


def _mapped(items: Sequence[Item], options: AuditOptions) -> Iterator[list[Audited]]:
    if len(items) < 2 or options.n_jobs < 2:
        for item in items:
            yield audit_item(item, options)
        return
    import_heavy(options.deep, any(item.kind is Kind.REMOTE for item in items))
    with ThreadPoolExecutor(min(options.n_jobs, len(items))) as pool:
        yield from pool.map(lambda item: audit_item(item, options), items)


def together(found: Sequence[Audited]) -> list[AuditResult]:
    """The results once more, with what the files of the same folder say about each other."""
    by_folder: dict[Path | str, list[Profile]] = {}
    for audited in found:
        if audited.profile is not None and audited.folder is not None:
            by_folder.setdefault(audited.folder, []).append(audited.profile)
    for folder, profiles in by_folder.items():
        if isinstance(folder, Path):
            by_folder[folder] = _with_siblings(folder, profiles)
    results = []
    for audited in found:
        profile, result = audited.profile, audited.result
        if profile is not None and audited.folder is not None:
            siblings = [other for other in by_folder[audited.folder] if other.file_name != profile.file_name]
            findings = matched(profile, siblings)
            result = replace(result, findings=findings, verdict=overall(findings, profile.otherwise))
        results.append(result)
    return results


def _with_siblings(folder: Path, profiles: list[Profile]) -> list[Profile]:
    """The profiles of a folder, with those of files that were not audited where they are needed."""
    known = {profile.file_name for profile in profiles}
    try:
        others = [path for path in gguf_in(folder, (p.name for p in folder.iterdir())) if path.name not in known]
    except OSError:
        return profiles
    others = others[:_MAX_SIBLINGS]
    if not others or not any(needs_siblings(profile, (p.name for p in others)) for profile in profiles):
        return profiles
    more = []
    for path in others:
        try:
            with open_gguf(path) as model:
                profile = profile_of(judge(model, str(path)))
        except MtpgraftError:
            continue
        if profile is not None:
            more.append(profile)
    return [*profiles, *more]

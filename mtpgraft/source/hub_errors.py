"""huggingface_hub's errors in mtpgraft's words: what is wrong, whose fault it is, and what to do."""

from __future__ import annotations

from typing import Any

from mtpgraft.errors import InputError, MtpgraftError, TransientError
from mtpgraft.source.retries import Retry
from mtpgraft.source.transport import offline_error, retry_after_s, translated

_RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


def hub_error(failure: Retry, name: str, is_bare: bool = False) -> TransientError:
    """The Hub did not answer, however often it was asked. is_bare: the name may have been meant as a path."""
    what = "no such path here, and the Hub does not answer" if is_bare else "the Hub does not answer"
    hint = "run it again later; without a network, HF_HUB_OFFLINE=1 reads what the caches hold"
    return TransientError(f"{what}: {failure.what}", file=name, hint=hint)


class translated_hub:  # noqa: N801 (reads as a verb: with translated_hub(...): ...)
    """Turns what huggingface_hub raises into Retry, InputError or TransientError.

    name: the spec or file for the message. is_bare: it may have been meant as a path.
    """

    def __init__(self, name: str, repo_id: str, is_bare: bool = False) -> None:
        self._name, self._repo_id, self._is_bare = name, repo_id, is_bare

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, Retry | MtpgraftError):
            return
        from huggingface_hub import errors

        if isinstance(error, errors.OfflineModeIsEnabled):
            raise offline_error(self._name) from error
        if isinstance(error, errors.HFValidationError):
            raise InputError("is no name of a repo", file=self._name, found=self._repo_id) from error
        if isinstance(error, errors.HfHubHTTPError):
            raise self._http(error) from error
        translated().__exit__(kind, error, trace)

    def _http(self, error: Any) -> Exception:
        from huggingface_hub import errors, get_token

        status = int(error.response.status_code)
        if isinstance(error, errors.GatedRepoError):
            ask = f"ask for access at https://huggingface.co/{self._repo_id}"
            has_token = get_token() is not None
            return InputError(
                "is gated, and your account has no access" if has_token else "is gated", file=self._name,
                expected="a token of an account with access", found="one without" if has_token else "no token",
                hint=ask if has_token else f"{ask}, then set HF_TOKEN or run `hf auth login`",
            )  # fmt: skip
        if isinstance(error, errors.RepositoryNotFoundError):
            return InputError(
                "no such path here, and no such repo on the Hub" if self._is_bare else "no such repo on the Hub",
                file=self._name, found=f"HTTP {status}",
                hint="check the name; a private repo needs HF_TOKEN or `hf auth login`",
            )  # fmt: skip
        if isinstance(error, errors.RevisionNotFoundError):
            return InputError("no such branch, tag or commit in the repo", file=self._name, found=f"HTTP {status}")
        if isinstance(error, errors.EntryNotFoundError):
            return InputError("no such file in the repo", file=self._name, found=f"HTTP {status}")
        if status in _RETRY_STATUS:
            return Retry(f"it answers {status}", retry_after_s(error.response.headers))
        if status in (401, 403):
            hint = "set HF_TOKEN, or log in with `hf auth login`, to an account that may read it"
            return InputError("access is denied", file=self._name, found=f"HTTP {status}", hint=hint)
        return InputError(f"the Hub refuses: {error.server_message or error}", file=self._name, found=f"HTTP {status}")

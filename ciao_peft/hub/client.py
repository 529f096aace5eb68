"""The client for all requests to the Hub; its errors are raised as errors of this library."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from .._version import __version__
from ..errors import (
    CIAOError,
    HubError,
    HubFileError,
    HubGatedError,
    HubNotFoundError,
    HubOfflineError,
    HubRevisionError,
    HubServerError,
    HubTokenError,
    listed,
)
from ..installed import check_installed
from ..remote import TooLate, within

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["answer_within", "as_our_errors", "must_stay_offline", "open_client"]

T = TypeVar("T")


def must_stay_offline(local_files_only: bool) -> bool:
    """Whether the network must not be used: by the argument, or by HF_HUB_OFFLINE.

    Example:
        >>> must_stay_offline(local_files_only=True)
        True
    """
    from huggingface_hub import constants

    return local_files_only or constants.HF_HUB_OFFLINE


def open_client(token: str | bool | None) -> HfApi:
    """A client that tells the Hub which library it belongs to.

    Args:
        token: A token; that of `hf auth login` for None or True, none for False.

    Raises:
        OutdatedPackageError: huggingface-hub is older than the bound of this library.

    Example:
        >>> open_client(None).library_name
        'ciao_peft'
    """
    check_installed("huggingface-hub")
    from huggingface_hub import HfApi

    return HfApi(token=token, library_name="ciao_peft", library_version=__version__)


def answer_within(seconds: float, ask: Callable[[], T], endpoint: str = "the Hub") -> T:
    """What a short answer says, if all of it comes within some seconds.

    The client's own timeouts count from one byte to the next, so that a server that sends a byte now and then would be
    waited for without an end.

    Args:
        seconds: For the whole answer.
        ask: Asks for it; goes on in a thread of its own, and is left alone, where it takes longer.
        endpoint: Who is asked, for the message.

    Raises:
        HubOfflineError: it takes longer.

    Example:
        >>> answer_within(10, lambda: "here")
        'here'
    """
    try:
        return within(seconds, ask, "ciao_peft asks the Hub")
    except TooLate:
        raise HubOfflineError(
            f"{endpoint} has not finished its answer within {seconds:g} s. Try again, set HF_HUB_ETAG_TIMEOUT to more "
            "seconds (a sixth of what you want to wait), or load what is cached with `local_files_only=True`."
        ) from None


@contextmanager
def as_our_errors(what: str, api: HfApi, repo_id: str) -> Iterator[None]:
    """Raises the client's errors inside a `with` block as `HubError`s.

    Args:
        what: What was asked for, as the message names it.
        api: The client.
        repo_id: The repository.

    Raises:
        HubError: a subclass says what went wrong.

    Example:
        >>> with as_our_errors("'user/ciao-fer'", open_client(None), "user/ciao-fer"):
        ...     raise OSError("The disk is full.")
        Traceback (most recent call last):
        ...
        ciao_peft.errors.HubServerError: 'user/ciao-fer': The disk is full
    """
    from huggingface_hub.utils import httpx

    try:
        yield
    except CIAOError:
        raise
    except (OSError, ValueError, httpx.HTTPError) as error:  # ValueError: bad names, bad cards, failed forced downloads
        raise _our_error(error, what, api, repo_id) from error
    except RuntimeError as error:  # how the client reports a failed upload
        if not isinstance(error.__cause__, (OSError, httpx.HTTPError)):
            raise
        raise _our_error(error.__cause__, what, api, repo_id) from error


def _our_error(error: BaseException, what: str, api: HfApi, repo_id: str) -> HubError:
    from huggingface_hub import errors as theirs
    from huggingface_hub.utils import httpx

    while isinstance(error, (theirs.LocalEntryNotFoundError, ValueError)) and isinstance(error.__cause__, Exception):
        if isinstance(error, theirs.HfHubHTTPError):
            break
        error = error.__cause__
    here = "" if Path(repo_id).exists() else " There is no folder of that name either."
    if isinstance(error, theirs.GatedRepoError):
        return HubGatedError(
            f"{what} is gated: ask for access on {api.endpoint}/{repo_id}, then log in with `hf auth login` or pass "
            "`token=`."
        )
    if isinstance(error, theirs.RepositoryNotFoundError):
        return HubNotFoundError(
            f"{what} is not on the Hub, or private.{here} Check the name; if it is private, log in with `hf auth "
            "login` or pass `token=`."
        )
    if isinstance(error, theirs.RevisionNotFoundError):
        return HubRevisionError(f"{what} does not exist: no such branch, tag or commit.{_refs(api, repo_id)}")
    if isinstance(error, theirs.RemoteEntryNotFoundError):
        return HubFileError(f"{what} has lost a file while it was being loaded: {_brief(error)}. Load it again.")
    if isinstance(error, theirs.LocalTokenNotFoundError):
        return HubTokenError(f"{what} needs a token, and none is stored. Log in with `hf auth login` or pass `token=`.")
    if isinstance(error, theirs.HfHubHTTPError) and error.response is not None:
        status = error.response.status_code
        if status in (401, 403):
            message = error.response.headers.get("X-Error-Message") or _brief(error)
            why = "the token is not valid" if status == 401 else "the token lacks the right"
            return HubTokenError(f"{what} was refused ({status}): {why} ({message}). Get one with `hf auth login`.")
        return HubServerError(f"{what}: the Hub answered {status} ({_brief(error)}). Try again later.")
    if isinstance(error, theirs.OfflineModeIsEnabled):
        return HubOfflineError(f"{what} is not in the cache, and HF_HUB_OFFLINE is set.")
    if isinstance(error, httpx.HTTPError):
        return HubOfflineError(
            f"{what}: the connection to {api.endpoint} failed ({type(error).__name__}: {_brief(error)}). Check the "
            "network and try again; nothing half downloaded is used."
        )
    return HubServerError(f"{what}: {_brief(error)}")


def _brief(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:300].rstrip(".") or type(error).__name__


def _refs(api: HfApi, repo_id: str) -> str:
    try:
        refs = api.list_repo_refs(repo_id)
    except Exception:  # the list is a courtesy
        return ""
    return f" Branches: {listed(ref.name for ref in refs.branches)}. Tags: {listed(ref.name for ref in refs.tags)}."

"""Talking to the Hub: one way to call it, one way to write to it.

Every read goes through `call` (retries what is worth retrying, turns what is left into one clear sentence) and every
write through `commit`: one `HfApi.create_commit` on a known parent, rebuilt when somebody else was faster.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from json import JSONDecodeError
from pathlib import Path
from typing import Literal, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, is_offline_mode
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from hubinit.errors import HubError, first_line
from hubinit.secrets import MASK, mask

RepoType = Literal["model", "dataset", "space"]
Operation = CommitOperationAdd | CommitOperationDelete
T = TypeVar("T")

# huggingface_hub < 2 speaks httpx, later versions httpx2: both derive HfHubHTTPError from their library's HTTPError.
_TRANSPORT_ERROR: type[Exception] = next(c for c in HfHubHTTPError.__mro__ if c.__name__ == "HTTPError")
# JSONDecodeError: a proxy's error page where the client expected the Hub's answer.
HUB_ERRORS: tuple[type[Exception], ...] = (OSError, _TRANSPORT_ERROR, HFValidationError, JSONDecodeError)

DATA_ERRORS: tuple[type[Exception], ...] = (*HUB_ERRORS, ValueError)  # what loading a data set may raise

TRIES = 5  # of one call that fails for a reason that may pass
PATIENCE = 30.0  # seconds after which a call is not tried again (huggingface_hub itself retries some requests for 23 s)
CONFLICT_SECONDS = 300.0  # how long a commit keeps rebasing on the commits of others
MAX_WAIT = 120.0  # longest wait a Retry-After header can ask for


@dataclass(frozen=True)
class Commit:
    """A commit that is on the Hub."""

    oid: str
    url: str
    pull_request: str | None = None


def call(action: str, function: Callable[[], T], *, api: HfApi) -> T:
    """Calls the Hub; `function` must be safe to repeat.

    Args:
        action: what is being done, as in "Cannot {action}: …".
        function: the call itself.
        api: whose endpoint and token the message may speak of (the token is never shown).

    Raises:
        HubError: it failed for good, or kept failing.
    """
    retrying = Retrying(
        retry=retry_if_exception(is_transient),
        wait=_wait,
        stop=stop_after_attempt(TRIES) | stop_after_delay(PATIENCE),
        reraise=True,
    )
    try:
        return retrying(function)
    except HUB_ERRORS as error:
        raise explain(error, action, api) from error


def commit(
    api: HfApi,
    repo_id: str,
    repo_type: RepoType,
    build: Callable[[str | None], list[Operation]],
    *,
    message: str,
    create_pr: bool = False,
) -> Commit | None:
    """Writes one atomic commit; the only way hubinit writes to a Hub.

    Where hf_xet is installed but the Hub has no Xet storage, the files go the plain way from the second try on.
    A response lost after the Hub had committed is harmless: the next try builds on the new head, finds every file as
    wanted, and stops there.

    Args:
        api: client with a token that may write.
        repo_id: an existing repo.
        repo_type: its type.
        build: parent sha ─► operations. Called again, with the new parent, whenever the commit has to be retried, so it
            must return fresh operations and depend on nothing but the repo's content at that parent.
        message: title of the commit.
        create_pr: propose it as a pull request. Then `message` must name the content, because an open pull request of
            the same user and title is taken to be this one, left by an interrupted attempt.

    Returns:
        The commit, or None when the repo already has this content.

    Raises:
        HubError: the Hub refuses, cannot be reached, or others kept changing the repo.
    """
    sent = False  # whether an earlier attempt may have reached the Hub
    failures = 0

    def attempt() -> Commit | None:
        nonlocal sent
        if create_pr and (url := _open_pull_request(api, repo_id, repo_type, message)):
            return Commit(oid="", url=url, pull_request=url)
        parent = api.repo_info(repo_id, repo_type=repo_type).sha
        operations = build(parent)
        if operations:
            before, sent = sent, True
            try:
                info = api.create_commit(
                    repo_id,
                    operations,
                    commit_message=message,
                    repo_type=repo_type,
                    parent_commit=parent,
                    create_pr=create_pr,
                )
            except ConnectionError as error:
                if _has_no_xet(error):
                    constants.HF_HUB_DISABLE_XET = (
                        True  # the client reads it for each upload: the next try is plain LFS
                    )
                raise
            if info.oid != parent or before:
                return Commit(oid=info.oid, url=info.commit_url, pull_request=info.pr_url)
        return None

    def give_up(state: RetryCallState) -> bool:
        nonlocal failures
        if _conflicts(_error(state)):
            return (state.seconds_since_start or 0.0) > CONFLICT_SECONDS
        failures += 1
        return failures >= TRIES

    retrying = Retrying(
        retry=retry_if_exception(lambda error: is_transient(error) or _conflicts(error)),
        wait=_wait,
        stop=give_up,
        reraise=True,
    )
    try:
        return retrying(attempt)
    except HUB_ERRORS as error:
        raise explain(error, f"write to {repo_id}", api) from error
    except ValueError as error:  # the client's own check of the card
        raise HubError(f"Cannot write to {repo_id}: {redact(first_line(error), api)}.") from error


def read_file(
    api: HfApi, repo_id: str, path: str, *, repo_type: RepoType = "model", revision: str | None = None
) -> bytes | None:
    """The content of one file on the Hub, or None when the repo has no such file.

    Raises:
        HubError: the repo cannot be read.
    """

    def read() -> bytes | None:
        try:
            local = api.hf_hub_download(repo_id, path, repo_type=repo_type, revision=revision)
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError):  # not in the cache, and the Hub was not reached
                raise
            return None
        return Path(local).read_bytes()

    return call(f"read {path} of {repo_id}", read, api=api)


def ensure_repo(api: HfApi, repo_id: str, repo_type: RepoType) -> None:
    """Makes sure the repo is there. A new one is private until its first commit is complete (see `show`).

    Raises:
        HubError: it is not there and this token may not create it.
    """
    call(
        f"create {repo_id}",
        lambda: api.create_repo(repo_id, repo_type=repo_type, private=True, exist_ok=True),
        api=api,
    )


def show(api: HfApi, repo_id: str, repo_type: RepoType) -> None:
    """Makes a repo public. Done last, so that nobody ever sees a repo without its files.

    Raises:
        HubError: this token may not change it.
    """

    def publish() -> None:
        if api.repo_info(repo_id, repo_type=repo_type).private:
            api.update_repo_settings(repo_id, repo_type=repo_type, private=False)

    call(f"make {repo_id} public", publish, api=api)


def commit_sha(repo_id: str, repo_type: RepoType, revision: str | None = None) -> tuple[str, str]:
    """The commit that a revision (default: main) names, and the repo's declared pipeline ("" when it has none).

    Without a network the newest copy in the cache stands for it.

    Raises:
        HubError: no such repo or revision, no access, or no Hub and no copy in the cache.
    """
    api = HfApi()
    if is_offline_mode():
        if (sha := cached_sha(repo_id, repo_type, revision)) is None:
            raise HubError(f"{repo_id} is not in the cache, and HF_HUB_OFFLINE forbids to ask {api.endpoint}.")
        return sha, ""
    try:
        info = call(f"find {repo_id}", lambda: api.repo_info(repo_id, repo_type=repo_type, revision=revision), api=api)
    except HubError as error:
        if is_transient(error.__cause__) and (sha := cached_sha(repo_id, repo_type, revision)) is not None:
            return sha, ""
        raise
    if info.sha is None:
        raise HubError(f"{repo_id} on {api.endpoint} has no commits.")
    return info.sha, getattr(info, "pipeline_tag", None) or ""


def cached_sha(repo_id: str, repo_type: RepoType, revision: str | None) -> str | None:
    """The commit of the copy in the local cache, if there is one (the newest, unless `revision` asks for another)."""
    folder = Path(constants.HF_HUB_CACHE) / f"{repo_type}s--{repo_id.replace('/', '--')}"
    reference = folder / "refs" / (revision or "main")
    if reference.is_file():
        return reference.read_text(encoding="utf-8").strip()
    snapshots = sorted(folder.glob("snapshots/*"), key=lambda path: path.stat().st_mtime)
    names = [path.name for path in snapshots if revision is None or path.name == revision]
    return names[-1] if names else None


def is_transient(error: BaseException | None) -> bool:
    """Whether the same request may succeed a moment later: 408, 429, 5xx, or a connection that broke."""
    if isinstance(error, LocalEntryNotFoundError):  # a download that could not even ask the Hub
        return is_transient(error.__cause__)
    if isinstance(error, OfflineModeIsEnabled):  # a ConnectionError, but nothing will change it
        return False
    if (status := _status(error)) is not None:
        return status in (408, 429) or status >= 500
    if type(error) is OSError and "Consistency check failed" in str(error):  # a download that ended too early
        return True
    return isinstance(error, (ConnectionError, TimeoutError, JSONDecodeError)) or (
        isinstance(error, _TRANSPORT_ERROR) and not isinstance(error, HfHubHTTPError)
    )


def explain(error: BaseException, action: str, api: HfApi) -> HubError:
    """Turns an error of the Hub client into the one sentence that a user gets."""
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        return explain(error.__cause__, action, api)
    status = _status(error)
    if isinstance(error, GatedRepoError):
        reason = "access to it is gated; ask for access on its page, then log in with `hf auth login`"
    elif isinstance(error, RepositoryNotFoundError):
        reason = (
            f"it is not on {api.endpoint} or this token may not see it; check the name, or log in with `hf auth login`"
        )
    elif isinstance(error, RevisionNotFoundError):
        reason = "it has no such revision"
    elif isinstance(error, EntryNotFoundError):
        reason = "it has no such file"
    elif status == 401:
        reason = "the token is missing or not valid; log in with `hf auth login` or set HF_TOKEN"
    elif status == 403:
        reason = (
            "this token may not do that; use one with write access to that namespace, or propose it with --create-pr"
        )
    elif status in (409, 412):
        reason = "others kept changing it at the same time; run the same command again"
    elif status is not None:
        reason = f"the Hub answered {status} ({first_line(error)}); run the same command again later"
    elif isinstance(error, HFValidationError):
        reason = f"the name is not valid ({first_line(error)})"
    elif isinstance(error, OfflineModeIsEnabled):
        reason = "it is not in the cache, and offline mode (--hub offline or HF_HUB_OFFLINE) forbids to ask the Hub"
    elif is_transient(error):
        reason = (
            f"the Hub at {api.endpoint} could not be reached ({type(error).__name__}); check the network or "
            "HF_ENDPOINT and run the same command again"
        )
    else:
        reason = first_line(error)
    return HubError(redact(f"Cannot {action}: {reason}.", api))


def known_tokens(api: HfApi | None = None) -> set[str]:
    """The tokens this process holds; they must never be shown or written."""
    tokens = {os.environ.get("HF_TOKEN"), os.environ.get("HUGGING_FACE_HUB_TOKEN"), api.token if api else None}
    return {token for token in tokens if isinstance(token, str) and token}


def redact(text: str, api: HfApi | None = None) -> str:
    """`text` without anything that is, or looks like, a token."""
    for token in known_tokens(api):
        text = text.replace(token, MASK)
    return mask(text)


def _open_pull_request(api: HfApi, repo_id: str, repo_type: RepoType, title: str) -> str | None:
    """The URL of this user's open pull request with this title, if there is one."""
    me = api.whoami()["name"]
    found = api.get_repo_discussions(
        repo_id, repo_type=repo_type, author=me, discussion_type="pull_request", discussion_status="open"
    )
    return next((pr.url for pr in found if pr.title == title and pr.author == me), None)


def _status(error: BaseException | None) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _has_no_xet(error: ConnectionError) -> bool:
    """Whether an upload failed because the Hub has no Xet storage; with hf_xet installed the client takes it for granted."""
    return "xet-write-token" in str(error) and "404" in str(error)


def _conflicts(error: BaseException | None) -> bool:
    return _status(error) in (409, 412)


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _wait(state: RetryCallState) -> float:
    """Seconds before the next try: what the Hub asks for, else random and growing (shorter after a mere conflict)."""
    error = _error(state)
    if (asked := _retry_after(error)) is not None:
        return min(asked, MAX_WAIT)
    multiplier, longest = (0.05, 2.0) if _conflicts(error) else (0.5, 8.0)
    return wait_random_exponential(multiplier=multiplier, max=longest)(state)


def _retry_after(error: BaseException | None) -> float | None:
    """Seconds asked for by a Retry-After header, given as a number or as a date."""
    value = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None

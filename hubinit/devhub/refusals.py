"""What the embedded Hub refuses: one error type that is a clear sentence for people and a status with a code for clients."""

from hubinit.errors import HubError


class Refusal(HubError):
    """A request that cannot be honoured.

    Attributes:
        status: the HTTP status.
        code: the value of `X-Error-Code`, from which huggingface_hub chooses its exception; empty when there is none.
        headers: further response headers.
    """

    def __init__(self, status: int, message: str, *, code: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers or {}


def bad_request(message: str) -> Refusal:
    """400: the request itself is wrong."""
    return Refusal(400, message)


def repo_not_found(repo_id: str, *, signed_in: bool = True) -> Refusal:
    """404 (401 to the anonymous): the repo does not exist, or the asker may not know of it."""
    return Refusal(404 if signed_in else 401, f"Repository {repo_id} was not found.", code="RepoNotFound")


def revision_not_found(revision: str) -> Refusal:
    """404: no branch, tag, pull request or commit has that name."""
    return Refusal(404, f"Invalid rev id: {revision}", code="RevisionNotFound")


def entry_not_found(path: str, commit: str | None = None) -> Refusal:
    """404: the commit does not hold such a file; naming the commit lets the client remember the absence."""
    headers = {"X-Repo-Commit": commit} if commit else None
    return Refusal(404, f"Entry not found: {path}", code="EntryNotFound", headers=headers)

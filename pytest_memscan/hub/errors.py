"""What went wrong with the Hub, in one line that never holds the token.

The library's own messages are several lines, and its exceptions carry the request with its
``Authorization`` header; so nothing of them is passed on but their kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from pytest_memscan.errors import CheckpointError, MemscanError, TrainDataError

_NOTHING = "nothing was scanned"


@dataclass(frozen=True, kw_only=True)
class RepoKind:
    """What differs between kinds of repositories.

    Attributes:
        noun: As people call one.
        page: What stands before its name in the address of its page.
        download: Its option of ``hf download``.
        local: What a local one of the same name would be; ends a sentence, may be empty.
        error: Raised when it cannot be used.
    """

    noun: str
    page: str
    download: str
    local: str
    error: type[MemscanError]

    def fetch_command(self, repo: str, revision: str) -> str:
        """What to type to put it into the local cache."""
        return f"`hf download {repo}{self.download} --revision {revision}`"


MODEL = RepoKind(
    noun="model",
    page="",
    download="",
    local=", and no folder of that name here",
    error=CheckpointError,
)
DATASET = RepoKind(
    noun="dataset",
    page="datasets/",
    download=" --repo-type dataset",
    local="",
    error=TrainDataError,
)


class NotCachedError(MemscanError):
    """A repository is not, or not completely, in the local Hub cache."""


def not_cached(kind: RepoKind, repo: str, revision: str, what: str) -> NotCachedError:
    """The error for a repository that offline mode cannot find."""
    return NotCachedError(
        f"{repo} at revision {revision} cannot be used offline: {what}; fetch it first with "
        f"{kind.fetch_command(repo, revision)}"
    )


def explain(error: Exception, kind: RepoKind, repo: str, revision: str) -> MemscanError:
    """The error, of `kind`, that says what a huggingface_hub exception means and what to do."""
    from huggingface_hub import errors

    cause = error.__cause__
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(cause, Exception):
        error = cause  # "not in the cache either" is not what the user needs to hear
    if isinstance(error, errors.GatedRepoError):
        return _gated(kind, repo)
    if isinstance(error, errors.RepositoryNotFoundError):
        return kind.error(
            f"no {kind.noun} {repo} on the Hub at {_endpoint()} (revision {revision}){kind.local}; "
            f"check the name, or, if the {kind.noun} is private, {_token_remedy()}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return kind.error(
            f"{kind.noun} {repo} has no revision {revision}; use a branch, tag or full commit hash "
            f"listed at {_page(kind, repo)}/commits/main"
        )
    if isinstance(error, errors.HfHubHTTPError):
        return _http_status(error.response.status_code, kind, repo, revision)
    if isinstance(error, errors.HFValidationError):
        return kind.error(f"{repo} is not a valid Hub id; expected ORG/NAME")
    return _without_an_answer(error, kind, repo, revision)


def _without_an_answer(error: Exception, kind: RepoKind, repo: str, revision: str) -> MemscanError:
    """The disk, the network, or something that this module does not know."""
    name = type(error).__name__
    is_network = isinstance(error, (ConnectionError, TimeoutError))
    if is_network or type(error).__module__.startswith("httpx"):  # httpx or httpx2, by version
        return kind.error(
            f"could not reach the Hub at {_endpoint()} for {repo} at revision {revision} "
            f"({name}); {_NOTHING}: check the connection, or prefetch the {kind.noun} and use "
            "--memscan-offline"
        )
    if isinstance(error, OSError) and error.strerror:
        return kind.error(
            f"{repo} at revision {revision} cannot be written to the Hub cache: "
            f"{error.strerror}; make room, or set HF_HOME to a folder that can be written"
        )
    return kind.error(
        f"huggingface_hub failed on {repo} at revision {revision} ({name}); {_NOTHING}: try "
        f"{kind.fetch_command(repo, revision)} to see its own message"
    )


def _gated(kind: RepoKind, repo: str) -> MemscanError:
    return kind.error(
        f"{kind.noun} {repo} is gated: accept its terms at {_page(kind, repo)}, then "
        f"{_token_remedy()}"
    )


def _http_status(status: int, kind: RepoKind, repo: str, revision: str) -> MemscanError:
    what = f"the Hub at {_endpoint()} answered {status} for {repo} at revision {revision}"
    if status in (401, 403):
        return kind.error(f"{what}; {_token_remedy()}")
    if status == 429:
        return kind.error(f"{what} (too many requests); {_NOTHING}: wait, or set HF_TOKEN")
    if status >= 500:
        return kind.error(f"{what}; {_NOTHING}: try again later")
    return kind.error(f"{what}; {_NOTHING}")


def _token_remedy() -> str:
    from huggingface_hub import get_token

    if get_token() is None:
        return "set HF_TOKEN to a token that has access (HF_TOKEN is missing)"
    return "use a token that has access (the one in HF_TOKEN or from `hf auth login` has not)"


def _page(kind: RepoKind, repo: str) -> str:
    return f"{_endpoint()}/{kind.page}{repo}"


def _endpoint() -> str:
    """The Hub's address, without a password that someone may have put into HF_ENDPOINT."""
    from huggingface_hub import constants

    parts = urlsplit(constants.ENDPOINT)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

"""What went wrong with the Hub, in one line that never holds the token.

The library's own messages are several lines, and its exceptions carry the request with its
``Authorization`` header; so nothing of them is passed on but their kind.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from pytest_memscan.errors import CheckpointError

_NOTHING = "nothing was scanned"


class NotCachedError(CheckpointError):
    """The checkpoint is not, or not completely, in the local Hub cache."""


def not_cached(repo: str, revision: str, what: str) -> NotCachedError:
    """The error for a checkpoint that offline mode cannot find."""
    return NotCachedError(
        f"{repo} at revision {revision} cannot be used offline: {what}; fetch it first with "
        f"`hf download {repo} --revision {revision}`"
    )


def explain(error: Exception, repo: str, revision: str) -> CheckpointError:
    """The `CheckpointError` that says what a huggingface_hub exception means and what to do."""
    from huggingface_hub import errors

    cause = error.__cause__
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(cause, Exception):
        error = cause  # "not in the cache either" is not what the user needs to hear
    if isinstance(error, errors.GatedRepoError):
        return _gated(repo)
    if isinstance(error, errors.RepositoryNotFoundError):
        return CheckpointError(
            f"no model {repo} on the Hub at {_endpoint()} (revision {revision}), and no folder of "
            f"that name here; check the name, or, if the model is private, {_token_remedy()}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return CheckpointError(
            f"model {repo} has no revision {revision}; use a branch, tag or full commit hash "
            f"listed at {_endpoint()}/{repo}/commits/main"
        )
    if isinstance(error, errors.HfHubHTTPError):
        return _http_status(error.response.status_code, repo, revision)
    if isinstance(error, errors.HFValidationError):
        return CheckpointError(f"{repo} is not a valid Hub id; expected ORG/NAME")
    return _without_an_answer(error, repo, revision)


def _without_an_answer(error: Exception, repo: str, revision: str) -> CheckpointError:
    """The disk, the network, or something that this module does not know."""
    kind = type(error).__name__
    is_network = isinstance(error, (ConnectionError, TimeoutError))
    if is_network or type(error).__module__.startswith("httpx"):  # httpx or httpx2, by version
        return CheckpointError(
            f"could not reach the Hub at {_endpoint()} for {repo} at revision {revision} "
            f"({kind}); {_NOTHING}: check the connection, or prefetch the model and use "
            "--memscan-offline"
        )
    if isinstance(error, OSError) and error.strerror:
        return CheckpointError(
            f"{repo} at revision {revision} cannot be written to the Hub cache: "
            f"{error.strerror}; make room, or set HF_HOME to a folder that can be written"
        )
    return CheckpointError(
        f"huggingface_hub failed on {repo} at revision {revision} ({kind}); {_NOTHING}: try "
        f"`hf download {repo} --revision {revision}` to see its own message"
    )


def _gated(repo: str) -> CheckpointError:
    return CheckpointError(
        f"model {repo} is gated: accept its terms at {_endpoint()}/{repo}, then {_token_remedy()}"
    )


def _http_status(status: int, repo: str, revision: str) -> CheckpointError:
    what = f"the Hub at {_endpoint()} answered {status} for {repo} at revision {revision}"
    if status in (401, 403):
        return CheckpointError(f"{what}; {_token_remedy()}")
    if status == 429:
        return CheckpointError(f"{what} (too many requests); {_NOTHING}: wait, or set HF_TOKEN")
    if status >= 500:
        return CheckpointError(f"{what}; {_NOTHING}: try again later")
    return CheckpointError(f"{what}; {_NOTHING}")


def _token_remedy() -> str:
    from huggingface_hub import get_token

    if get_token() is None:
        return "set HF_TOKEN to a token that has access (HF_TOKEN is missing)"
    return "use a token that has access (the one in HF_TOKEN or from `hf auth login` has not)"


def _endpoint() -> str:
    """The Hub's address, without a password that someone may have put into HF_ENDPOINT."""
    from huggingface_hub import constants

    parts = urlsplit(constants.ENDPOINT)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

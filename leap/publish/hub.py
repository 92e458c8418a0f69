"""Upload a folder to the Hub in one commit, after checking the login. No token leaves huggingface_hub."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.utils import validate_repo_id

from leap.errors import UsageError, first_line

OF_THE_HUB = ".gitattributes"  # the Hub makes it with a repository, and keeps its large files by it


def check_push(repository: str, argument: str) -> None:
    """Reject an upload that cannot succeed before time is spent on the folder.

    Args:
        repository: OWNER/NAME.
        argument: the option to name in an error.

    Raises:
        UsageError: it is not of that form, the Hub cannot be reached, or there is no login with write access.
    """
    check_name(repository, argument)
    remedy = "run `hf auth login` or set HF_TOKEN"
    try:
        user = HfApi().whoami()
    except Exception as error:
        # Any: which library's errors of HTTP come through differs between versions of huggingface_hub.
        raise UsageError(f"{argument}: not logged in to the Hub: {remedy} ({_reason(error)})") from error
    if _role(user) == "read":
        raise UsageError(f"{argument}: this login may only read: {remedy}, with a token that may write")


def check_name(repository: str, argument: str) -> None:
    """Raise a UsageError unless `repository` is OWNER/NAME."""
    try:
        validate_repo_id(repository)
        well_formed = repository.count("/") == 1  # which the Hub's own check lets go, for names of old
    except ValueError:
        well_formed = False
    if not well_formed:
        raise UsageError(f"{argument}: {repository!r} is not a name on the Hub: give OWNER/NAME")


def push(
    folder: Path,
    repository: str,
    argument: str,
    *,
    remedy: str | None = None,
    message: str = "LEAP model",
    exact: bool = False,
) -> CommitInfo:
    """Upload the folder to a repository of the Hub in one commit, made where there is none.

    Args:
        folder: all of its files are uploaded.
        repository: OWNER/NAME.
        argument: the option to name in an error.
        remedy: what to do where it fails, for the error; None: upload the folder by hand.
        message: of the commit.
        exact: the same commit takes away what the repository has and the folder has not; and it is refused
            where somebody else commits meanwhile. Else such files stay there.

    Returns:
        The commit, with `commit_url` and `oid`; the one before where there is nothing new.

    Raises:
        UsageError: it cannot be uploaded; the folder is as it was, and the repository has no part of it. (Or
            all of it, where the connection broke before the answer: the Hub takes a commit whole or not.)
    """
    api = HfApi()
    # Not upload_folder: from huggingface_hub 2 on it may spread a folder over several commits.
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    steps: list[Any] = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]
    try:
        api.create_repo(repository, exist_ok=True)
        parent = None
        if exact:
            there = api.model_info(repository)
            parent = there.sha
            names = {step.path_in_repo for step in steps}
            steps += _deletions(names, [file.rfilename for file in there.siblings or ()])
        return api.create_commit(repository, steps, commit_message=message, parent_commit=parent)
    except Exception as error:  # as in `check_push`
        by_hand = f"the model is whole in {folder}, try again by `hf upload {repository} {folder}`"
        raise UsageError(
            f"{argument}: cannot upload to {repository!r} ({_reason(error)}): {remedy or by_hand}"
        ) from error


def _deletions(names: set[str], there: list[str]) -> Iterator[CommitOperationDelete]:
    for name in there:
        if name not in names and name != OF_THE_HUB:
            yield CommitOperationDelete(name)


def _role(user: dict[str, Any]) -> str | None:
    """What the token of a `whoami` may do, where the Hub says so: "read", "write" or "fineGrained"."""
    return ((user.get("auth") or {}).get("accessToken") or {}).get("role")


def _reason(error: Exception) -> str:
    """The first sentence of an error's message, without the token that a library might quote in it."""
    reason = first_line(error).split(". ")[0].rstrip(".")
    token = get_token()
    return reason.replace(token, "...") if token else reason

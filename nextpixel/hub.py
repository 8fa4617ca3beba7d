"""To and from the Hugging Face hub: a model's folder in one commit, and a repository as a folder. All errors are one line.

Set HF_ENDPOINT for another server than huggingface.co, HF_TOKEN (or `hf auth login`) for who you are.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nextpixel.errors import InputError, shown

ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
LONGEST_CONFIG = 2**18  # bytes of the configuration of a model of ours


def is_id(text: str) -> bool:
    """Whether a text has the form of a repository, owner/name.

    Example:
        >>> is_id("mia/mnist-class"), is_id("./mnist"), is_id("runs/a/model")
        (True, False, False)
    """
    return ID.fullmatch(text) is not None


def fetch(
    repo: str,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """The folder of a repository's model in the cache, downloaded where it is not there yet; without network, what is there.

    The configuration comes first: a repository that is no model of nextpixel costs a few kilobytes, however large it is.

    Args:
        repo: owner/name.
        revision: a branch, a tag or a commit; by default the newest commit of `main`.
        token: who asks, by default HF_TOKEN or what `hf auth login` has stored; False asks without one.
        cache_dir: by default that of huggingface_hub.
        force_download: download again what is in the cache.
        local_files_only: ask no server.

    Raises:
        InputError: no such repository or revision, no access, no network, or no model of nextpixel in it.
    """
    from huggingface_hub import snapshot_download

    options: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    options["force_download"] = force_download
    at = "" if revision is None else f" at {shown(revision)}"
    with _one_line(f"{shown(repo)}{at} is no folder here and could not be fetched from the hub", repo, revision):
        found = Path(snapshot_download(repo, revision=revision, allow_patterns=[CONFIG], **options))
        _require_ours(found / CONFIG, f"{shown(repo)}{at} on the hub")
        # By its commit, which is the name of the folder: the branch may have moved since.
        commit = found.name if re.fullmatch(r"[0-9a-f]{40}", found.name) else revision
        folder = Path(snapshot_download(repo, revision=commit, allow_patterns=[CONFIG, WEIGHTS, CARD], **options))
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{shown(repo)}{at} on the hub holds no model of nextpixel: it has {CONFIG}, but no {WEIGHTS}")
    return folder


def push(
    files: dict[str, bytes | Path],
    repo: str,
    message: str,
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    create_pr: bool = False,
) -> str:
    """Put files into a repository in one commit; the repository and the branch are made where they do not exist. Its URL.

    Args:
        files: contents or files, by their names in the repository.
        repo: owner/name, or the name of one of your own.
        message: of the commit.
        private: whether a new repository is private; by default as your account has it. One that exists stays as it is.
        revision: a branch.
        token: as in `fetch`.
        create_pr: open a pull request instead.

    Raises:
        InputError: a wrong token or none, no right to write there, no network, or the hub refuses the files.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=token)
    with _one_line(f"cannot push to {shown(repo)}", repo, revision):
        made = api.create_repo(repo, private=private, exist_ok=True).repo_id
        if revision is not None and not create_pr:
            api.create_branch(made, branch=revision, exist_ok=True)
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        commit = api.create_commit(made, operations, commit_message=message, revision=revision, create_pr=create_pr)
    return str(commit.pr_url or commit.commit_url)


def read_folder(folder: Path, names: Sequence[str] = (CONFIG, WEIGHTS, CARD)) -> dict[str, bytes | Path]:
    """The files of a model's folder, as `push` takes them."""
    return {name: folder / name for name in names}


def _require_ours(path: Path, where: str) -> None:
    """Raise InputError unless a file is the configuration of a model of nextpixel."""
    wanted = f'expected {CONFIG} with "model", as save and push write it'
    if not path.is_file():
        raise InputError(f"{where} holds no model of nextpixel: it has no {CONFIG}")
    try:
        config = json.loads(path.read_bytes()) if path.stat().st_size <= LONGEST_CONFIG else None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict) or not isinstance(config.get("model"), str):
        raise InputError(f"{where} holds no model of nextpixel: {wanted}")


@contextmanager
def _one_line(what: str, repo: str, revision: str | None) -> Iterator[None]:
    """Turn whatever huggingface_hub raises into an InputError of one line, which says what to do."""
    from huggingface_hub.errors import HFValidationError

    try:
        yield
    except InputError:
        raise
    except HFValidationError as error:
        raise InputError(f"{what}: {shown(repo)} is no repository, expected owner/name") from error
    except Exception as error:  # errors of the http library too, which is another one in each major version
        if (why := _why(error, repo, revision)) is None:
            raise
        raise InputError(f"{what}: {why}") from error


def _why(error: BaseException, repo: str, revision: str | None) -> str | None:
    """Why a call of the hub has failed, in one line; None for what is a mistake of the library."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    server = constants.ENDPOINT
    for cause in _causes(error):
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(cause, GatedRepoError):
            return f"access to it must be asked for at {server}/{shown(repo)}"
        if isinstance(cause, RepositoryNotFoundError):
            return f"{server} has no such repository, or it is private and HF_TOKEN gives no access to it"
        if isinstance(cause, RevisionNotFoundError):
            return f"it has no revision {shown(revision)}"
        if isinstance(cause, LocalTokenNotFoundError):
            return "no token: set HF_TOKEN, or log in with hf auth login"
        if isinstance(cause, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set, and it is not in the cache"
        if status == 401:
            return f"{server} refuses the token: set HF_TOKEN to one that is valid, or log in with hf auth login"
        if status == 403:
            return f"the token has no right to do so: {_first_words(cause)}"
        if isinstance(cause, HfHubHTTPError):
            return f"{server} answers {status}: {_first_words(cause)}"
        if type(cause).__name__ in ("ConnectError", "ConnectTimeout", "ReadTimeout", "ReadError", "ProxyError") or isinstance(
            cause, ConnectionError
        ):
            return f"no connection to {server}"
    if isinstance(error, LocalEntryNotFoundError):
        return "it is not in the cache, and no server was asked"
    if isinstance(error, OSError | ValueError | RuntimeError):
        return _first_words(error)
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what has caused it."""
    while error is not None:
        yield error
        error = error.__cause__


def _first_words(error: BaseException) -> str:
    message = getattr(error, "server_message", None) or str(error)
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return shown(lines[0] if lines else type(error).__name__)

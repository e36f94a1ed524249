"""Models as people share them: a folder, or a repository of the Hugging Face Hub, with everything that others need."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zsml.errors import InputError
from zsml.files import write_atomic
from zsml.models.card import card_text, read_evaluation
from zsml.models.io import CONFIG, WEIGHTS, load_model, save_model
from zsml.models.model import EmbeddingModel

README = "README.md"
FILES = (WEIGHTS, CONFIG, README)
HTTP = ("httpx", "httpx2", "requests")  # whose errors huggingface_hub lets through, by its version
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def save_pretrained(
    model: EmbeddingModel,
    folder: str | os.PathLike[str],
    report: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
) -> list[Path]:
    """What `EmbeddingModel.save_pretrained` does; `name` is what the card calls the folder. Returns the files written."""
    folder = Path(folder)
    if report is not None:
        model.card = {**(model.card or {}), "evaluation": read_evaluation(Path(report), model)}
    save_model(model, folder)
    try:
        write_atomic(folder / README, card_text(model, name or str(folder)).encode())
    except OSError as error:
        raise InputError(f"folder {folder} cannot be written ({error}); make room or choose another one") from error
    return [folder / file for file in FILES]


def from_pretrained(name: str | os.PathLike[str], *, download: bool = False, revision: str | None = None) -> EmbeddingModel:
    """What `EmbeddingModel.from_pretrained` does."""
    path = Path(name)
    if path.exists() or not REPOSITORY.fullmatch(str(name)):
        if revision is not None:
            raise InputError(f"revision={revision!r} has no meaning for a folder; {path} is one")
        return load_model(path)
    return load_model(_fetch(str(name), download, revision))


def push_to_hub(
    model: EmbeddingModel, repository: str, report: str | os.PathLike[str] | None = None, *, private: bool = True
) -> str:
    """What `EmbeddingModel.push_to_hub` does."""
    from huggingface_hub import HfApi

    _check_repository(repository)
    api = HfApi(library_name="zsml")
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder, report, name=repository)  # before anything is made over there
        with _hub_errors(f"repository {repository!r} cannot be written (`hf auth login` first?)"):
            api.create_repo(repository, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Model of zsml")
    return str(commit.commit_url)


def _fetch(repository: str, download: bool, revision: str | None) -> Path:
    from huggingface_hub import HfApi

    wanted: dict[str, Any] = {"revision": revision, "allow_patterns": list(FILES)}
    how = "cannot be downloaded" if download else "is no folder, and was not downloaded before (download=True fetches it)"
    with _hub_errors(f"model {repository!r} {how}"):
        return Path(HfApi(library_name="zsml").snapshot_download(repository, local_files_only=not download, **wanted))


def _check_repository(repository: str) -> None:
    if not isinstance(repository, str):
        raise TypeError(f"repository must be a str, got {type(repository).__name__}")
    if not REPOSITORY.fullmatch(repository):
        raise InputError(f"repository must be of the form owner/name, got {repository!r}")


@contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    """Say what could not be done where the Hub or the way to it is at fault."""
    try:
        yield
    except Exception as error:
        of_the_network = type(error).__module__.partition(".")[0] in ("huggingface_hub", *HTTP)
        if not of_the_network and not isinstance(error, OSError):
            raise
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{what}: {first_line}") from error

"""Files from the network, kept in a folder and trusted only when their checksum is the recorded one.

Start at `local`. A file that is there with the right checksum is not downloaded again, so a file brought by other means
serves as well; one with another checksum is replaced.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from poplin._errors import InputError

FOLDER = "POPLIN_DATASETS"  # the variable of the environment that says where files are kept
TIMEOUT = 30.0  # seconds without an answer


class Remote(NamedTuple):
    """A file on the network: its address, the SHA-256 of its content, where it lies in the folder."""

    address: str
    sha256: str
    place: str


def folder_of_files() -> Path:
    """Where files are kept: $POPLIN_DATASETS, else `poplin/datasets` in the user's folder for caches."""
    import pooch

    return Path(os.environ.get(FOLDER) or Path(pooch.os_cache("poplin")) / "datasets")


def local(remote: Remote, folder: Path | None = None) -> Path:
    """The file on this machine, downloaded if it is not there yet.

    Raises `InputError` when there is no network, when the file is gone, when what comes is not the file that was
    recorded (nothing of it is kept), or when the folder cannot be written.
    """
    import pooch

    place = (folder or folder_of_files()) / remote.place
    ask: Any = pooch.HTTPDownloader(timeout=TIMEOUT)
    try:
        pooch.retrieve(
            remote.address, f"sha256:{remote.sha256}", fname=place.name, path=place.parent, downloader=ask
        )
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise InputError(
            f"{place.name} cannot be kept in {place.parent}: {_line(error)}. Name another folder, here or in the "
            f"environment as {FOLDER}."
        ) from error
    except OSError as error:  # what `requests` raises is one of these
        raise InputError(
            f"{place.name} could not be downloaded from {remote.address}: {_line(error)}. Check the connection and try "
            f"again, or bring the file by other means to {place}."
        ) from error
    except ValueError as error:
        raise InputError(
            f"What came from {remote.address} is not the file that is recorded: its SHA-256 is not {remote.sha256}. "
            "Nothing of it was kept. Try again; if it differs again it was changed at its source, and a trusted copy "
            f"has to be brought to {place}."
        ) from error
    return place


def _line(error: BaseException) -> str:
    """The cause in one short line."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return text if len(text) <= 160 else f"{text[:159]}…"

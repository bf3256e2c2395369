# SPDX-License-Identifier: Apache-2.0
"""An output folder that appears when it is complete, or not at all."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from os import W_OK, access
from pathlib import Path
from secrets import token_hex

from sparsec.compiler.errors import ArtifactError

_ANY_WRITE = 0o222


def check_output(folder: Path, may_replace: Callable[[Path], None]) -> None:
    """Refuse an output folder that could not be written in the end; changes nothing.

    Args:
        folder: Where the output is to stand.
        may_replace: Called with a folder that exists and is not empty; raises if it must stay.

    Raises:
        ArtifactError: If something else stands there, or it or its parent is read-only.
    """
    folder = folder.resolve()
    for place in (folder, next(parent for parent in folder.parents if parent.exists())):
        if place.exists() and not place.is_dir():
            raise ArtifactError(_message(folder, f"'{place}' is no folder", "Choose another"))
        if place.exists() and not (access(place, W_OK) and place.stat().st_mode & _ANY_WRITE):
            raise ArtifactError(_message(folder, f"'{place}' is read-only", "Make it writable, or choose another"))
    if folder.is_dir() and any(folder.iterdir()):
        may_replace(folder)


@contextmanager
def staged(folder: Path, may_replace: Callable[[Path], None]) -> Iterator[Path]:
    """Fill a temporary folder beside `folder`; it takes that name when the block ends well, else nothing remains.

    Args:
        folder: As for `check_output`, which is called first.
        may_replace: As for `check_output`.

    Yields:
        The temporary folder, empty.

    Raises:
        ArtifactError: As `check_output`, or if the disk is full or writing fails.
    """
    check_output(folder, may_replace)
    folder = folder.resolve()
    created: list[Path] = []
    try:
        _make_parents(folder.parent, created)
        staging = folder.with_name(f".{folder.name}.{token_hex(4)}.tmp")
        created.append(staging)
        staging.mkdir()
        yield staging
        _replace(staging, folder)
    except BaseException as error:
        _remove(created)
        if isinstance(error, OSError):
            found = f"writing failed: {error.strerror or error}"
            raise ArtifactError(_message(folder, found, "Free space, or choose another")) from error
        raise


def _message(folder: Path, found: str, remedy: str) -> str:
    return f"Output folder '{folder}': {found}. {remedy} with -o."


def _make_parents(parent: Path, created: list[Path]) -> None:
    if not parent.exists():
        _make_parents(parent.parent, created)
        created.append(parent)
        parent.mkdir()


def _replace(staging: Path, folder: Path) -> None:
    """Give `staging` the name of `folder`; what stood there goes last, and comes back if that fails."""
    if not folder.exists():
        staging.rename(folder)
        return
    old = staging.with_suffix(".old")
    folder.rename(old)
    try:
        staging.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _remove(created: list[Path]) -> None:
    """Remove the staging folder with all in it, then the parents that were made for it."""
    for path in reversed(created):
        if path.name.endswith(".tmp"):
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.rmdir()

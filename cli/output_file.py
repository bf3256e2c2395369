# SPDX-License-Identifier: Apache-2.0
"""An output file that appears when it is complete, or not at all."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from sparsec.compiler.errors import ArtifactError


def write_file(path: Path, write: Callable[[BinaryIO], object], keep: Path | None = None) -> None:
    """Fill a temporary file beside `path`, then give it that name; what stood there is replaced.

    Args:
        path: Where the output is to stand.
        write: Fills the open file.
        keep: A file that must not be replaced: the one that was read.

    Raises:
        ArtifactError: If a folder or `keep` stands there, or writing fails.
    """
    check_file(path, keep)
    staging = path.with_name(f".{path.name[:200]}.{token_hex(4)}.tmp")
    try:
        with staging.open("xb") as stream:
            write(stream)
        staging.replace(path)
    except BaseException as error:
        with suppress(OSError):
            staging.unlink()
        if isinstance(error, OSError):
            msg = f"Output file '{path}': writing failed: {error.strerror or error}. Free space, or choose another."
            raise ArtifactError(msg) from error
        raise


def check_file(path: Path, keep: Path | None = None) -> None:
    """Check before long work that a file can stand at `path`.

    Args:
        path: Where the output is to stand.
        keep: A file that must not be replaced.

    Raises:
        ArtifactError: If a folder or `keep` stands there, or its folder does not exist.
    """
    same = keep is not None and path.exists() and keep.exists() and path.samefile(keep)
    found = "is a folder" if path.is_dir() else "is the input itself" if same else ""
    if not path.parent.is_dir():
        found = f"is in '{path.parent}', which is no folder"
    if found:
        msg = f"Output file '{path}' {found}. Choose another file."
        raise ArtifactError(msg)

# SPDX-License-Identifier: Apache-2.0
"""Files of results: whether one can be written is known before the measurement, and it is written as a whole or not at all."""

import contextlib
import os
import shutil


def _is_special(path: str) -> bool:
    """A device or a pipe, which is written where it is."""
    return os.path.exists(path) and not os.path.isfile(path)


def why_not_written(path: str) -> str | None:
    """Why no file can be written there; None if one can. Changes no file and leaves none behind."""
    target = os.path.realpath(path)
    if _is_special(target) and not os.path.isdir(target):  # The reader of a pipe would take a first close for its end.
        return None if os.access(target, os.W_OK) else "it may not be written"
    is_new = not os.path.exists(target)
    try:
        with open(target, "ab"):
            pass
    except OSError as error:
        return error.strerror or str(error)
    if is_new:
        os.remove(target)
    return None


def write_whole(path: str, content: bytes) -> None:
    """Writes beside the file and renames, so that an older file stays until the new one is whole. Raises OSError."""
    target = os.path.realpath(path)
    part = f"{target}.part{os.getpid()}"
    if _is_special(target) or not os.access(os.path.dirname(target), os.W_OK):
        part = target
    try:
        with open(part, "wb" if part == target else "xb") as file:
            file.write(content)
        if part != target:
            if os.path.exists(target):
                shutil.copymode(target, part)
            os.replace(part, target)
    except OSError as error:
        if part != target:
            with contextlib.suppress(OSError):
                os.remove(part)
        raise OSError(error.errno, error.strerror, path) from error

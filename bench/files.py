"""Files that are written whole or not at all, and locks that die with their owner."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from engines.core.errors import UserError

PARTIAL = ".partial"  # what a writer has not finished lies in a directory of this name
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class NoSpaceError(UserError):
    """The disk is full: nothing else can be written either."""


def plain(value: Any) -> Any:
    """Turn numpy values and tuples into JSON's own; what is not a finite number becomes null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def json_bytes(value: Any) -> bytes:
    """Encode as readable JSON with sorted keys: equal values give equal bytes."""
    text = json.dumps(plain(value), indent=1, sort_keys=True, allow_nan=False)
    return text.encode() + b"\n"


def describe(error: OSError, path: Path) -> UserError:
    """One line for a file system's refusal, with the remedy where the disk is full."""
    if error.errno in _FULL:
        return NoSpaceError(
            f"no space left to write {path} ({error.strerror}): free some space and run again; "
            "finished points are kept"
        )
    return UserError(f"cannot write {path}: {error.strerror or error}")


def write_together(directory: Path, contents: Mapping[str, bytes]) -> None:
    """Write files into `directory` so that the last one named exists only once all others do.

    Everything is written and synced under `directory/.partial` first; only then are older files
    replaced, the last one withdrawn before the others change. Raises UserError, leaving older
    files as they were, when the disk is full or refuses.
    """
    partial = directory / PARTIAL
    made = not directory.exists()
    try:
        _write_partial(partial, contents)
        last = list(contents)[-1]
        (directory / last).unlink(missing_ok=True)
        for name in contents:
            (partial / name).replace(directory / name)
        partial.rmdir()
        _sync_directory(directory)
    except OSError as error:
        shutil.rmtree(directory if made else partial, ignore_errors=True)
        raise describe(error, directory) from error


def _write_partial(partial: Path, contents: Mapping[str, bytes]) -> None:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, content in contents.items():
        with (partial / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    """Make the renames durable; some file systems do not let directories be synced."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_file(path: Path, content: bytes) -> None:
    """Replace one file whole; raises UserError when the file system refuses."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise describe(error, path) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def check_writable(directory: Path) -> None:
    """Raise UserError unless files can be written below `directory`, which need not exist yet.

    Nothing is left behind: the nearest existing folder is tried with an unnamed file.
    """
    try:
        directory.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # the nearest existing folder says more
    except OSError as error:  # a name that the file system refuses, a loop of links
        raise describe(error, directory) from error
    existing = directory.absolute()
    while not os.path.lexists(existing):
        existing = existing.parent
    if not existing.is_dir():
        raise UserError(f"cannot write {directory}: {existing} is not a directory")
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"\0" * 4096)
    except OSError as error:
        raise describe(error, directory) from error


@contextmanager
def lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file at `path`; yields False at once if it is taken and `wait` is off.

    The kernel frees the lock when its owner dies, however it dies, so that no stale lock exists.
    The file is removed by its holder; whoever waited on a removed file tries again on a new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            yield False
            return
        if _same_file(descriptor, path):
            break
        os.close(descriptor)
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False

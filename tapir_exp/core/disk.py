"""Writes that reach the disk, and errors of the disk as one sentence with the remedy.

A disk may be full, out of inodes, over a quota or read-only. It then stops a run at any write: of Python, SQLite,
safetensors, Arrow or torch. Nothing that is finished is lost, so the remedy is never to delete a file of the store.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tapir_exp.core.errors import TapirError

RESUME = "What is finished is kept: repeat the same command to resume."
FULL = "no space or no inodes are left (`df -h` and `df -i` show which); free some, or set outputs=DIR to another disk"
READ_ONLY = "the file system is read-only; mount it writable, or set outputs=DIR to a disk that is"
PROBE_BYTES = 4096
"""Size of a file that shows whether the disk has space: one block of most file systems."""
REMEDIES = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: "the disk quota is used up; free some space (`quota` shows the limit), or set outputs=DIR elsewhere",
    errno.EFBIG: "the file exceeds the largest size allowed; raise `ulimit -f`, or set outputs=DIR to another disk",
    errno.EROFS: READ_ONLY,
    errno.EIO: "the disk reports an input/output error; check it (`dmesg`), or set outputs=DIR to another disk",
    errno.EACCES: "this user may not; change the permissions of the file or its directory",
    errno.ENFILE: "too many files are open on this machine; close some programs",
    errno.EMFILE: "too many files are open; raise `ulimit -n`",
}
"""Reason and remedy by error number."""
_NATIVE = (
    (re.compile(r"No space left|StorageFull|os error 28\b"), FULL),
    (re.compile(r"Disk quota exceeded|QuotaExceeded|os error 122\b"), REMEDIES[errno.EDQUOT]),
    (re.compile(r"File too large|FileTooLarge|os error 27\b"), REMEDIES[errno.EFBIG]),
    (re.compile(r"Read-only file system|ReadOnlyFilesystem|os error 30\b"), READ_ONLY),
    # torch reports no cause; a full disk is by far the most frequent one.
    (re.compile(r"PytorchStreamWriter failed|inline_container\.cc.*unexpected pos"), f"probably {FULL}"),
)
"""Texts of native libraries, which raise errors of their own."""


class DiskError(TapirError):
    """A file cannot be written or opened; the message names the remedy."""


def explain_disk_error(error: BaseException) -> DiskError | None:
    """Return an error of the disk as one sentence with the remedy; None if the disk is not the cause.

    Args:
        error: Any exception; those that it was raised from are searched, too.
    """
    for cause in _chain(error):
        if isinstance(cause, DiskError):
            return cause
        if isinstance(cause, OSError) and cause.errno in REMEDIES:
            at = f"{cause.filename}: " if cause.filename else ""
            return DiskError(f"{at}{REMEDIES[cause.errno]}. {RESUME}")
        for pattern, remedy in _NATIVE:
            if not isinstance(cause, TapirError) and pattern.search(str(cause)):
                return DiskError(f"A file cannot be written: {remedy}. {RESUME}")
    return None


def find_disk_error(directory: Path) -> DiskError | None:
    """Return why no file can be written in a directory now; None if one can.

    A full disk leaves no trace in the files that could not be written. So a small file is written and removed.
    """
    probe = directory / f".probe-{os.getpid()}"
    try:
        probe.write_bytes(bytes(PROBE_BYTES))
    except OSError as error:
        return explain_disk_error(error)
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return None


def sync_file(path: Path) -> None:
    """Wait until the content of a file, or the names in a directory, would survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a directory; their renames are durable by themselves.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Sync every file and directory below `root`, and `root` itself."""
    for directory, _, files in os.walk(root):
        for name in files:
            sync_file(Path(directory, name))
        sync_file(Path(directory))


def links_leading_out(directory: Path) -> list[str]:
    """Return a problem for each link in a directory that leads out of it; none if the directory does not exist.

    A run or a store from another person may hold a link under the name of a file that is written next. W&B makes links
    to its logs; it never writes to a file that exists.
    """
    root, links = directory.resolve(), []
    for parent, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name != "wandb"]
        links += [path for name in (*folders, *files) if (path := Path(parent, name)).is_symlink()]
    out = [path for path in links if not path.resolve().is_relative_to(root)]
    return [f"{path} is a link to {path.readlink()}; remove it, since a run writes nothing there" for path in out]


def set_aside(path: Path) -> Path:
    """Rename a damaged file or directory to NAME.damaged, or NAME.damaged-2 and so on, and return the new path."""
    target, number = path.with_name(f"{path.name}.damaged"), 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.damaged-{number}")
    path.rename(target)
    return target


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        yield current
        current = current.__cause__ or current.__context__

"""Folders and files that appear whole or not at all, whatever happens to the process that makes them.

What is not ready lies in a hidden holder beside its target, `.NAME.softnce_ray-…`, whose lock is held by the process
that writes there. The kernel lets go of the lock when that process ends, however it ends: the next one that wants the
same target sees by it what is left over, and cleans up. On file systems that several hosts share this holds where their
locks do.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_LOCK = "lock"
_NEW = "new"
_OLD = "old"
_NAMED = 5
_HERE = -100
"""AT_FDCWD: a path is meant as it stands."""
_EXCHANGE = 2
"""RENAME_EXCHANGE of Linux' renameat2."""
_NOT_HERE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM, errno.EXDEV}
"""How systems say that they cannot exchange two names."""


def made_once(final: Path, make: Callable[[Path], None]) -> Path:
    """`final`, filled by `make` unless it exists. Another process that wants it at the same time waits; when the
    one that makes it dies or fails, the next one tries."""
    if final.exists():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    lock = final.parent / f".{final.name}.lock"
    with lock_file(lock) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            if not final.exists():
                with appearing(final) as folder:
                    make(folder)
                    sync_tree(folder)  # whoever finds the name trusts what is below it
        except FileExistsError:
            if not final.exists():  # else locks do not hold here, and another process was faster with the same content
                raise
    return final


@contextmanager
def appearing(
    final: Path, *, may_go: Callable[[Path], None] | None = None, then: Callable[[Path], None] = lambda folder: None
) -> Iterator[Path]:
    """A temporary folder that becomes `final` when all in it is written, and vanishes when that fails.

    A process that is killed meanwhile leaves `final` as it was or as it was to be; see `recover` for the rest.

    Args:
      may_go: what is at `final` gives way, in one step where the system can exchange two names, unless this raises. It
        is asked twice, with the very path that is taken away: before that, and when nobody can reach it by its name any
        more. Without it something that is there by then is left alone.
      then: called with `final` when it is in place; when it fails all is as it was before.

    Raises:
      FileExistsError: something is at `final` that may not be replaced.
    """
    final = _absolute(final)
    with beside(final) as inner:
        work = _work(inner.parent, final)
        work.mkdir()
        yield work
        gone, take_back = _put(work, final, inner.parent / _OLD, may_go)
        try:
            if gone is not None and may_go is not None:
                may_go(gone)
            then(final)
        except BaseException:
            take_back()
            raise


@contextmanager
def beside(final: Path) -> Iterator[Path]:
    """A hidden folder beside `final` for what is needed on the way there. It goes with the context, and when the
    process is killed with the next one that wants the same `final`."""
    final = _absolute(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    recover(final)
    with _holder(final) as holder:
        inner = holder / _NEW
        inner.mkdir()
        yield inner


def nearest(path: Path) -> Path:
    """The nearest to a path, of all that lie above it, that is there: a folder, or a file in its way."""
    absolute = _absolute(path)
    return next((each for each in absolute.parents if os.path.lexists(each)), absolute)  # nothing lies above the root


def contents(folder: Path) -> list[str]:
    """Names of all that lies below a folder, sorted: files, links, and folders without anything in them.

    Raises:
      OSError: it cannot be read.
    """

    def unreadable(error: OSError) -> None:
        raise error

    found: list[str] = []
    for place, names, files in os.walk(folder, onerror=unreadable):
        links = [name for name in names if os.path.islink(os.path.join(place, name))]
        found += [os.path.join(place, name) for name in (*files, *links)]
        if not names and not files and place != os.fspath(folder):
            found.append(place)
    return sorted(os.path.relpath(each, folder) for each in found)


def others(folder: Path, ours: Callable[[str], bool]) -> str:
    """What lies below a folder and is not `ours`, in words; "" where there is no such thing.

    Args:
      ours: says of a name of `contents` whether it may go. What Python keeps of modules that it has read always may.

    Raises:
      OSError: it cannot be read.
    """
    found = [name for name in contents(folder) if "__pycache__" not in name.split(os.sep) and not ours(name)]
    more = f" and {len(found) - _NAMED:,} more" if len(found) > _NAMED else ""
    return ", ".join(name if name.isprintable() else repr(name) for name in found[:_NAMED]) + more


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file that is there whole or not at all, in the place of an earlier one, with the permissions that
    any new file of this process gets.

    Raises:
      OSError: it cannot be written; what was there stays.
    """
    path = _absolute(path)
    recover(path)
    with _holder(path) as holder:
        work = holder / _NEW
        with work.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(work, path)


def sync(*paths: Path) -> None:
    """Write files to the disk itself, and of folders their lists of names, so that they outlive the machine's end.

    Raises:
      OSError: the disk failed. A file system that cannot sync is no error.
    """
    for path in paths:
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(opened)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
        finally:
            os.close(opened)


def sync_tree(path: Path) -> None:
    """Write a file, or a folder with all that lies in it, to the disk itself, and its name.

    Raises:
      OSError: the disk failed, or something cannot be read.
    """
    below = sorted(path.rglob("*")) if path.is_dir() else []
    sync(*(each for each in reversed(below) if not each.is_symlink()), path, path.parent)


def recover(final: Path) -> bool:
    """Clean up what killed processes left of their work on `final`, and nothing else: a process that still runs keeps
    its folder, and other users' and programs' files are not looked at.

    Returns True where `final` was missing, since a process died between taking the old one away and putting the new one
    in its place, and the old one is back. What cannot be cleaned up, as the folder is not to be written, stays.
    """
    final = _absolute(final)
    back = False
    for holder in left_over(final.parent, _prefix(final), _LOCK):
        with contextlib.suppress(OSError):
            back |= _settle(holder, final)
    return back


@contextmanager
def held(parent: Path, prefix: str, lock: str, named: Path) -> Iterator[Path]:
    """A new folder that only this user can look into, held by this process as long as it has the `lock` in it; errors
    are told of what is `named`."""
    while True:
        try:
            holder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        except OSError as error:  # told by the name that the user knows
            raise OSError(error.errno, error.strerror, str(named)) from None
        try:
            file = (holder / lock).open("x")
        except FileNotFoundError:  # somebody took it for a left-over: it had no lock yet
            continue
        with contextlib.suppress(OSError):  # a file system without locks: then nobody takes anything for a left-over
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            break
        file.close()
    with file:
        yield holder


def left_over(parent: Path, prefix: str, lock: str) -> Iterator[Path]:
    """Folders of this user that processes held which have ended, each held by this one meanwhile."""
    try:
        with os.scandir(parent) as entries:
            holders = [each.path for each in entries if each.name.startswith(prefix) and _is_own_folder(each)]
    except OSError:
        return
    for holder in map(Path, holders):
        with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
            try:
                number = os.open(holder / lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:  # killed before it had a lock, or after all was gone but the folder
                holder.rmdir()
                continue
            opened.callback(os.close, number)
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield holder


def lock_file(path: Path) -> io.FileIO:
    """Open a file that is locked (`flock`) and has no content; a link in its place is not followed.

    Raises:
      OSError: it cannot be opened.
    """
    try:
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(errno.ELOOP, "a link stands in the place of a lock: remove it", str(path)) from None
    return io.FileIO(number, "r+")


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _prefix(final: Path) -> str:
    return f".{final.name}.softnce_ray-"


def _work(holder: Path, final: Path) -> Path:
    return holder / _NEW / final.name  # named as it will be: messages of other libraries show it


def _is_own_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == os.geteuid()


@contextmanager
def _holder(final: Path) -> Iterator[Path]:
    """A hidden folder beside `final` that this process holds."""
    with held(final.parent, _prefix(final), _LOCK, final) as holder:
        try:
            yield holder
        finally:
            with contextlib.suppress(OSError):
                _settle(holder, final)


def _settle(holder: Path, final: Path) -> bool:
    """End what was begun in a holder, and remove it. Returns whether the old folder was put back."""
    old, back = holder / _OLD, False
    if os.path.lexists(old) and os.path.lexists(_work(holder, final)):  # between two renames
        if os.path.lexists(final):
            return False  # somebody has put another one there: which is wanted, a person must say
        os.rename(old, final)
        back = True
    for path in (old, holder / _NEW):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if not os.path.lexists(old) and not os.path.lexists(holder / _NEW):
        (holder / _LOCK).unlink(missing_ok=True)  # last: it says whose the rest is
        holder.rmdir()
    return back


def _put(
    work: Path, final: Path, old: Path, may_go: Callable[[Path], None] | None
) -> tuple[Path | None, Callable[[], None]]:
    """`work` as `final`; returns where what was there is now, if there was anything, and what takes all that back."""
    if not os.path.lexists(final):
        os.rename(work, final)
        return None, lambda: os.rename(final, work)
    if may_go is None:
        raise FileExistsError(errno.EEXIST, "something is there already", str(final))
    may_go(final)
    if _exchanged(work, final):
        return work, lambda: _swap(work, final)
    # Whatever happens between these two, `_settle` puts the old one back.
    os.rename(final, old)
    os.rename(work, final)

    def take_back() -> None:
        os.rename(final, work)
        os.rename(old, final)

    return old, take_back


def _swap(a: Path, b: Path) -> None:
    if not _exchanged(a, b):
        raise OSError(errno.ENOTSUP, "names cannot be exchanged here any more", str(b))


def _exchanged(a: Path, b: Path) -> bool:
    """Give each of two names what the other had, in one step; False where the system cannot.

    Raises:
      OSError: it can, and something else is wrong.
    """
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # no Linux, or a C library that does not know it
        return False
    if renameat2(_HERE, os.fsencode(a), _HERE, os.fsencode(b), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NOT_HERE:
        return False
    raise OSError(number, os.strerror(number), str(b))

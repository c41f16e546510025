"""Writes files and folders atomically, and never overwrites files of the user.

All output of the commands is written by this module. Only files that the same command made are
replaced, and every write failure is reported in one sentence (``write_errors``).
"""

import errno
import fcntl
import glob
import itertools
import os
import re
import shutil
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Dict, Iterator, Tuple, Union

from fairseq_kd.files.write_errors import writing

MARK = ".fairseq_kd"  # in a temporary folder of ours; it is locked while its process runs
MADE, UNTIL_MADE = "made", "until_made"  # the other content of such a folder
ANYWHERE = Path("/")
ROOM_BYTES = 1 << 20
OURS = re.compile(  # the names of temporary files, earlier ones without our name, and of locks
    r".*\.\d+(\.fairseq_kd)?\.partial|\.(.+\.)?lock"
)
NO_FILE = "{path} must be a regular file, but is a pipe or a device. Remove it."


def own_file(path: str, flags: int) -> int:
    """An opener, ``open(..., opener=own_file)``, that does not follow symbolic links.

    A folder from another person may contain a link or a pipe at the path of a lock or a journal.

    Raises:
        ValueError: the path is a symbolic link or not a regular file.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a pipe without a reader
            raise ValueError(NO_FILE.format(path=path)) from error
        if error.errno == errno.ELOOP:
            check_no_link(path)
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(NO_FILE.format(path=path))
    return descriptor


def check_no_link(path: Union[str, Path]) -> None:
    """Refuses a symbolic link at a path that the package writes.

    Raises:
        ValueError: there is one.
    """
    if os.path.islink(path):
        kind = "folder" if os.path.isdir(path) else "file"
        raise ValueError(
            f"{path} is a symbolic link. Replace it by the {kind} itself, or remove it."
        )


def check_own_folder(folder: Path) -> None:
    """Checks that writing into a folder cannot change files elsewhere.

    Other programs follow symbolic links and write into hard-linked files. So a link is refused, and
    a file with a second name elsewhere, as in a copy by ``cp -l``, gets its own content.

    Args:
        folder: need not exist; may also be a file.

    Raises:
        ValueError: it is a symbolic link or a pipe, or holds one at any depth.
    """
    check_no_link(folder)
    if folder.exists() and not folder.is_dir():
        _check_file(folder)
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            check_no_link(os.path.join(place, name))
        for name in files:
            _check_file(Path(place, name))


def _check_file(path: Path) -> None:
    """Gives a file its own content; refuses a pipe, because opening it would block."""
    with suppress(FileNotFoundError):  # of a process that has just removed it
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise ValueError(NO_FILE.format(path=path))
        make_sole(path)


def make_sole(path: Path) -> None:
    """Gives a hard-linked file its own content; its other names are unchanged."""
    state = os.lstat(path)
    if stat.S_ISREG(state.st_mode) and state.st_nlink > 1:
        with path.open("rb") as shared, atomic_write(path, "wb") as file:
            shutil.copyfileobj(shared, file)
            file.flush()
            os.utime(file.fileno(), ns=(state.st_atime_ns, state.st_mtime_ns))  # as hashes have it


@contextmanager
def atomic_write(path: Path, mode: str = "w", *, new: bool = False) -> Iterator[IO[Any]]:
    """Opens a file that takes its name only when the block ends without an error.

    Args:
        path: the name.
        mode: ``w`` for text, ``wb`` for bytes.
        new: the file must not exist; otherwise an existing file is replaced.

    Raises:
        ValueError: the path exists and is not a file.
        OSError: it cannot be written; ``write_errors.explained`` says why.
    """
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "not a regular file"
        raise ValueError(f"{path} must be a file to write, but is {what}. Give another path.")
    with writing(path, ANYWHERE):
        beside, descriptor = _temporary(path)
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with writing(path, beside), open(descriptor, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if new:  # while it is locked by being open, for which see _temporary
                _take_free_name(beside, path)
            else:
                beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _temporary(path: Path) -> Tuple[Path, int]:
    """A new file beside another one, open for writing, and locked as long as it is open.

    Unlocked temporary files of the same file were left by killed processes, and are removed.
    """
    begin = path.name[:40]
    for left in path.parent.glob(f"{glob.escape(begin)}.*.fairseq_kd.partial"):
        if OURS.fullmatch(left.name):
            _remove_if_left(left)
    for number in itertools.count(os.getpid()):
        beside = path.with_name(f"{begin}.{number}.fairseq_kd.partial")
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            continue
        with suppress(OSError):  # a file system without locks, where nothing is removed
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return beside, descriptor
        os.close(descriptor)  # removed by another process before it was locked
    raise AssertionError


def _remove_if_left(path: Path) -> None:
    """Removes a temporary file unless a process has it open."""
    with suppress(OSError, ValueError), open(path, "rb", opener=own_file) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


def _take_free_name(beside: Path, path: Path) -> None:
    """Renames a file, and replaces nothing."""
    try:
        os.link(beside, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        beside.replace(path)
    else:
        beside.unlink()


def write_new(path: Path, content: Union[str, bytes], flag: str = "--out") -> None:
    """Writes a new file; an existing file with the same content is accepted.

    Args:
        path: the file.
        content: of it.
        flag: the user's flag, for errors.

    Raises:
        ValueError: the path exists with other content.
        OSError: it cannot be written; ``write_errors.explained`` says why.
    """
    data = content.encode() if isinstance(content, str) else content
    if path.is_file() and path.read_bytes() == data:
        return
    check_new_file(path, flag)
    make_folder(path.parent)
    with atomic_write(path, "wb", new=True) as file:
        file.write(data)


def moved_aside(path: Path) -> Path:
    """Gives a damaged file another name beside it, and returns that."""
    for number in itertools.count(1):
        aside = path.with_name(f"{path.name}.damaged{'' if number == 1 else f'.{number}'}")
        if not os.path.lexists(aside):
            with writing(path, path):
                return path.rename(aside)
    raise AssertionError


@contextmanager
def atomic_folder(out: Path, flag: str = "--out") -> Iterator[Path]:
    """Makes a folder that takes its place only when the block ends without an error.

    It is made in ``OUT.partial``, which only this process uses. Remains of a killed or interrupted
    process are removed, except ``UNTIL_MADE``. A folder of that name without our mark belongs to
    the user, and another name is used. Files that others put into ``OUT.partial`` are kept.

    Args:
        out: the folder; it must not exist, or must be empty.
        flag: the user's flag, for errors.

    Yields:
        The folder to fill. ``UNTIL_MADE`` beside it is for files of use until then.

    Raises:
        ValueError: it exists, or another process makes the same folder.
        OSError: it cannot be written; ``write_errors.explained`` says why.
    """
    check_vacant(out, flag, empty=True)
    target = Path(os.path.realpath(out))  # resolve() fails on a loop of links
    if os.path.ismount(target):
        raise ValueError(
            f"{flag} {out} must be a new folder, but is a mount point. Give a folder below it."
        )
    make_folder(target.parent)
    with writing(out, ANYWHERE):
        place, lock = _own_place(target, out)
    left = [MADE, UNTIL_MADE]
    try:
        with writing(out, place):
            made = place / MADE
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            yield made
            check_vacant(out, flag, empty=True)
            made.rename(target)
    except KeyboardInterrupt:  # by ctrl-C or SIGTERM
        left.remove(UNTIL_MADE)
        raise
    finally:
        for name in left:
            shutil.rmtree(place / name, ignore_errors=True)
        if not (place / UNTIL_MADE).exists():
            with suppress(OSError):  # something else is in it
                (place / MARK).unlink()
                place.rmdir()
        lock.close()


def _own_place(target: Path, out: Path) -> Tuple[Path, IO[Any]]:
    """A marked temporary folder beside the target, and its lock."""
    for number in itertools.count(1):
        place = target.with_name(f"{target.name}{'' if number == 1 else f'.{number}'}.partial")
        try:
            place.mkdir()
        except FileExistsError:
            mark = place / MARK
            if place.is_symlink() or mark.is_symlink() or not mark.is_file():
                continue
        lock = open(place / MARK, "a", opener=own_file)  # noqa: SIM115  (its user closes it)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise ValueError(
                f"{out} is being made by another process. Wait for it, or give another path."
            ) from None
        if os.fstat(lock.fileno()).st_nlink:
            try:
                check_own_folder(place)
            except BaseException:
                lock.close()
                raise
            return place, lock
        lock.close()  # its owner has just removed it
    raise AssertionError


def make_folder(path: Path) -> None:
    """Makes a folder and its parents, unless it exists.

    Raises:
        ValueError: a file has its name.
        OSError: it cannot be made; ``write_errors.explained`` says why.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} must be a folder, but is a file. Give another path.")
    with writing(path, ANYWHERE):
        path.mkdir(parents=True, exist_ok=True)


def check_vacant(out: Path, flag: str = "--out", *, empty: bool = False) -> None:
    """Refuses an output folder that exists and is not empty.

    Args:
        out: the folder.
        flag: the user's flag, for errors.
        empty: our locks and temporary files are refused, too, because the folder is replaced.

    Raises:
        ValueError: it is a file, or a folder with something in it.
    """
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise ValueError(
            f"{flag} {out} must be a folder, but is an existing file. Remove it or choose another."
        )
    names = sorted(path.name for path in out.iterdir())
    strange = [name for name in names if empty or not OURS.fullmatch(name)]
    if strange:
        raise ValueError(
            f"{flag} {out} already exists and holds {strange[0]}. Remove it or choose another."
        )


def check_new_file(out: Path, flag: str = "--out") -> None:
    """Refuses an output file that exists.

    Raises:
        ValueError: the name is taken.
    """
    if out.is_dir():
        raise ValueError(f"{flag} {out} must be a file to write, but is a folder. Choose another.")
    if os.path.lexists(out):
        raise ValueError(f"{flag} {out} already exists. Remove it or choose another.")


def check_apart(out: Path, inputs: Dict[str, Union[str, Path, None]], flag: str = "--out") -> None:
    """Refuses an output that is an input, or lies inside a folder that is one.

    Symbolic and hard links are followed.

    Args:
        out: the file or folder to write.
        inputs: by the flags that name them; those that are not there are not compared.
        flag: the flag of ``out``, for errors.

    Raises:
        ValueError: it is one, or is inside one.
    """
    places = [path for path in (out, *Path(os.path.realpath(out)).parents) if path.exists()]
    for name, path in inputs.items():
        if path is None or not os.path.exists(path):
            continue
        if out in places and os.path.samefile(out, path):
            raise ValueError(f"{flag} {out} and {name} {path} are the same. Choose another path.")
        if os.path.isdir(path) and any(os.path.samefile(each, path) for each in places):
            raise ValueError(
                f"{flag} {out} lies inside {name} {path}, which is only read. Choose a place "
                "outside it."
            )


def check_room(folder: Path) -> None:
    """Makes sure that a folder can be written to, such as after another program has failed.

    Raises:
        OSError: it cannot; ``write_errors.explained`` says why.
    """
    with writing(folder, folder):
        beside, descriptor = _temporary(folder / "room")
        try:
            with open(descriptor, "wb") as file:
                file.write(bytes(ROOM_BYTES))
                file.flush()
                os.fsync(file.fileno())
        finally:
            beside.unlink()


def check_can_be_made(folder: Path, flag: str) -> None:
    """Makes sure that a folder can be made or written to, before a command needs it.

    Raises:
        ValueError: its disk takes no files, as that of ``/proc``.
        OSError: it cannot be written to; ``write_errors.explained`` says why.
    """
    place = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    try:
        with writing(folder, place):
            check_room(place)
    except FileNotFoundError:
        raise ValueError(
            f"{flag} {folder} cannot be made, since {place} takes no files. Give another path."
        ) from None

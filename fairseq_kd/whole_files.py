"""Files and folders that appear whole or not at all, beside what is there already.

All that the commands write goes through here. What was there before is replaced only where a
command made it itself, and every failure to write ends in one sentence (``explained``).
"""

import errno
import fcntl
import itertools
import os
import re
import shutil
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Dict, Iterator, List, Optional, Tuple, Union

MARK = ".fairseq_kd"  # in a temporary folder of ours; it is locked while its process runs
ANYWHERE = Path("/")
ROOM_BYTES = 1 << 20
OURS = re.compile(r".*\.\d+\.partial|\.(.+\.)?lock")  # the names of temporary files and of locks
AGAIN = "and run the same command again"
REASONS: Dict[int, Tuple[str, str]] = {  # what is wrong with a path, and what to do
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
        ("The disk of {path} is full", f"Free some space {AGAIN}"),
    ),
    errno.EROFS: ("The disk of {path} is read-only", "Give a path on another disk"),
    errno.EACCES: ("{path} may not be used by this user", "Allow it, or give another path"),
    errno.EPERM: ("{path} may not be changed by this user", "Allow it, or give another path"),
    errno.ENOTDIR: ("{path} lies below a file, where a folder must be", "Give another path"),
    errno.EISDIR: ("{path} must be a file, but is a folder", "Give another path"),
    errno.EEXIST: ("{path} is there already", "Remove it, or give another path"),
    errno.ENOTEMPTY: ("{path} is there already", "Remove it, or give another path"),
    errno.ENAMETOOLONG: ("The name of {path} is too long for its disk", "Give a shorter one"),
    errno.ELOOP: ("{path} is a symbolic link that leads to itself", "Give another path"),
}
NO_FILE = "{path} must be an ordinary file, but is a pipe or a device. Remove it."
CUT_SHORT = re.compile(  # torch and numpy say so without a number
    r"unexpected pos \d+ vs \d+|PytorchStreamWriter failed writing|iostream error"
    r"|\d+ requested and \d+ written|write\(\): fd \d+ failed"
)


def own_file(path: str, flags: int) -> int:
    """Opens a file of ours, for ``open(..., opener=own_file)``; not one elsewhere by a link.

    A folder from somebody else may hold a link, or a pipe that never answers, where we write a lock
    or a journal.

    Raises:
        ValueError: there is a symbolic link, or no ordinary file.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a pipe that nobody reads
            raise ValueError(NO_FILE.format(path=path)) from error
        if error.errno == errno.ELOOP:
            check_no_link(path)
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(NO_FILE.format(path=path))
    return descriptor


def check_no_link(path: Union[str, Path]) -> None:
    """Refuses a symbolic link in the place of a file or folder of ours.

    Raises:
        ValueError: there is one.
    """
    if os.path.islink(path):
        other = "folder, whose files" if os.path.isdir(path) else "file, which"
        raise ValueError(
            f"{path} is a link to another {other} would be overwritten. Remove the link."
        )


@contextmanager
def written_whole(path: Path, mode: str = "w", *, new: bool = False) -> Iterator[IO[Any]]:
    """Opens a file that takes its name only when the block ends without an error.

    Args:
        path: the name.
        mode: ``w`` for text, ``wb`` for bytes.
        new: the name must be free; otherwise a file that is there is replaced.

    Raises:
        ValueError: something else than a file has the name.
        OSError: it cannot be written; ``explained`` says why.
    """
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no ordinary file"
        raise ValueError(f"{path} must be a file to write, but is {what}. Give another path.")
    with writing(path, ANYWHERE):
        beside, descriptor = _temporary(path)
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with writing(path, beside):
            with open(descriptor, mode, **text) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if new:
                _take_free_name(beside, path)
            else:
                beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _temporary(path: Path) -> Tuple[Path, int]:
    """A new file beside another one, open for writing."""
    for number in itertools.count(os.getpid()):
        beside = path.with_name(f"{path.name[:40]}.{number}.partial")
        try:
            return beside, os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            continue
    raise AssertionError


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
    """Writes a file that is not there yet; one with this content stays.

    Args:
        path: the file.
        content: of it.
        flag: by which it was given.

    Raises:
        ValueError: something else is there.
        OSError: it cannot be written; ``explained`` says why.
    """
    data = content.encode() if isinstance(content, str) else content
    if path.is_file() and path.read_bytes() == data:
        return
    check_new_file(path, flag)
    make_folder(path.parent)
    with written_whole(path, "wb", new=True) as file:
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
def whole_folder(out: Path, flag: str = "--out") -> Iterator[Path]:
    """Makes a folder that takes its place only when the block ends without an error.

    It is made in ``OUT.partial``, which is of this process alone. What a killed process left there
    is removed, but for what lies beside the folder itself; a folder of that name which has not our
    mark is somebody else's, and another name is taken.

    Args:
        out: the folder; nothing is there, or an empty folder.
        flag: by which it was given.

    Yields:
        The folder to fill. Its parent is for files that are of use until it is filled.

    Raises:
        ValueError: something is there, or another process makes the same folder.
        OSError: it cannot be written; ``explained`` says why.
    """
    check_vacant(out, flag, empty=True)
    target = Path(os.path.realpath(out))  # resolve() fails on a loop of links
    if os.path.ismount(target):
        raise ValueError(f"{flag} {out} must be a folder that is made, but is a disk. Add a name.")
    make_folder(target.parent)
    with writing(out, ANYWHERE):
        place, lock = _own_place(target, out)
    try:
        with writing(out, place):
            made = place / "made"
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            yield made
            check_vacant(out, flag, empty=True)
            made.rename(target)
    finally:
        shutil.rmtree(place, ignore_errors=True)
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
            return place, lock
        lock.close()  # its owner has just removed it
    raise AssertionError


def make_folder(path: Path) -> None:
    """Makes a folder, and those that it lies in, unless it is there.

    Raises:
        ValueError: a file has its name.
        OSError: it cannot be made; ``explained`` says why.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} must be a folder, but is a file. Give another path.")
    with writing(path, ANYWHERE):
        path.mkdir(parents=True, exist_ok=True)


def check_vacant(out: Path, flag: str = "--out", *, empty: bool = False) -> None:
    """Refuses to write a folder where something is.

    Args:
        out: the folder.
        flag: by which it was given.
        empty: locks and temporary files of ours may not be there either, as where another folder
            takes its place.

    Raises:
        ValueError: it is a file, or a folder with something in it.
    """
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise ValueError(
            f"{flag} {out} must be a folder, but is a file that is there already. Remove it or "
            "choose another."
        )
    names = sorted(path.name for path in out.iterdir())
    strange = [name for name in names if empty or not OURS.fullmatch(name)]
    if strange:
        raise ValueError(
            f"{flag} {out} is there already, with {strange[0]} in it. Remove it or choose another."
        )


def check_new_file(out: Path, flag: str = "--out") -> None:
    """Refuses to write a file where something is.

    Raises:
        ValueError: the name is taken.
    """
    if out.is_dir():
        raise ValueError(f"{flag} {out} must be a file to write, but is a folder. Choose another.")
    if os.path.lexists(out):
        raise ValueError(f"{flag} {out} is there already. Remove it or choose another.")


def check_apart(out: Path, inputs: Dict[str, Union[str, Path, None]], flag: str = "--out") -> None:
    """Refuses an output that is an input, or lies inside a folder that is one.

    Links of all kinds are followed.

    Args:
        out: the file or folder to write.
        inputs: by the flags that name them; those that are not there are not compared.
        flag: by which ``out`` was given.

    Raises:
        ValueError: it is no place of its own.
    """
    places = [path for path in (out, *Path(os.path.realpath(out)).parents) if path.exists()]
    for name, path in inputs.items():
        if path is None or not os.path.exists(path):
            continue
        if out in places and os.path.samefile(out, path):
            raise ValueError(f"{flag} {out} is what {name} {path} names. Choose another.")
        if os.path.isdir(path) and any(os.path.samefile(each, path) for each in places):
            raise ValueError(
                f"{flag} {out} lies inside {name} {path}, which is only read. Choose a place "
                "outside it."
            )


@contextmanager
def writing(path: Path, inside: Optional[Path] = None) -> Iterator[None]:
    """Gives errors of writing that name no file the name of what was written.

    Args:
        path: what is written, as the user typed it.
        inside: errors that name something in here get that name, too.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        code = _code(error)
        if code is None:
            raise
        names = _names(error)
        if names and not (inside and any(_is_below(name, inside) for name in names)):
            raise
        raise OSError(code, os.strerror(code), str(path)) from error


def check_room(folder: Path) -> None:
    """Makes sure that a folder can be written to, such as after another program has failed.

    Raises:
        OSError: it cannot; ``explained`` says why.
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


def _names(error: BaseException) -> List[Any]:
    """The files that an error names; of two, such as of a copy, the one that is written first."""
    names = (getattr(error, "filename2", None), getattr(error, "filename", None))
    return [name for name in names if name is not None]


def _is_below(name: Any, folder: Path) -> bool:
    if not isinstance(name, (str, bytes, os.PathLike)):  # a descriptor
        return True
    return Path(os.fsdecode(name)).absolute().is_relative_to(folder.absolute())


def _code(error: Optional[BaseException]) -> Optional[int]:
    """The number of an error that ``explained`` explains, or None."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in REASONS else None
    if isinstance(error, (OSError, RuntimeError)) and CUT_SHORT.search(str(error)):
        return _code(error.__context__) or errno.ENOSPC
    return None


def explained(error: BaseException, out: Any, kept: str) -> Optional[str]:
    """The sentence for a file or folder that cannot be written, or None for any other error.

    Args:
        error: what was raised.
        out: where the command writes, if the error does not name it.
        kept: what is not lost, as half a sentence.
    """
    code = _code(error)
    if code is None:
        return None
    reason, advice = REASONS[code]
    path = (*_names(error), out or "the output")[0]
    return f"{reason.format(path=path)}; {kept}. {advice}."

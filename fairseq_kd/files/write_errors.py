"""Turns write errors, such as a full disk, into messages of one sentence."""

import errno
import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

AGAIN = "and run the same command again"
REASONS: Dict[int, Tuple[str, str]] = {  # what is wrong with a path, and what to do
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
        ("The disk of {path} is full", f"Free some space {AGAIN}"),
    ),
    errno.ENOMEM: (
        "This machine is out of memory, or this process has reached its memory limit",
        f"Free some memory or use a larger machine, {AGAIN}",
    ),
    errno.EROFS: ("The disk of {path} is read-only", "Give a path on another disk"),
    errno.EACCES: ("{path} may not be used by this user", "Allow it, or give another path"),
    errno.EPERM: ("{path} may not be changed by this user", "Allow it, or give another path"),
    errno.ENOTDIR: ("{path} lies below a file instead of a folder", "Give another path"),
    errno.EISDIR: ("{path} must be a file, but is a folder", "Give another path"),
    errno.EEXIST: ("{path} already exists", "Remove it, or give another path"),
    errno.ENOTEMPTY: ("{path} already exists", "Remove it, or give another path"),
    errno.ENAMETOOLONG: ("The name of {path} is too long for its disk", "Give a shorter one"),
    errno.ELOOP: ("{path} is a symbolic link that leads to itself", "Give another path"),
}
CUT_SHORT = re.compile(  # torch and numpy say so without a number
    r"unexpected pos \d+ vs \d+|PytorchStreamWriter failed writing|iostream error"
    r"|\d+ requested and \d+ written|write\(\): fd \d+ failed"
)

NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"  # of torch


@contextmanager
def writing(path: Path, inside: Optional[Path] = None) -> Iterator[None]:
    """Adds the name of the written file to write errors that name none.

    Args:
        path: what is written, as the user typed it.
        inside: errors that name a path in this folder also get that name.
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
    if isinstance(error, MemoryError) or NO_MEMORY in str(error):
        return errno.ENOMEM
    if isinstance(error, (OSError, RuntimeError)) and CUT_SHORT.search(str(error)):
        return _code(error.__context__) or errno.ENOSPC
    return None


def explained(error: BaseException, out: Any, kept: str) -> Optional[str]:
    """The sentence for a file or folder that cannot be written, or None for any other error.

    Args:
        error: what was raised.
        out: where the command writes, if the error does not name it.
        kept: what is not lost, as a clause.
    """
    code = _code(error)
    if code is None:
        return None
    reason, advice = REASONS[code]
    path = (*_names(error), out or "the output")[0]
    return f"{reason.format(path=path)}; {kept}. {advice}."

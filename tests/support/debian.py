"""Small Translation files as Debian has them, and the corpus that is built of them."""

import hashlib
import importlib.util
import itertools

from harness import ROOT, run

SCRIPT = ROOT / "benchmarks" / "debian_descriptions.sh"
SETS = [f"{name}.{lang}" for name in ("train", "valid", "test") for lang in ("en", "de")]

_spec = importlib.util.spec_from_file_location("made", SCRIPT.with_suffix(".py"))
made = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)


def word(number):
    """A word of its own for each number, without digits."""
    return "w" + "".join(chr(ord("a") + int(digit)) for digit in str(number))


def sentence(number, language):
    """Nine words that no other sentence has."""
    words = [f"{language}{word(9 * number + position)}" for position in range(9)]
    return " ".join(words).capitalize() + "."


def entry(package, english, german):
    """A package with its descriptions: lists of lines, the first of them the short one."""
    return package, list(english), list(german)


def packages(families=60):
    """So many families with two packages each, and three pairs in each package."""
    numbers = itertools.count()
    entries = []
    for number in range(families):
        for package in (f"lib{word(number)}2", f"{word(number)}-data"):
            parts = [next(numbers) for _ in range(3)]
            sides = []
            for language in ("en", "de"):
                short, *rest = (sentence(part, language) for part in parts)
                sides.append([short.rstrip("."), " ".join(rest)])
            entries.append(entry(package, *sides))
    return entries


def write(folder, entries, lang="de", name="Translation-{}", compress=lambda data: data):
    """Both Translation files of some packages."""
    folder.mkdir(exist_ok=True, parents=True)
    for code, side in (("en", 1), (lang, 2)):
        stanzas = []
        for each in entries:
            if each[side]:
                md5 = hashlib.md5("\n".join(each[1]).encode()).hexdigest()
                short, *body = each[side]
                lines = [f"Package: {each[0]}", f"Description-md5: {md5}"]
                lines += [f"Description-{code}: {short}", *(f" {line}" for line in body)]
                stanzas.append("".join(line + "\n" for line in lines))
        (folder / name.format(code)).write_bytes(compress("\n".join(stanzas).encode()))
    return folder


def build(texts, out, *flags, check=True, lang="de", **env):
    env = {"VALID": "6", "TEST": "6", **env}
    return run(SCRIPT, lang, out, "--local", texts, *flags, env=env, check=check)


def pairs(out, name):
    sides = ((out / f"{name}.{lang}").read_text(encoding="utf-8") for lang in ("en", "de"))
    return list(zip(*(side.splitlines() for side in sides), strict=True))


def everything(out):
    return [pair for name in ("train", "valid", "test") for pair in pairs(out, name)]


def parts(english, german):
    """The aligned parts of two descriptions without their short ones."""
    sides = (made.Description("some", "Short", tuple(body)) for body in (english, german))
    return made.aligned(*sides)[0][1:]


def refused(result, message):
    """One sentence, and nothing else, says what is wrong."""
    assert result.returncode == 1
    assert result.stderr == f"{message}\n"

"""Builds a corpus from Debian's Translation files, for benchmarks/debian_descriptions.sh.

A description is a short line and a body of paragraphs and list items. The English description and
its translation have the same Description-md5. They are aligned by sections, blocks and sentences,
as long as both sides have the same number of them, then cleaned, and split by software families.
"""

import argparse
import bz2
import gzip
import hashlib
import lzma
import math
import re
import sys
from collections import Counter, defaultdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Iterable, Iterator, NamedTuple

OVERLAP = 0.5  # Jaccard index of word trigrams from which a training pair is too near to be kept
SHARE = 20  # valid and test are at most one pair in so many each
FAMILY_SHARE = 10  # a family is held out if it is at most one in so many of its set,
SMALL_FAMILY = 10  # or has no more pairs than this
OPENERS = {".xz": lzma.open, ".bz2": bz2.open, ".gz": gzip.open}

ITEM = re.compile(r"(?:[-*+•·o]|\d{1,2}[.)])\s+(?=\S)")
SENTENCE_END = re.compile(  # the second is the full stop of Chinese and Japanese, wide ! and ?
    r"[.!?…]['\"”»“\u2019)\]]*\s+|[。\uff01\uff1f]['\"」』\uff09]*\s*"
)
OPENING = "(\"'„«»“\u2018"  # may stand before a word
# Words before a full stop that seldom end a sentence: e.g, z.B, single letters, numbers, and these.
ABBREVIATION = re.compile(
    r"(?:\w\.)*[^\W\d_]|\d+|bzw|ca|cf|dr|ej|es|evtl|ggf|inkl|max|min|nr|núm|p\.ej|st|vgl|vs",
    re.IGNORECASE,
)
LETTER = re.compile(r"[^\W\d_]")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
WORD = re.compile(r"\w+")

README = """# Package descriptions of Debian, English and {lang}

Built {date} by benchmarks/debian_descriptions.sh from {origin}.

{counts}

Line N of a set's two files belongs together. Families of software were held out whole for valid and
test, and training pairs that overlap with these were dropped.

Licence: the descriptions are under the mixed free licences of their packages, the translations
(Debian Description Translation Project) under none that is stated. Use, do not redistribute.

sha256 of the corpus:

{outputs}

sha256 of what it was built from, decompressed:

{inputs}
"""


class CorpusError(Exception):
    """A sentence for the person who runs this."""


class Description(NamedTuple):
    """A description in one language, and the package that has it."""

    package: str
    short: str
    body: tuple[str, ...]  # lines, each without the one space that marks it


class Block(NamedTuple):
    """A paragraph, a list item or a line of its own."""

    kind: str
    text: str


class Pair(NamedTuple):
    """A text in English and its translation."""

    family: str
    source: str
    target: str


def translation_files(folder: Path, lang: str) -> list[Path]:
    """The files below a folder that hold the descriptions in a language."""
    ending = re.compile(rf"Translation-{lang}(?:\.xz|\.bz2|\.gz)?$")
    return sorted(path for path in folder.rglob("*Translation-*") if ending.search(path.name))


def content(path: Path) -> bytes:
    """The decompressed bytes of a file."""
    try:
        with OPENERS.get(path.suffix, open)(path, "rb") as file:
            return file.read()
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise CorpusError(f"{path} cannot be read: {error}.") from None


def descriptions(text: str, lang: str) -> Iterator[tuple[str, Description]]:
    """The descriptions in a Translation file, each after its Description-md5."""
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields: dict[str, list[str]] = defaultdict(list)
        name = ""
        for line in stanza.split("\n"):
            if line.startswith((" ", "\t")):
                fields[name].append(line[1:])
            elif ":" in line:
                name, value = line.split(":", 1)
                fields[name] = [value.strip()]
        package, md5 = fields.get("Package"), fields.get("Description-md5")
        if package and md5 and (lines := fields.get(f"Description-{lang}")):
            yield md5[0], Description(package[0], lines[0], tuple(lines[1:]))


def sections(body: Iterable[str]) -> list[list[Block]]:
    """The blocks of a body, in lists that end where the body has a line with a dot only.

    A line that starts with a bullet opens an item, and what is indented as far as the bullet goes
    on with it. Other indented lines are blocks of their own; lines without indent form a paragraph.
    """
    found: list[list[Block]] = [[]]
    depth = 0  # of the bullet, if the last block is an item
    for line in body:
        text = normalised(line)
        if text in ("", "."):
            found.append([])
            continue
        indent = len(line) - len(line.lstrip())
        last = found[-1][-1] if found[-1] else Block("", "")
        bullet = ITEM.match(text)
        if bullet and (indent or text[0] != "o"):  # a word in Italian, Spanish and others
            depth = indent
            found[-1].append(Block("item", text[bullet.end() :]))
        elif (last.kind == "item" and indent >= depth) or (last.kind == "paragraph" and not indent):
            found[-1][-1] = Block(last.kind, f"{last.text} {text}")
        else:
            found[-1].append(Block("line" if indent else "paragraph", text))
    return [blocks for blocks in found if blocks]


def counterparts(english: Description, foreign: Description) -> list[tuple[Block, Block]]:
    """The blocks of two bodies that belong together.

    All of them, where both bodies have the same sequence of paragraphs, items and lines; else, if
    the bodies have equally many sections, those of each section for which this holds.
    """
    sides = sections(english.body), sections(foreign.body)
    whole = [[block for section in side for block in section] for side in sides]
    if kinds(whole[0]) == kinds(whole[1]):
        return list(zip(*whole, strict=True))
    if len(sides[0]) != len(sides[1]):
        return []
    found: list[tuple[Block, Block]] = []
    for left, right in zip(*sides, strict=True):
        if kinds(left) == kinds(right):
            found += zip(left, right, strict=True)
    return found


def aligned(english: Description, foreign: Description) -> tuple[list[tuple[str, str]], int]:
    """The texts of two descriptions that belong together, and how many English blocks have none.

    The short lines, and blocks of the bodies by sentences where both have equally many of these.
    """
    blocks = counterparts(english, foreign)
    found = [(normalised(english.short), normalised(foreign.short))]
    for left, right in blocks:
        sides = sentences(left.text), sentences(right.text)
        if len(sides[0]) == len(sides[1]):
            found += zip(*sides, strict=True)
        else:
            found.append((left.text, right.text))
    return found, sum(map(len, sections(english.body))) - len(blocks)


def kinds(blocks: list[Block]) -> list[str]:
    """What each of the blocks is."""
    return [block.kind for block in blocks]


def sentences(text: str) -> list[str]:
    """The sentences of a paragraph; in doubt, two stay one."""
    found, start = [], 0
    for end in SENTENCE_END.finditer(text):
        word = text[start : end.start()].split(" ")[-1].lstrip(OPENING)
        abbreviated = text[end.start()] == "." and ABBREVIATION.fullmatch(word)
        after = re.search(r"\w", text[end.end() :])
        if after and not after[0].islower() and not abbreviated:
            found.append(text[start : end.end()].strip())
            start = end.end()
    return [*found, text[start:]]


def normalised(text: str) -> str:
    """The text with single spaces only."""
    return " ".join(text.split())


def family(package: str) -> str:
    """What the packages of a software share: boost in libboost1.74-dev and boost-doc."""
    first = package.split("-")[0]
    return first.removeprefix("lib").rstrip("0123456789.") or package


def masked(text: str) -> str:
    """The text without capitals, with every number alike."""
    return NUMBER.sub("0", text.casefold())


def fingerprint(text: str) -> str:
    """Orders families and pairs by chance, yet always in the same way."""
    return hashlib.sha256(text.encode()).hexdigest()


def read(files: Iterable[Path], lang: str) -> tuple[dict[str, Description], list[str]]:
    """The descriptions in files by md5, of two the later, and a line with each file's checksum."""
    found: dict[str, Description] = {}
    lines = []
    for path in files:
        data = content(path)
        lines.append(f"    {hashlib.sha256(data).hexdigest()}  {path.name}")
        for md5, description in descriptions(data.decode(errors="replace"), lang):
            found[md5] = description
    return found, lines


def clean(pairs: Iterable[Pair]) -> tuple[list[Pair], Counter[str]]:
    """The translated pairs without duplicates, and counts of dropped pairs by reason."""
    kept, seen, dropped = [], set(), Counter[str]()
    for pair in pairs:
        key = masked(pair.source), masked(pair.target)
        if not (LETTER.search(pair.source) and LETTER.search(pair.target)):
            dropped["without letters"] += 1
        elif pair.source == pair.target or "<trans" in pair.target:
            dropped["untranslated"] += 1
        elif key in seen:
            dropped["duplicates"] += 1
        else:
            seen.add(key)
            kept.append(pair)
    return kept, dropped


def held_out(pairs: list[Pair], valid: int, test: int) -> dict[str, str]:
    """The families of valid and test: those whose hashes are highest and lowest."""
    sizes = Counter(pair.family for pair in pairs)
    order = sorted(sizes, key=fingerprint)
    chosen: dict[str, str] = {}
    for name, wanted, families in (("test", test, order), ("valid", valid, reversed(order))):
        wanted = min(wanted, len(pairs) // SHARE)
        limit, taken = max(SMALL_FAMILY, wanted // FAMILY_SHARE), 0
        for each in families:
            if taken < wanted and sizes[each] <= limit and each not in chosen:
                chosen[each] = name
                taken += sizes[each]
    return chosen


def trigrams(text: str) -> frozenset[tuple[str, ...]]:
    """The word trigrams of a text; all its words where they are fewer than three."""
    words = WORD.findall(masked(text))
    return frozenset(zip(words, words[1:], words[2:], strict=False)) or frozenset([tuple(words)])


class Neighbours:
    """Finds out whether a text overlaps with one of many others.

    Two sets with a Jaccard index of t or more share at least t of the elements of each. So
    of any n - ceil(t n) + 1 of a text's n trigrams, its neighbour has one, and it is enough to look
    up the rarest.
    """

    def __init__(self, others: Iterable[str]):
        self.others = [trigrams(text) for text in others]
        self.index: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for number, grams in enumerate(self.others):
            for gram in grams:
                self.index[gram].append(number)

    def overlap(self, text: str) -> bool:
        """Whether the Jaccard index of the text with any of the others is OVERLAP or more."""
        grams = trigrams(text)
        rarest = sorted(grams, key=lambda gram: len(self.index.get(gram, ())))
        needed = math.ceil(OVERLAP * len(grams))
        candidates = {
            number
            for gram in rarest[: len(grams) - needed + 1]
            for number in self.index.get(gram, ())
        }
        return any(
            len(grams & other) >= OVERLAP * len(grams | other)
            for other in map(self.others.__getitem__, candidates)
        )


def split(pairs: list[Pair], valid: int, test: int) -> tuple[dict[str, list[Pair]], int, int]:
    """The three sets, how many families are held out, and how many training pairs overlap."""
    chosen = held_out(pairs, valid, test)
    sets: dict[str, list[Pair]] = {"train": [], "valid": [], "test": []}
    for pair in sorted(pairs, key=lambda pair: fingerprint(f"{pair.source}\t{pair.target}")):
        sets[chosen.get(pair.family, "train")].append(pair)
    held = sets["valid"] + sets["test"]
    near = Neighbours(side for pair in held for side in (pair.source, pair.target))
    before = len(sets["train"])
    sets["train"] = [
        pair
        for pair in sets["train"]
        if not (near.overlap(pair.source) or near.overlap(pair.target))
    ]
    return sets, len(chosen), before - len(sets["train"])


def write(sets: dict[str, list[Pair]], lang: str, out: Path) -> list[str]:
    """Writes both sides of the sets, and returns a line with the checksum of each file."""
    out.mkdir(parents=True)
    lines = []
    for name, pairs in sets.items():
        for side, suffix in (("source", "en"), ("target", lang)):
            data = "".join(getattr(pair, side) + "\n" for pair in pairs).encode()
            (out / f"{name}.{suffix}").write_bytes(data)
            lines.append(f"    {hashlib.sha256(data).hexdigest()}  {name}.{suffix}")
    return lines


def build(lang: str, folder: Path, out: Path, origin: str, valid: int, test: int) -> None:
    """From Translation files to a corpus, with a line for each phase."""
    files = {code: translation_files(folder, code) for code in ("en", lang)}
    for code, paths in files.items():
        if not paths:
            raise CorpusError(f"There is no Translation-{code} in {origin}.")
    counts: list[str] = []

    def tell(phase: int, line: str) -> None:
        print(f"[{phase}/5] {line}", flush=True)
        counts.append(f"- {line}")

    english, inputs = read(files["en"], "en")
    foreign, more = read(files[lang], lang)
    both = sorted(english.keys() & foreign.keys(), key=lambda md5: (english[md5].package, md5))
    tell(2, f"{len(english):,} descriptions, {len(both):,} of them translated")
    parts, without = [], 0
    for md5 in both:
        found, missing = aligned(english[md5], foreign[md5])
        parts += [Pair(family(english[md5].package), *sides) for sides in found]
        without += missing
    tell(3, f"{len(parts):,} pairs aligned; {without:,} English paragraphs or items match none")
    kept, dropped = clean(parts)
    reasons = ", ".join(f"{dropped[why]:,} {why}" for why in sorted(dropped)) or "none"
    tell(4, f"{len(kept):,} pairs kept; dropped: {reasons}")
    sets, families, near = split(kept, valid, test)
    if not all(sets.values()):
        raise CorpusError(f"{len(kept):,} pairs are too few for a training set, valid and test.")
    sizes = ", ".join(f"{name} {len(pairs):,}" for name, pairs in sets.items())
    tell(5, f"{sizes} pairs; {families:,} families held out, {near:,} training pairs near to them")
    readme = README.format(
        lang=lang,
        date=datetime.now(timezone.utc).date(),
        origin=origin,
        counts="\n".join(counts),
        outputs="\n".join(write(sets, lang, out)),
        inputs="\n".join(inputs + more),
    )
    (out / "README.md").write_text(readme, encoding="utf-8")


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lang", help="code of the language beside English")
    parser.add_argument("folder", type=Path, help="with Translation files, at any depth")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--origin", required=True, help="what the files are, for README.md")
    parser.add_argument("--valid", type=int, default=1000, help="pairs, about")
    parser.add_argument("--test", type=int, default=1000, help="pairs, about")
    try:
        build(**vars(parser.parse_args()))
    except CorpusError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

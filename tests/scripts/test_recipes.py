"""The recipes of published settings, whole, on archives of the real layout that hold verses."""

import gzip
import hashlib
import io
import re
import shlex
import tarfile
import zipfile

import pytest
import sacrebleu
from forks import run_forked
from harness import ROOT, run, write_text
from sacremoses import MosesTokenizer

from fairseq_kd.pipeline.preparation import prepare_run
from fairseq_kd.pipeline.run_file import read_run

WMT = {
    "wmt14_en_de": {
        "training-parallel-europarl-v7.tgz": ["training/europarl-v7.de-en"],
        "training-parallel-commoncrawl.tgz": ["commoncrawl.de-en"],
        "training-parallel-nc-v9.tgz": ["training/news-commentary-v9.de-en"],
        "wmt13.test.tgz": ["test/newstest2013-src.{}.sgm", "test/newstest2013-src.{}.sgm"],
        "wmt14_full.test-full.tgz": [
            "test-full/newstest2014-deen-src.{}.sgm",
            "test-full/newstest2014-deen-ref.{}.sgm",
        ],
    },
    "wmt14_en_fr": {
        "training-parallel-europarl-v7.tgz": ["training/europarl-v7.fr-en"],
        "training-parallel-commoncrawl.tgz": ["commoncrawl.fr-en"],
        "training-parallel-un.tgz": ["un/undoc.2000.fr-en"],
        "training-parallel-nc-v9.tgz": ["training/news-commentary-v9.fr-en"],
        "training-giga-fren.tar": ["giga-fren.release2.fixed"],
        "wmt13.test.tgz": ["test/newstest2013-src.{}.sgm", "test/newstest2013-src.{}.sgm"],
        "wmt14_full.test-full.tgz": [
            "test-full/newstest2014-fren-src.{}.sgm",
            "test-full/newstest2014-fren-ref.{}.sgm",
        ],
    },
    "wmt16_en_ro": {
        "training-parallel-ep-v8.tgz": ["training-parallel-ep-v8/europarl-v8.ro-en"],
        "en-ro.txt.zip": ["SETIMES.en-ro"],
        "wmt16_dev.dev.tgz": [
            "dev/newsdev2016-enro-src.{}.sgm",
            "dev/newsdev2016-enro-ref.{}.sgm",
        ],
        "wmt16.test.tgz": [
            "test/newstest2016-enro-src.{}.sgm",
            "test/newstest2016-enro-ref.{}.sgm",
        ],
    },
}
IWSLT = "iwslt14_de_en"
RECIPES = (*WMT, IWSLT)
TALKS = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")


@pytest.fixture(scope="module")
def verses(tmp_path_factory):
    """Lines of both languages by set; the English ones of the test hold what SGML writes apart."""
    folder = tmp_path_factory.mktemp("verses") / "text"
    write_text(folder, {"train": 700, "valid": 12, "test": 15})
    found = {path.name: path.read_text(encoding="utf-8").splitlines() for path in folder.iterdir()}
    found["test.en"][0] += " (Milk &amp; honey, a well-known pair.)"
    return found


def script(name):
    return ROOT / "scripts" / f"{name}.sh"


def as_sgml(lines, kind, language):
    """A set as WMT and IWSLT publish it: a document, a segment a line."""
    segments = "".join(f'<seg id="{i}"> {line} </seg>\n' for i, line in enumerate(lines, 1))
    begin = f'<{kind} setid="verses" srclang="any" trglang="{language}">\n'
    return f'{begin}<doc docid="one" genre="news" origlang="en">\n{segments}</doc>\n</{kind}>\n'


def write_archive(path, files):
    """An archive of the kind that its name says, of texts by name; .gz is done to those."""
    contents = {
        name: gzip.compress(text.encode()) if name.endswith(".gz") else text.encode()
        for name, text in files.items()
    }
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
        return
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def write_archives(name, verses, folder):
    """The archives of a recipe, with Spanish for the language that is not English."""
    folder.mkdir()
    if name == IWSLT:
        write_archive(folder / "de-en.tgz", talks(verses))
        return folder
    source, target = name.split("_")[1:]
    held = {source: "en", target: "es"}
    corpora = [each for each in WMT[name].values() if len(each) == 1]
    for archive, stems in WMT[name].items():
        files = {}
        if len(stems) == 1:
            share = slice(corpora.index(stems), None, len(corpora))
            end = ".gz" if archive.endswith(".tar") else ""
            for language, ours in held.items():
                text = "".join(f"{line}\n" for line in verses[f"train.{ours}"][share])
                files[f"{stems[0]}.{language}{end}"] = text
        else:
            split = "test" if "test20" in stems[0] and "2013" not in stems[0] else "valid"
            for stem, kind, language in zip(stems, ("srcset", "refset"), held, strict=True):
                lines = verses[f"{split}.{held[language]}"]
                files[stem.format(language)] = as_sgml(lines, kind, language)
        write_archive(folder / archive, files)
    return folder


def talks(verses):
    """The files of IWSLT14: talks with their tags, and five sets of three verses."""
    files = {}
    for language, ours in (("de", "es"), ("en", "en")):
        tags = "<url>http://a.talk/</url>\n<keywords>talks</keywords>\n<talkid>1</talkid>\n"
        title = "<title>A Talk</title>\n<description>TALK: It is told.</description>\n"
        lines = "".join(f" {line} \n" for line in verses[f"train.{ours}"])
        files[f"de-en/train.tags.de-en.{language}"] = tags + title + lines
        for i, part in enumerate(TALKS):
            text = as_sgml(verses[f"test.{ours}"][3 * i : 3 * i + 3], "refset", language)
            files[f"de-en/IWSLT14.{part}.de-en.{language}.xml"] = text
    return files


def published(name, verses):
    """The references of a test set, as they are scored against."""
    if name == IWSLT:  # lower-cased, with plain apostrophes
        return [line.lower().replace("\u2019", "'") for line in verses["test.en"]]
    return verses["test.es"]


def tables(scores):
    """The rows of scores.md by its headings."""
    sections = re.split(r"^## (.*)\n", scores, flags=re.M)[1:]
    rows = r"^\| ([\w. -]+) \| ([\d.]+) \|$"
    return {
        heading: dict(re.findall(rows, text, re.M))
        for heading, text in zip(sections[::2], sections[1::2], strict=True)
    }


def on_samples(name, verses, folder):
    """The command of a smoke run on archives made of our verses, and its environment."""
    given = write_archives(name, verses, folder / "given")
    settings = {"WORKERS": "1", "SMOKE_LINES": "600", "RUN": str(folder / "run")}
    return [script(name), "--smoke", "--local", given], settings


@pytest.mark.parametrize(
    "name",
    [
        "wmt16_en_ro",
        *(pytest.param(f"wmt14_en_{each}", marks=pytest.mark.slow) for each in ("de", "fr")),
    ],
)
def test_the_text_of_a_recipe_is_clean(name, verses, tmp_path):
    command, settings = on_samples(name, verses, tmp_path)
    printed = run_forked(*command, "--", "--dry-run", env=settings)
    assert "missing     student" in printed.stdout + printed.stderr
    check_text(name, text_of(tmp_path / "run"), verses)


@pytest.mark.parametrize(
    "name",
    [pytest.param(each, marks=pytest.mark.slow) for each in (IWSLT, *WMT)],
)
def test_it_runs_whole_on_samples(name, verses, tmp_path):
    command, settings = on_samples(name, verses, tmp_path)
    folder = tmp_path / "run"
    printed = run_forked(*command, env=settings).stdout
    scores = (folder / "scores.md").read_text()
    assert "A smoke run" in scores
    assert scores in printed
    assert f"{folder}/report.html has" in printed
    assert (folder / "report.html").is_file()
    assert not list(folder.glob("*.partial"))
    check_text(name, text_of(folder), verses)
    check_scores(scores, folder, published(name, verses))
    if name == IWSLT:
        check_that_nothing_is_done_again(command, settings, folder, scores)


def check_that_nothing_is_done_again(command, settings, folder, scores):
    """The same command a second time shows the scores and makes nothing."""
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")}
    made[folder / "scores.md"] = (folder / "scores.md").stat().st_mtime_ns
    assert len(made) > 5
    assert scores in run_forked(*command, env=settings).stdout
    assert {path: path.stat().st_mtime_ns for path in made} == made


def check_text(name, text, verses):
    """The sets are those of the archives, and what trains is clean."""
    _, source, target = name.split("_")
    assert text[f"test.{target}"] == published(name, verses)
    pairs = list(zip(text[f"train.{source}"], text[f"train.{target}"], strict=True))
    assert 500 < len(pairs) <= 700
    if name == IWSLT:
        return
    assert "(Milk & honey, a well-known pair.)" in text["test.en"][0]
    assert [len(text[f"valid.{language}"]) for language in ("en", target)] == [12, 12]
    for pair in pairs:
        shorter, longer = sorted(len(side.split()) for side in pair)
        assert 1 <= shorter <= longer <= 1.5 * shorter
        assert not re.search("[\u2018-\u201d\u00a0]", "".join(pair))


def check_scores(scores, folder, references):
    """Those of the sacrebleu command for what was translated, and the tokenised ones apart."""
    (heading, ours), (other_heading, tokenised) = tables(scores).items()
    assert heading == "sacreBLEU"
    assert "Tokenised BLEU" in other_heading
    assert set(ours) == set(tokenised) == {"student", "student.int8", "teacher"}
    for system, score in ours.items():
        translations = (folder / "translations" / f"{system}.txt").read_text().splitlines()
        metric = sacrebleu.BLEU()
        want = metric.corpus_score(translations, [references]).score
        assert float(score) == pytest.approx(want, abs=0.006)
        assert f"BLEU|{metric.get_signature()}" in scores


def text_of(folder):
    """The lines of every file of its text."""
    return {path.name: path.read_text().splitlines() for path in (folder / "text").iterdir()}


@pytest.mark.parametrize("name", RECIPES)
def test_the_header_is_the_help(name):
    shown = run(script(name), "--help").stdout
    assert f"usage: scripts/{name}.sh [--smoke] [--local DIR]" in shown
    assert "Killed? Run" in shown
    assert "set -euo" not in shown
    assert run(script(name), "--smokes", check=False).returncode == 2
    assert run(script(name), "--local", check=False).returncode == 2


@pytest.mark.parametrize("name", RECIPES)
def test_the_run_file_of_a_recipe_is_valid(name):
    described = read_run(ROOT / "scripts" / f"{name}.yaml")
    assert str(described.folder) == f"runs/{name}"
    assert described.data == f"runs/{name}/data/bin"
    assert [stage.ratio for stage in described.ladder] == [0.7, 0.49, 0.25]
    assert described.get("controls", []) == ["undistilled", "inherited", "one-step"]


@pytest.mark.parametrize(
    ("name", "teacher"),
    [
        pytest.param(name, teacher, marks=[] if number < 2 else pytest.mark.slow)
        for number, (name, teacher) in enumerate(
            [(IWSLT, "base"), ("wmt14_en_de", "big"), *((name, "base") for name in WMT)]
            + [(name, "big") for name in WMT if name != "wmt14_en_de"]
        )
    ],
)
def test_its_published_setting_can_be_trained(name, teacher, data, tmp_path):
    """Every command is one that fairseq and our commands understand; the languages are others."""
    text = script(name).read_text()
    big = shlex.split(re.search(r"^big=\((.*)\)$", text, re.M)[1]) if teacher == "big" else []
    if teacher == "big" and not big:
        pytest.skip("it has one teacher")
    changes = [f"run={tmp_path}/run", f"data={data}", *big]
    plan = prepare_run(ROOT / "scripts" / f"{name}.yaml", changes)
    trained = {step.name: step.commands[0] for step in plan.steps if step.kind == "train"}
    stages, controls = ["stage-70", "stage-49", "student"], ["undistilled", "inherited", "one-step"]
    assert list(trained) == ["teacher", *stages, *controls]
    arch = trained["teacher"][trained["teacher"].index("--arch") + 1]
    assert arch.endswith("_big") == (teacher == "big")
    for command in trained.values():
        assert command[command.index("--adam-betas") + 1] == "(0.9, 0.98)"
        assert float(command[command.index("--warmup-init-lr") + 1]) == 1e-7
        assert "--fp16" in command


def test_each_kind_of_score_is_that_of_its_own_definition(verses, tmp_path):
    """On translations that are nearly the references, hyphens and entities included."""
    references = [f"{line} Ein Ost-West-Weg, A&amp;B." for line in verses["test.es"]]
    translations = [f"{line} Ein Ost-Weg, A&B." for line in verses["test.es"]]
    for folder, lines in (("data/text", references), ("translations", translations)):
        (tmp_path / folder).mkdir(parents=True)
        name = "test.de" if folder == "data/text" else "stage-70.int8.txt"
        (tmp_path / folder / name).write_text("".join(f"{line}\n" for line in lines))
    (tmp_path / "evaluation.json").write_text('{"quality": {"scores": {"stage-70, int8": {}}}}')
    settings = f"run={tmp_path} name=a smoke=0 tgt=de test_set= compounds=1 workers=1"
    words = f"source scripts/recipes.sh; source scripts/common.sh; {settings}; show_scores"
    shown = run_forked("bash", "-euo", "pipefail", "-c", words).stdout
    ours, tokenised = tables(shown).values()
    want = sacrebleu.corpus_bleu(translations, [references]).score
    assert float(ours["stage-70.int8"]) == pytest.approx(want, abs=0.006)
    moses = MosesTokenizer("de")
    split = [
        [
            re.sub(r"(\S)-(\S)", r"\1 ##AT##-##AT## \2", moses.tokenize(line, return_str=True))
            for line in (line.replace("&amp;", "&") for line in lines)
        ]
        for lines in (translations, references)
    ]
    want = sacrebleu.corpus_bleu(split[0], [split[1]], tokenize="none", force=True).score
    assert float(tokenised["stage-70.int8"]) == pytest.approx(want, abs=0.006)
    assert ours != tokenised


def refused(name, folder, *flags, **env):
    """The message of a recipe that cannot continue."""
    result = run(script(name), *flags, env={"RUN": str(folder / "run"), **env}, check=False)
    assert result.returncode == 1, result.stderr
    assert not (folder / "run" / "text").exists()
    return result.stderr


def test_a_missing_archive_is_named_with_its_address(verses, tmp_path):
    given = write_archives("wmt16_en_ro", verses, tmp_path / "given")
    (given / "wmt16.test.tgz").unlink()
    message = refused("wmt16_en_ro", tmp_path, "--smoke", "--local", given)
    address = "https://data.statmt.org/wmt16/translation-task/test.tgz"
    assert message == f"{given}/wmt16.test.tgz is missing. Download it from {address}.\n"


def test_a_damaged_archive_is_refused_and_stays_where_it_is(verses, tmp_path):
    given = write_archives("wmt16_en_ro", verses, tmp_path / "given")
    archive = given / "training-parallel-ep-v8.tgz"
    before = archive.read_bytes()
    message = refused("wmt16_en_ro", tmp_path, "--local", given)
    assert message.startswith(
        f"{archive} has the sha256 {hashlib.sha256(before).hexdigest()}, but "
    )
    assert message.endswith(
        "has 8917bd3bef3bc894c8519ca1f8a4c7c330aad08a1263655a9d99ee13d532e3c7; replace it by the "
        "published file.\n"
    )
    assert message.count("\n") == 1
    assert archive.read_bytes() == before
    assert not list((tmp_path / "run" / "archives").iterdir())


def test_text_of_a_smoke_run_with_other_lines_is_not_taken(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "made_from.txt").write_text("SMOKE_LINES=2000\n")
    words = (
        f"set -euo pipefail; source scripts/recipes.sh; run={tmp_path} smoke=1 lines=$0; make_text"
    )
    run("bash", "-c", words, 2000)
    message = (
        f"{tmp_path}/text already exists and was made from SMOKE_LINES=2000, not from "
        "SMOKE_LINES=600; give another RUN.\n"
    )
    assert run("bash", "-c", words, 600, check=False).stderr == message


@pytest.mark.parametrize(
    ("name", "flags", "env", "message"),
    [
        (IWSLT, ["--local", "/nowhere"], {}, "--local must be a folder that holds the archives,"),
        (IWSLT, [], {"TEACHER": "big"}, "TEACHER=big has no effect here:"),
        ("wmt14_en_de", ["--smoke"], {"TEACHER": "big"}, "TEACHER=big has no effect with --smoke,"),
        ("wmt14_en_de", [], {"TEACHER": "huge"}, "TEACHER must be base or big, but is huge."),
        ("wmt14_en_de", ["--smoke"], {"SMOKE_LINES": "few"}, "SMOKE_LINES must be a number"),
    ],
)
def test_a_mistaken_setting_is_refused_in_a_sentence(name, flags, env, message, tmp_path):
    printed = refused(name, tmp_path, *flags, **env)
    assert printed.startswith(message)
    assert printed.count("\n") == 1

"""The report in a browser, on a telephone and on a desktop, and as Markdown."""

import html
import json
import re
import shutil
import subprocess
import sys

import pytest

from fairseq_kd import cli
from fairseq_kd.evaluation import plots, report
from fairseq_kd.evaluation.pages import Code, Section, Table, html_page, markdown_page
from fairseq_kd.evaluation.plots import by_bins, front, pareto, training
from fairseq_kd.evaluation.results import EvaluationResult, TrainingCurves

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
WIDTHS = (400, 1400)  # pixels: a telephone, and a desk
LOOK = """<script>addEventListener("load", () => parent.postMessage(JSON.stringify({
  wide: document.documentElement.scrollWidth, tables: document.querySelectorAll("table").length,
  drawn: [...document.querySelectorAll("svg")].filter(svg => svg.getBBox().width > 0).length,
  missing: [...document.images].filter(image => !image.naturalWidth).length,
  smallest: Math.min(...[...document.querySelectorAll("p, td")]
    .map(each => parseFloat(getComputedStyle(each).fontSize))),
  ground: getComputedStyle(document.body).backgroundColor}), "*"))</script>"""
FRAME = """<body><pre id="message"></pre>
<script>addEventListener("message", each => message.textContent = each.data)</script>
<iframe src="page.html" style="width: {width}px; height: 900px; border: 0"></iframe></body>"""


def opened(page, folder, width, *flags):
    """Properties of the page in a frame of this width, and the console messages."""
    (folder / "page.html").write_text(page.replace("</body>", LOOK + "</body>"), encoding="utf-8")
    (folder / "frame.html").write_text(FRAME.replace("{width}", str(width)), encoding="utf-8")
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", *flags]
    command += ["--enable-logging=stderr", "--virtual-time-budget=4000", "--dump-dom"]
    command += [f"--user-data-dir={folder / 'profile'}", (folder / "frame.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    message = re.search(r'<pre id="message">(.*?)</pre>', done.stdout, re.S)
    assert message, done.stderr
    return json.loads(html.unescape(message[1])), re.findall(r".*CONSOLE.*", done.stderr)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_is_whole_in_a_browser(evaluated, width, tmp_path):
    page = (evaluated / "report.html").read_text(encoding="utf-8")
    message, console = opened(page, tmp_path, width)
    assert console == []
    assert message["wide"] <= width  # wide tables scroll by themselves
    assert message["missing"] == 0
    assert message["drawn"] == page.count("<svg ") > 2
    assert message["tables"] > 8
    assert message["smallest"] >= 13
    assert message["ground"] == "rgb(255, 255, 255)"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_dark_browser_gets_a_dark_page(evaluated, tmp_path):
    page = (evaluated / "report.html").read_text(encoding="utf-8")
    message, _ = opened(page, tmp_path, 1400, "--blink-settings=preferredColorScheme=0")
    assert message["ground"] == "rgb(20, 24, 28)"


SEARCH = """<script>addEventListener("load", () => {
  const box = document.querySelector("input"), all = box.closest("details");
  const shown = () => [...all.querySelectorAll("article")].filter(each => !each.hidden).length;
  const counts = [shown()];
  for (const text of ["%s", ""]) {
    box.value = text; box.dispatchEvent(new Event("input")); counts.push(shown()); }
  parent.postMessage(JSON.stringify(counts), "*") })</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_search_shows_the_sentences_with_the_text_alone(
    evaluated, measured, monkeypatch, tmp_path
):
    sentences = measured["sentences"]
    wanted = sentences[3]["source"]
    monkeypatch.setattr(sys.modules[__name__], "LOOK", SEARCH % wanted.upper())
    page = (evaluated / "report.html").read_text(encoding="utf-8")
    counts, console = opened(page, tmp_path, 1400)
    assert console == []
    same = sum(each["source"] == wanted for each in sentences)
    assert counts == [len(sentences), same, len(sentences)]


def test_the_page_needs_nothing_else(evaluated):
    page = (evaluated / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', page)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]+)\)", page)) | set(re.findall(r'href="#([^"]+)"', page))
    assert used <= set(ids)
    assert "#010203" not in page


def test_the_markdown_page_names_drawings_that_are_there(evaluated):
    page = (evaluated / "report.md").read_text(encoding="utf-8")
    drawings = re.findall(r"!\[[^]]+\]\(([^)]+)\)", page)
    assert len(drawings) > 2
    for drawing in drawings:
        assert (evaluated / drawing).read_bytes().startswith(b"\x89PNG")


def test_the_report_has_deployment_targets_and_gains(evaluated):
    page = (evaluated / "report.md").read_text(encoding="utf-8")
    section = page.partition("## Deployment")[2].partition("\n## ")[0]
    for use in ("phone", "edge", "cloud", "offline", "parameters saved", "BLEU kept"):
        assert f"| {use}" in section
    assert re.search(r"\d ms [✓✗]", section)


def test_what_a_page_holds_is_shown_as_it_is():
    table = Table(("a", "b"), [["x<y", "1"]])
    sections = [Section("T & U", ["say *so* `a|b` <i>", table, Code("a && b")]), Section("empty")]
    page = html_page("title", [("9 %", "of <all>")], sections)
    for shown in ("T &amp; U", "<em>so</em>", "<code>a|b</code>", "&lt;i&gt;", "<td>x&lt;y</td>"):
        assert shown in page
    assert "<pre>a &amp;&amp; b</pre>" in page
    assert "of &lt;all&gt;" in page
    assert "empty" not in page
    text = markdown_page("title", sections, "plots")
    assert "| x\\<y |  1 |" in text
    assert "empty" not in text


def test_the_pareto_front_holds_the_points_that_no_other_dominates():
    points = [(1, 16), (2, 14), (3, 15), (4, 12), (4, 13), (0.5, 16)]
    beaten = {p for p in points for q in points if q != p and q[0] >= p[0] and q[1] >= p[1]}
    assert pareto(points, more=True) == sorted(set(points) - beaten) == [(1, 16), (3, 15), (4, 13)]
    assert pareto(points, more=False) == [(0.5, 16)]


def test_without_matplotlib_one_line_names_the_command_that_installs_it(
    evaluate_words, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(evaluate_words(tmp_path / "out")) == 2
    assert "matplotlib, which is not installed (pip install matplotlib)" in capsys.readouterr().err


def test_an_old_matplotlib_runs_no_code_of_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    monkeypatch.setattr(plots.metadata, "version", lambda name: "3.10.9")
    (tmp_path / "matplotlibrc").write_text("axes.prop_cycle: cycler(c=(each for each in 'rgb'))")
    message = (
        "matplotlib 3.10.9 would run code in the file matplotlibrc of the current folder. Move "
        "that file away, or update: pip install 'matplotlib>=3.11'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        plots.check_matplotlib()
    assert "matplotlib" not in sys.modules


def test_systems_of_names_that_are_alike_have_drawings_of_their_own():
    curves = {"update": [1, 2], "loss": [3.0, 2.0]}
    trained = TrainingCurves("", curves, {})
    plots = [training(name, trained) for name in ("kd_t4", "kd-t4")]
    assert len({plot.name for plot in plots}) == 2
    ids = [set(re.findall(r'\bid="([^"]+)"', plot.svg)) for plot in plots]
    assert all(ids)
    assert not ids[0] & ids[1]


def renamed(measured, names):
    """The results with other names for the systems."""
    text = json.dumps(measured)
    for old, new in names.items():
        text = text.replace(f'"{old}', json.dumps(new)[:-1])
    return EvaluationResult.from_json(json.loads(text))


def test_names_are_plain_text_in_every_plot(measured):
    names = {"teacher": r"$\foo$", "small": r"_a\$b", "left alone": "100 $ & <b>"}
    figures = renamed(measured, names)
    bins = by_bins(figures.quality.by_rare, "by-rare", "")
    for plot in (front(figures, "speed"), front(figures, "size"), bins):
        for name in names.values():
            assert f">{html.escape(name, quote=False)}<" in plot.svg


def test_a_plot_that_fails_costs_no_figure(measured, tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError("no such\nfont")

    monkeypatch.setattr(report.plots, "by_bins", fail)
    table = report.write_report(tmp_path / "out", EvaluationResult.from_json(measured))
    assert "| teacher" in table
    page = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert page.count("A plot could not be drawn (no such font).") == 2
    assert "![BLEU over parameters" in page
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == measured
    assert (tmp_path / "out" / "plots" / "front-size.png").is_file()

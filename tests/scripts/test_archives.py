"""Archives of a recipe: from a server, and from a folder."""

import functools
import http.server
import threading

import pytest
from harness import ROOT, run

ARCHIVE = (
    'set -euo pipefail; cd "$1"; source "$0/scripts/recipes.sh"; cd "$1"; '
    'smoke=0 run=run given=$2; sum=$(sha256sum < web/a.tgz | cut -d " " -f 1); '
    'archive "$3" "sha256:$sum" a.tgz'
)


@pytest.fixture
def web(tmp_path):
    """A folder with an archive, and one for the archives of a run."""
    (tmp_path / "web").mkdir()
    (tmp_path / "run" / "archives").mkdir(parents=True)
    (tmp_path / "web" / "a.tgz").write_bytes(b"whole" * 999)
    return tmp_path / "web"


def test_a_download_begins_anew_where_the_server_cannot_go_on(web, tmp_path):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=web)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        (tmp_path / "run" / "archives" / "a.tgz.partial").write_bytes(b"whole" * 3)
        url = f"http://127.0.0.1:{server.server_port}/a.tgz"
        result = run("bash", "-c", ARCHIVE, ROOT, tmp_path, "", url, check=False)
        server.shutdown()
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "archives" / "a.tgz").read_bytes() == b"whole" * 999
    assert [path.name for path in (tmp_path / "run" / "archives").iterdir()] == ["a.tgz"]


def test_a_relative_folder_of_archives_is_found_from_everywhere(web, tmp_path):
    run("bash", "-c", ARCHIVE, ROOT, tmp_path, "web", "http://nowhere/a.tgz")
    assert (tmp_path / "run" / "archives" / "a.tgz").samefile(web / "a.tgz")


def test_another_archive_than_a_run_was_begun_with_is_refused(web, tmp_path):
    run("bash", "-c", ARCHIVE, ROOT, tmp_path, "web", "http://nowhere/a.tgz")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.tgz").write_bytes(b"other")
    command = ["bash", "-c", ARCHIVE, ROOT, tmp_path, "other", "http://nowhere/a.tgz"]
    result = run(*command, check=False)
    assert result.returncode != 0
    assert (
        "run was started with an archive a.tgz that differs from the one in other: give another "
        "RUN, or leave --local out." in result.stderr
    )

"""Public sets are fetched at one version and checked; Flickr8k is read from its archives as they are."""

import hashlib
import subprocess
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from emolib import profiles
from emolib.__main__ import main
from emolib.data import fetch, official, sets
from emolib.data.dataset import MissingData
from tests.hub import encoded


@pytest.fixture
def site(tmp_path):
    """A web server on loopback: its folder and its address."""
    (tmp_path / "site").mkdir()
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *arguments: None})
    handler = partial(quiet, directory=tmp_path / "site")
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path / "site", f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def test_a_file_is_checked_and_a_cut_one_fetched_again(site, tmp_path):
    (site[0] / "votes.csv").write_bytes(b"a,b\n1,2\n")
    md5, target = hashlib.md5(b"a,b\n1,2\n").hexdigest(), tmp_path / "data" / "votes.csv"
    fetch.download(f"{site[1]}/votes.csv", md5, target.parent)
    target.write_bytes(b"a,b\n")
    fetch.download(f"{site[1]}/votes.csv", md5, target.parent)
    assert target.read_bytes() == b"a,b\n1,2\n"
    (site[0] / "votes.csv").write_bytes(b"something else")
    target.unlink()
    with pytest.raises(ConnectionError, match="has not the MD5"):
        fetch.download(f"{site[1]}/votes.csv", md5, target.parent)


def test_a_clone_is_of_one_commit_goes_on_and_leaves_what_is_of_other_origin(tmp_path):
    origin, target = tmp_path / "origin", tmp_path / "data" / "msed"

    def git(*command):
        named = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(["git", "-C", origin, *named, *command], capture_output=True, text=True, check=True).stdout.strip()

    origin.mkdir()
    git("init", "-q")
    for text in ("first", "second"):
        (origin / "test.csv").write_text(text)
        git("add", ".")
        git("commit", "-qm", text)
    commit = git("rev-parse", "HEAD~1")
    with pytest.raises(OSError, match="git fetch"):
        fetch.clone(f"file://{origin}", "0" * 40, target)
    for name in ("index.lock", "shallow.lock"):  # as after a kill
        (target / ".git" / name).touch()
    fetch.clone(f"file://{origin}", commit, target)
    assert (target / "test.csv").read_text() == "first"
    fetch.clone("file:///nowhere", commit, target)  # what is whole is not asked for again
    subprocess.run(["git", "clone", "-q", origin, tmp_path / "data" / "own"], check=True)
    (tmp_path / "data" / "own" / "test.csv").write_text("my own change")
    fetch.clone(f"file://{origin}", commit, tmp_path / "data" / "own")
    assert (tmp_path / "data" / "own" / "test.csv").read_text() == "my own change"
    other = tmp_path / "data" / "other"
    other.mkdir()
    (other / "train.parquet").touch()
    fetch.clone(f"file://{origin}", commit, other)
    assert [path.name for path in other.iterdir()] == ["train.parquet"]


def test_the_command_names_terms_and_what_could_not_be_had(monkeypatch, tmp_path, capsys):
    def fail(folder):
        raise OSError("no network")

    made = (("One", "one", 2, "research only", lambda folder: folder.mkdir(parents=True)),
            ("Two", "two", 3, "MIT", fail))  # fmt: skip
    monkeypatch.setattr(fetch, "SETS", made)
    monkeypatch.setenv("EMOLIB_DATA", str(tmp_path / "raw"))
    assert main(["data"]) == 1 and (tmp_path / "raw" / "one").is_dir()
    said = capsys.readouterr()
    assert "research only" in said.out and "Two cannot be had (OSError: no network)" in said.err
    monkeypatch.setattr(fetch, "SETS", made[:0])
    assert main(["data"]) == 0


def test_flickr8k_is_read_from_its_archives(tmp_path, monkeypatch):
    folder = tmp_path / "flickr8k"
    folder.mkdir()
    names = [f"{i}_ab.jpg" for i in range(3)]
    with zipfile.ZipFile(folder / official.FLICKR[0], "w") as words:
        words.writestr("Flickr8k.token.txt", "\n".join(f"{n}#{k}\tcaption {k} of {n} ." for n in names for k in range(5)))
        words.writestr("Flickr_8k.testImages.txt", "\n".join(names[:0:-1]) + "\n")
    files = [encoded(face) for face in list(sets.demo_faces().values())[:3]]
    with zipfile.ZipFile(folder / official.FLICKR[1], "w") as pictures:
        for name, file in zip(names, files, strict=True):
            pictures.writestr(f"Flicker8k_Dataset/{name}", file)
    monkeypatch.setenv("EMOLIB_DATA", str(tmp_path))
    data = sets.captioned(profiles.get("full"))
    assert data.texts.tolist() == ["caption 0 of 2_ab.jpg .", "caption 0 of 1_ab.jpg ."] and data.images.tolist() == files[:0:-1]
    assert data.extras["captions"].shape == (2, 5) and "Flickr8k test, 2 pairs" in data.source
    lines = {name: sets.plan(profiles.get(name)) for name in ("full", "mini")}
    assert any(line.startswith(f"Flickr8k: {folder}") for line in lines["full"]) and not any("Flickr" in x for x in lines["mini"])
    assert any("MSED: not at hand" in line and "python -m emolib data" in line for line in lines["mini"])
    assert "from the Hub" in lines["full"][0] and "not at hand" in lines["mini"][0]
    (folder / official.FLICKR[1]).write_bytes(b"cut")
    with pytest.raises(MissingData, match=r"Flickr8k is not at hand.*not a zip file.*python -m emolib data"):
        sets.flickr8k.__wrapped__(profiles.get("full"))

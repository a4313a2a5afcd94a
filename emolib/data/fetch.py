"""Fetch what the study needs and no library loads by itself: each at one version, checked; what is there already is left."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from emolib.data import hub

GITHUB = "https://github.com"


def download(url: str, md5: str, folder: Path) -> None:
    """One file with a known checksum; ConnectionError or another OSError where it cannot be had or is another one."""
    from torchvision.datasets.utils import download_url

    def ask():
        try:
            download_url(url, folder, md5=md5)
        except RuntimeError as error:  # its word for a file that was cut, or is another one
            raise ConnectionError(f"what {url} gave has not the MD5 {md5}") from error

    hub.patiently(ask, url)


def clone(url: str, commit: str, folder: Path) -> None:
    """The files of one commit of a git repository, whose name vouches for every byte; a folder of other origin is left."""
    ours = folder / ".git" / "emolib"  # a mark: whoever has a clone of their own keeps it as it is
    if shutil.which("git") is None:
        raise OSError(f"git is not installed; install it, or put the files of {url} into {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and (not ours.exists() or ours.read_text() == "whole"):
        return
    for lock in (folder / ".git").glob("*.lock"):  # of a clone that was killed
        lock.unlink(missing_ok=True)
    for command in (["init"], ["fetch", "--depth=1", url, commit], ["checkout", "--force", "FETCH_HEAD"]):
        done = subprocess.run(["git", "-C", str(folder), *command, "--quiet"], capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"git {command[0]} {url}: {done.stderr.strip()[:200]}")
        ours.write_text("whole" if command[0] == "checkout" else "begun")


def flickr8k(folder: Path) -> None:
    """The two archives of Flickr8k."""
    where = f"{GITHUB}/jbrownlee/Datasets/releases/download/Flickr8k"
    download(f"{where}/Flickr8k_text.zip", "bf6c1abcb8e4a833b7f922104de18627", folder)
    download(f"{where}/Flickr8k_Dataset.zip", "f18a1e2920de5bd84dae7cf08ec78978", folder)


def ferplus(folder: Path) -> None:
    """The votes of FER+, which are joined with FER-2013's csv file by row."""
    commit = "ae2128abf776409c93e50cf7c9d87180673314e6"
    url = f"https://raw.githubusercontent.com/microsoft/FERPlus/{commit}/fer2013new.csv"
    download(url, "413eba86d6e454536b99705b8c7fc5c5", folder)


def msed(folder: Path) -> None:
    """MSED as its authors publish it."""
    clone(f"{GITHUB}/MSEDdataset/MSED", "e8e125471534545926d5a251746ed0a61981a463", folder)


# A set's name, its folder below that of the data, megabytes at most, terms, and what fetches it.
SETS = (
    ("FER+ votes", "fer2013", 2, "MIT", ferplus),
    ("MSED", "msed", 700, "research only, no redistribution", msed),
    ("Flickr8k", "flickr8k", 1100, "non-commercial research; the pictures remain their authors'", flickr8k),
)


def fetch(folder: Path) -> list[str]:
    """Fetch all sets into the data folder, saying of each what it is; returns a sentence for each that could not be had."""
    gaps = []
    for name, place, megabytes, terms, get in SETS:
        print(f"{name}: {megabytes:,} MB at most, into {folder / place}; terms: {terms}", flush=True)
        try:
            get(folder / place)
        except OSError as error:
            gaps.append(f"{name} cannot be had ({hub.reasons(error)}); run the same command again")
    return gaps

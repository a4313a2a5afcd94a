"""The walk over a device that refuses what a GPU refuses, in a process of its own: autograd counts devices only once."""

import subprocess
import sys
from pathlib import Path

from emolib.profiles import ROOT


def test_every_step_walks_over_the_pretended_gpu():
    walk = Path(__file__).with_name("walk_on_gpu.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(walk)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]

"""Groups of processes started by torchrun, which holds the store itself."""

import os
import pathlib
import subprocess
import sys

PROGRAM = pathlib.Path(__file__).parents[2] / "build" / "bin" / "test_dist"


def torchrun(*arguments):
    environment = dict(os.environ, ASPIS_DIST_TIMEOUT="60", OMP_NUM_THREADS="1")
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *arguments, "--no-python", "--nproc-per-node=2",
         str(PROGRAM), "group: worker"],
        env=environment, text=True, capture_output=True, timeout=200)


def test_torchrun_standalone():
    result = torchrun("--standalone")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("All tests passed") == 2

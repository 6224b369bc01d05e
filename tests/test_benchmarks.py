"""The small programs in benchmarks/ that need only the main requirements, at a small size.

.ci/run tests run.py and peers.py, which need more.
"""

import csv
import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT


def rows_of(folder, program, *flags):
    """Run a program in a process of its own; return the rows of its CSV file."""
    out = folder / "out.csv"
    words = [sys.executable, ROOT / "benchmarks" / f"{program}.py", out, *flags]
    subprocess.run([*map(str, words)], cwd=ROOT, check=True, capture_output=True)
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def test_gradient_variance(tmp_path):
    flags = ["--seeds", 1, "--steps", 2000, "--episodes", 32, "--log-dir", tmp_path]
    (row,) = rows_of(tmp_path, "gradient_variance", *flags)
    none, mean, value = (float(row[name]) for name in ("none", "mean", "value"))
    assert min(none, mean, value) > 0
    assert float(row["mean_x"]) == pytest.approx(none / mean, rel=2e-3)
    assert float(row["value_x"]) == pytest.approx(none / value, rel=2e-3)


def test_q_variance(tmp_path):
    """After 2,000 steps, Q is 15 to 20 and the ratio is 68 to 354 (seeds 0 to 7)."""
    flags = ["--seeds", 1, "--steps", 2000, "--sample", 200, "--log-dir", tmp_path]
    (row,) = rows_of(tmp_path, "q_variance", *flags)
    q, advantage = float(row["variance_q"]), float(row["variance_advantage"])
    assert float(row["ratio"]) == pytest.approx(q / advantage, rel=2e-3)
    assert float(row["rms_q"]) > 5
    assert q > 10 * advantage > 0


def test_td0_speed(tmp_path):
    rows = rows_of(tmp_path, "td0_speed", "--steps", 300, "--repeats", 2)
    assert [row["who"] for row in rows] == ["ours", "straightforward"] * 2
    for row in rows:
        speed = int(row["steps"]) / float(row["seconds"])
        assert float(row["updates_per_second"]) == pytest.approx(speed, rel=0.1)


def test_ddpg_time(tmp_path):
    """The parts of an update take less time than the whole."""
    rows = rows_of(tmp_path, "ddpg_time", "--rounds", 2, "--updates", 5)
    assert [row["round"] for row in rows] == ["0", "1"]
    for row in rows:
        parts = [float(row[name]) for name in ("adam", "targets", "sampling")]
        assert 0 < sum(parts) < float(row["update"])
        assert min(float(row["large_products"]), float(row["small_products"])) > 0


@pytest.mark.skipif(shutil.which("taskset") is None, reason="needs taskset")
def test_seeds_alternates_and_skips_what_is_there(tmp_path):
    command = ["a2c_discrete.py", "--total-timesteps", "1000", "--eval-episodes", "1"]
    other = ["reinforce_baseline.py", "--total-timesteps", "1000", "--target-return", "9999"]
    for number in (1, 2):
        core = min(os.sched_getaffinity(0))
        words = ["--first", 3, "--seeds", number, "--cores", core, "--", *command, "--", *other]
        rows = rows_of(tmp_path, "seeds", *words)
        who = [(row["who"], row["seed"]) for row in rows]
        scripts = ("a2c_discrete", "reinforce_baseline")
        assert who == [(script, str(3 + i)) for i in range(number) for script in scripts]
    assert [row["solved"] for row in rows] == ["", "0"] * 2
    assert all(int(row["steps"]) >= 1000 and float(row["seconds"]) > 0 for row in rows)
    assert rows[0]["flags"] == " ".join(command[1:])

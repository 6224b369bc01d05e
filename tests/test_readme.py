"""The tables in the README say what the raw results say."""

import csv
import re

import numpy as np
import pytest
import tomllib

from tests.conftest import ROOT

RESULTS = ROOT / "benchmarks" / "results"
README = (ROOT / "README.md").read_text()


def rows_of(path):
    return [row for row in csv.DictReader(path.open()) if row["who"] != "sb3"]


def interquartile_mean(numbers):
    """The mean of the middle half: a quarter, rounded down, is left out at each end."""
    numbers, cut = np.sort(numbers), len(numbers) // 4
    return numbers[cut : len(numbers) - cut].mean()


def evaluation_rows():
    """(script, environment, flags, interquartile mean, worst, seeds) of each row in the README."""
    found = []
    for script, section in re.findall(r"^## (\w+)\.py\n(.*?)(?=^## )", README, re.M | re.S):
        for line in section.splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if len(cells) == 6 and re.fullmatch(r"\w+-v\d", cells[0]):
                found.append((script, *cells[:2], *cells[3:]))
    return found


@pytest.mark.parametrize("row", evaluation_rows(), ids=lambda row: "-".join(row[:2]))
def test_evaluation_tables(row):
    script, env_id, _, mean, worst, seeds = row
    rows = rows_of(RESULTS / f"{script}-{env_id}.csv")
    returns = np.array([float(r["eval_mean"]) for r in rows])
    assert mean == f"{interquartile_mean(returns):.1f}"
    assert worst == f"{returns.min():.1f}"
    assert int(seeds) == len(rows) == len({r["seed"] for r in rows})
    assert len({r["flags"] for r in rows}) == 1  # all seeds had the same flags


def test_all_results_have_their_row():
    files = {path.stem for path in RESULTS.glob("*-v?.csv")}
    assert files == {f"{script}-{env_id}" for script, env_id, *_ in evaluation_rows()}


def test_the_flags_are_those_of_the_settings():
    with (ROOT / "benchmarks" / "settings.toml").open("rb") as file:
        experiments = tomllib.load(file)["experiment"]
    settings = {
        (e["script"], e["env"]): e.get("flags", "") for e in experiments if "variant" not in e
    }
    above = ""
    for script, env_id, flags, *_ in evaluation_rows():
        above = {"none": "", "the same": above}.get(flags, flags.strip("`"))
        assert settings[script, env_id] == above


def test_every_test_that_is_named_exists():
    source = "".join(path.read_text() for path in ROOT.glob("tests/test_*.py"))
    names = re.findall(r"`(test_\w+)`", README)
    assert len(names) > 10
    assert [name for name in names if f"def {name}(" not in source] == []


@pytest.mark.parametrize("baseline", ["none", "mean", "value"])
def test_reinforce_table(baseline):
    (line,) = re.findall(rf"^\| {baseline} \|.*$", README, re.M)
    steps_median, steps_worst, worst = [cell.strip() for cell in line.strip("|").split("|")][4:]
    rows = rows_of(RESULTS / f"reinforce-race-{baseline}.csv")
    steps = [int(row["steps"]) for row in rows]
    assert {row["solved"] for row in rows} == {"1"}
    assert (steps_median, steps_worst) == tuple(
        f"{number / 1000:.0f}k" for number in (np.median(steps), max(steps))
    )
    assert worst == f"{min(float(row['eval_mean']) for row in rows):.1f}"
    with (RESULTS / "reinforce-gradient-variance.csv").open() as file:
        variances = list(csv.DictReader(file))
    if baseline != "none":
        ratios = [float(row["none"]) / float(row[baseline]) for row in variances]
        want = [f"1/{ratio:.1f}" for ratio in (np.median(ratios), max(ratios), min(ratios))]
        assert [cell.strip() for cell in line.strip("|").split("|")][1:4] == want


TD0 = re.findall(r"^\| `--critic .*\|$", README, re.M)


@pytest.mark.parametrize("line", TD0, ids=lambda line: line.split("`")[1])
def test_td0_table(line):
    flags, at_most, solved, median, worst, mean, lowest = [c.strip() for c in line.split("|")[1:-1]]
    name = flags.strip("`").replace("--", "").replace(" ", "-")
    rows = rows_of(RESULTS / f"ac_td0-race-{name}.csv")
    assert len({row["seed"] for row in rows}) == len(rows)
    assert len({row["flags"] for row in rows}) == 1
    steps = [int(row["steps"]) for row in rows if row["solved"] == "1"]
    assert solved == f"{len(steps)} of {len(rows)}"
    assert max(int(row["steps"]) for row in rows) <= 1000 * int(at_most.strip("k"))
    if len(steps) == len(rows):
        assert [median, worst] == [f"{x / 1000:.0f}k" for x in (np.median(steps), max(steps))]
    else:
        assert [median, worst] == ["", ""]
    returns = np.array([float(row["eval_mean"]) for row in rows])
    assert [mean, lowest] == [f"{x:.1f}" for x in (interquartile_mean(returns), returns.min())]


def test_td0_table_is_there():
    assert len(TD0) == len(list(RESULTS.glob("ac_td0-race-*.csv")))

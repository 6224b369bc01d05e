"""The tables in the README say what the raw results say."""

import csv
import re

import numpy as np
import pytest
import tomllib

from tests.conftest import ROOT

RESULTS = ROOT / "benchmarks" / "results"
README = (ROOT / "README.md").read_text()
WORDS = " ".join(README.split())
PEERS = ("peers", "sb3", "transcription")  # who it is that a run of ours is followed by


with (RESULTS / "summary.csv").open() as file:
    SUMMARY = list(csv.DictReader(file))


def rows_of(path):
    return [row for row in csv.DictReader(path.open()) if row.get("who") not in PEERS]


def experiment(script, env_id, variant=""):
    """Rows of summary.csv, one for each seed."""
    key = (script, env_id, variant)
    return [row for row in SUMMARY if (row["script"], row["env"], row["variant"]) == key]


def interquartile_mean(numbers):
    """The mean of the middle half: a quarter, rounded down, is left out at each end."""
    numbers, cut = np.sort(numbers), len(numbers) // 4
    return numbers[cut : len(numbers) - cut].mean()


def evaluation_rows():
    """(script, environment, flags, steps, interquartile mean, worst, seeds) of each row."""
    found = []
    for script, section in re.findall(r"^## (\w+)\.py\n(.*?)(?=^## )", README, re.M | re.S):
        for line in section.splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if len(cells) == 6 and re.fullmatch(r"\w+-v\d", cells[0]):
                found.append((script, *cells))
    return found


@pytest.mark.parametrize("row", evaluation_rows(), ids=lambda row: "-".join(row[:2]))
def test_evaluation_tables(row):
    script, env_id, _, steps, mean, worst, seeds = row
    rows = experiment(script, env_id)
    assert f"({steps}, {seeds})" in cell(rows)
    returns = np.array([float(r["eval_mean"]) for r in rows])
    assert mean == f"{interquartile_mean(returns):.1f}"
    assert worst == f"{returns.min():.1f}"
    assert int(seeds) == len(rows) == len({r["seed"] for r in rows})
    assert len({r["flags"] for r in rows}) == 1  # all seeds had the same flags


def test_all_results_have_their_row():
    ours = [row for row in SUMMARY if row["script"] != "peers" and not row["variant"]]
    found = {f"{row['script']}-{row['env']}" for row in ours}
    assert found == {f"{script}-{env_id}" for script, env_id, *_ in evaluation_rows()}


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


def test_the_results_were_made_with_the_settings():
    with (ROOT / "benchmarks" / "settings.toml").open("rb") as file:
        for e in tomllib.load(file)["experiment"]:
            rows = experiment(e["script"], e["env"], e.get("variant", ""))
            assert {row["flags"] for row in rows} <= {e.get("flags", "")}


def test_reporting_runs_have_the_frozen_flags_and_seeds():
    """Seeds from 100 on were never used to choose flags."""
    with (ROOT / "benchmarks" / "settings.toml").open("rb") as file:
        experiments = tomllib.load(file)["experiment"]
    frozen = {(e["script"], e["env"], e.get("variant", "")): e for e in experiments}
    assert all(e["seeds"][0] >= 100 for e in experiments)
    path = RESULTS / "reporting" / "summary.csv"
    for row in csv.DictReader(path.open()) if path.exists() else []:
        found = frozen[row["script"], row["env"], row["variant"]]
        assert int(row["seed"]) in range(*found["seeds"])
        assert row["flags"] == found.get("flags", "")


METHODS = {  # scripts, and the variant where there are some
    "A2C": (("a2c_discrete", "a2c_continuous"), ""),
    "DDPG": (("ddpg",), ""),
    "REINFORCE, learned baseline": (("reinforce_baseline",), "value"),
    "one-step actor-critic": (("ac_td0",), "v"),
    "QAC": (("ac_td0",), "q"),
}
RESULT_ROWS = re.findall(r"^\| ([\w-]+-v\d) \| ([^|]+) \| ([^|]+) \| ([^|]*)\|", README, re.M)
RESULT_ROWS = [row for row in RESULT_ROWS if row[1] in METHODS]


def cell(rows):
    """Interquartile mean, worst, steps, seeds."""
    returns = np.array([float(row["eval_mean"]) for row in rows])
    steps = int(float(f"{max(int(row['steps']) for row in rows):.2g}"))
    steps = f"{steps // 1_000_000}M" if steps >= 1_000_000 else f"{steps // 1000}k"
    return f"{interquartile_mean(returns):.1f}, {returns.min():.1f} ({steps}, {len(rows)})"


@pytest.mark.parametrize("row", RESULT_ROWS, ids=lambda row: "-".join(row[:2]))
def test_results_table(row):
    env_id, method, here, peer = (part.strip() for part in row)
    scripts, variant = METHODS[method]
    (rows,) = filter(None, (experiment(s, env_id, v) for s in scripts for v in {variant, ""}))
    assert here == cell(rows)
    peers = ["zoo-200k"] * (method == "A2C") + [rows[0]["script"]]
    peers = [experiment("peers", env_id, name) for name in peers]
    assert peer == "; ".join(cell(rows) for rows in peers if rows)


def test_results_table_has_all_methods_and_environments():
    minor = {"none", "mean", "discounted"}  # variants that have their place in the sections only
    rows = [r for r in SUMMARY if r["script"] != "peers" and r["variant"] not in minor]
    assert len(RESULT_ROWS) == len({(r["script"], r["env"], r["variant"]) for r in rows})
    assert len({(env_id, method) for env_id, method, *_ in RESULT_ROWS}) == len(RESULT_ROWS)


def test_every_flag_and_function_that_is_named_exists():
    scripts = {path.name: path.read_text() for path in ROOT.glob("*.py")}
    others = "".join(path.read_text() for path in ROOT.glob("benchmarks/*.py"))
    flags = set(re.findall(r"--(?:no-)?([a-z][a-z-]+)", README)) - {"help", "logdir", "no-", "with"}
    known = {
        name.replace("_", "-")
        for name in re.findall(r"^    (\w+): ", "".join(scripts.values()) + others, re.M)
    }
    known |= set(re.findall(r'"--([a-z-]+)"', others))
    assert flags - known == set()
    for function, script in re.findall(r"`(\w+)` in `(\w+\.py)`", README):
        assert f"def {function}(" in scripts[script]


def test_every_test_that_is_named_exists():
    source = "".join(path.read_text() for path in ROOT.glob("tests/test_*.py"))
    names = re.findall(r"`(test_\w+)`", README)
    assert len(names) > 10
    assert [name for name in names if f"def {name}(" not in source] == []


@pytest.mark.parametrize("baseline", ["none", "mean", "value"])
def test_reinforce_table(baseline):
    (line,) = re.findall(rf"^\| {baseline} \|.*$", README, re.M)
    steps_median, steps_worst, worst = [cell.strip() for cell in line.strip("|").split("|")][4:]
    rows = experiment("reinforce_baseline", "CartPole-v1", baseline)
    steps = [int(row["steps_to_threshold"]) for row in rows]
    assert all("--target-return 475" in row["flags"] for row in rows)
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
    words = {*flags.strip("`").removeprefix("--critic v").split(), "--target-return", "475"}
    with (ROOT / "benchmarks" / "settings.toml").open("rb") as file:
        known = [e for e in tomllib.load(file)["experiment"] if e["script"] == "ac_td0"]
    known = [e for e in known if e["env"] == "CartPole-v1"]
    (found,) = [e for e in known if set(e["flags"].split()) == words]
    rows = experiment("ac_td0", "CartPole-v1", found["variant"])
    assert len({row["seed"] for row in rows}) == len(rows)
    assert {row["flags"] for row in rows} == {found["flags"]}
    steps = [int(row["steps_to_threshold"]) for row in rows if row["steps_to_threshold"]]
    assert solved == f"{len(steps)} of {len(rows)}"
    assert max(int(row["steps"]) for row in rows) <= 1000 * int(at_most.strip("k"))
    if len(steps) == len(rows):
        assert [median, worst] == [f"{x / 1000:.0f}k" for x in (np.median(steps), max(steps))]
    else:
        assert [median, worst] == ["", ""]
    returns = np.array([float(row["eval_mean"]) for row in rows])
    assert [mean, lowest] == [f"{x:.1f}" for x in (interquartile_mean(returns), returns.min())]


def test_td0_table_is_there():
    rows = [row for row in SUMMARY if row["script"] == "ac_td0" and row["env"] == "CartPole-v1"]
    assert len(TD0) == len({row["variant"] for row in rows})


def columns(name, column, pattern=""):
    """Numbers of ours and of SB3's runs after each, where the flags of both match."""
    with (RESULTS / f"{name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    pairs = zip(rows[::2], rows[1::2], strict=True)
    pairs = [two for two in pairs if re.search(pattern, " ".join(r.get("flags", "") for r in two))]
    assert len(pairs) > 2
    assert all(a["who"] not in PEERS and b["who"] in PEERS for a, b in pairs)
    return [[float(row[column]) for row in who] for who in zip(*pairs, strict=True)]


@pytest.mark.parametrize(
    ("script", "pattern", "column", "template"),
    [
        ("a2c_continuous", "Pendulum", "sps", "{:,.0f} against {:,.0f} steps/s ({:.1f} times)"),
        ("a2c_continuous", "Hopper", "sps", "{:,.0f} against {:,.0f} ({:.1f} times)"),
        ("ac_td0", "", "updates_per_second", "{:.0f} against {:.0f} updates/s, {:.1f} times"),
        ("ddpg", "", "sps", "{:.0f} against {:.0f} steps/s, {:.1f} times"),
        ("a2c_discrete", "num-envs 8", "sps", "5 steps | {:,.0f} | {:,.0f} | {:.1f} |"),
        ("a2c_discrete", "400000", "sps", "16 steps | {:,.0f} | {:,.0f} | {:.1f} |"),
        ("a2c_discrete", "sync", "sps", "`--vectorization sync` | {:,.0f} | {:,.0f} | {:.1f} |"),
    ],
)
def test_speeds(script, pattern, column, template):
    ours, peers = columns(f"{script}-throughput", column, pattern)
    ratio = np.median(np.divide(ours, peers))  # each run to its neighbour
    assert template.format(np.median(ours), np.median(peers), ratio) in WORDS


def test_lunar_lander_words():
    ours = [float(r["seconds_to_threshold"] or "inf") for r in experiment("a2c_discrete", LUNAR)]
    steps = [float(r["steps_to_threshold"] or "inf") for r in experiment("a2c_discrete", LUNAR)]
    peers, zoo = (experiment("peers", LUNAR, variant) for variant in ("a2c_discrete", "zoo-200k"))
    assert not any(r["steps_to_threshold"] for r in peers + zoo)
    words = (
        f"{np.median(ours):.0f} seconds and {np.median(steps) / 1000:.0f}k steps (medians; worst "
    )
    words += f"{max(ours):.0f} s and {max(steps) / 1000:.0f}k)"
    assert words in WORDS
    least, most = (f(float(r["seconds"]) / 60 for r in peers) for f in (min, max))
    words = (
        f"in none of its {len(peers)} runs of a million steps, which took {least:.0f} to {most:.0f}"
    )
    assert words in WORDS
    words = "three runs evaluate at {}, {} and {}.".format(
        *(f"{float(r['eval_mean']):.1f}" for r in zoo)
    )
    assert words in WORDS


def test_critic_updates_words():
    def solved(name):
        rows = rows_of(RESULTS / f"{name}.csv")
        assert len(rows) == len({row["seed"] for row in rows}) == 10
        assert all("--target-return 475 --total-timesteps 250000" in row["flags"] for row in rows)
        return sum(int(row["solved"]) for row in rows)

    assert solved("a2c_discrete-race") == 10
    words = f"With K = 1 and the same rates, {solved('a2c_discrete-race-k1')} of 10 seeds"
    assert words in WORDS


PENDULUM = re.findall(r"^\| (the defaults|`--[^|]+`)((?: \| -\d+\.\d){3}) \|$", README, re.M)


@pytest.mark.parametrize(("flags", "cells"), PENDULUM, ids=[row[0] for row in PENDULUM])
def test_what_pendulum_needs(flags, cells):
    if flags == "the defaults":
        rows = experiment("a2c_continuous", "Pendulum-v1")[:3]
    else:
        rows = rows_of(RESULTS / "a2c_continuous-Pendulum-v1-without.csv")
        rows = [row for row in rows if row["flags"] == flags.strip("`")]
    assert [row["seed"] for row in rows] == ["0", "1", "2"]
    assert cells == "".join(f" | {float(row['eval_mean']):.1f}" for row in rows)


def test_what_pendulum_needs_is_there():
    assert len(PENDULUM) == 5


def test_what_half_cheetah_needs():
    rows = rows_of(RESULTS / "a2c_continuous-tried.csv")
    tried = {row["flags"].split()[-1]: row for row in rows if "HalfCheetah" in row["flags"]}
    numbers = [float(experiment("a2c_continuous", "HalfCheetah-v5")[0]["eval_mean"])]
    numbers += [float(tried[flag]["eval_mean"]) for flag in ("--no-norm-obs", "--no-norm-reward")]
    words = (
        "seed 0 evaluates at {:.0f}, with `--no-norm-obs` at {:.0f}, and with `--no-norm-reward` at"
    )
    assert words.format(*numbers) + f" {numbers[2]:.0f}." in WORDS


HOPPER = re.findall(r"^\| (the flags above|with `--[^|]+`) ((?:\| *\d* *){5})\|$", README, re.M)


@pytest.mark.parametrize(("flags", "cells"), HOPPER, ids=[row[0] for row in HOPPER])
def test_what_was_tried_on_hopper(flags, cells):
    def values(text):
        return dict(re.findall(r"--(\S+) (\S+)", text.replace("`", " ")))

    rows = experiment("a2c_continuous", "Hopper-v5")
    if flags != "the flags above":
        want = {"env-id": "Hopper-v5"} | values(rows[0]["flags"]) | values(flags)
        rows = rows_of(RESULTS / "a2c_continuous-tried.csv")
        rows = [row for row in rows if values(row["flags"]) == want]
    found = {int(row["seed"]): f"{float(row['eval_mean']):.0f}" for row in rows}
    assert len(found) == len(rows) > 0
    assert [cell.strip() for cell in cells.split("|")[1:]] == [found.get(s, "") for s in range(5)]


def test_what_was_tried_on_hopper_is_there():
    assert len(HOPPER) == 7


LUNAR, LUNAR_CONTINUOUS = "LunarLander-v3", "LunarLanderContinuous-v3"


def test_reinforce_on_lunar_lander():
    bad, *good = sorted(
        experiment("reinforce_baseline", LUNAR), key=lambda r: float(r["eval_mean"])
    )
    words = f"({float(bad['eval_mean']):.0f}), though its training episodes average "
    words += f"{float(bad['train_return']):.0f}; the others end between "
    words += " and ".join(f"{float(row['eval_mean']):.0f}" for row in (good[0], good[-1]))
    assert words in WORDS
    rows = rows_of(RESULTS / "reinforce_baseline-tried.csv")

    def tried(flags):
        rows_ = [row for row in rows if row["flags"].endswith(f" {flags}")]
        assert [row["seed"] for row in rows_] == [str(seed) for seed in range(len(rows_))]
        *numbers, last = [f"{float(row['eval_mean']):.0f}" for row in rows_]
        return f"{', '.join(numbers)} and {last}"

    one, two = "--gamma 0.995 --num-envs 2", "--gamma 0.999 --num-envs 2 --actor-lr 2e-3"
    words = f"`{one}` the five end at {tried(one)}, with `{two}` the first four at {tried(two)} ("
    assert words in WORDS


def test_reinforce_seconds():
    kinds = [experiment("reinforce_baseline", "CartPole-v1", b) for b in ("none", "mean", "value")]
    seconds = [f"{np.median([float(r['seconds']) for r in rows]):.1f}" for rows in kinds]
    assert "medians of {}, {} and {} for".format(*seconds) in WORDS


def test_td0_words():
    steps = {
        variant: [
            int(r["steps_to_threshold"]) / 1000
            for r in experiment("ac_td0", "CartPole-v1", variant)
        ]
        for variant in ("v", "discounted")
    }
    ranges = [f"{min(x):.0f}k to {max(x):.0f}k" for x in (steps["discounted"], steps["v"])]
    assert "({} with it, {} without)".format(*ranges) in WORDS
    greedy = [r["eval_mean"] for r in experiment("ac_td0", "CartPole-v1", "q")]
    assert (greedy.count("500.00"), "though one plays 500" in WORDS) == (1, True)
    tried = [
        (row["flags"].split(" --target")[0], row) for row in rows_of(RESULTS / "ac_td0-tried.csv")
    ]
    q = [row["eval_mean"] for flags, row in tried if flags == "--critic q"]
    assert f"seeds 0 and 1 ended at {float(q[0]):.1f} and {float(q[1]):.1f}" in WORDS
    sgd = {flags: row for flags, row in tried if "sgd" in flags}
    slow = sgd["--optimizer sgd --actor-lr 1e-4 --critic-lr 1e-3"]
    fast = sgd["--optimizer sgd --actor-lr 1e-3 --critic-lr 1e-2"]
    assert f"seed 0 plays {float(slow['eval_mean']):.1f} after" in WORDS
    assert f"ten times these rates {float(fast['eval_mean']):.1f}." in WORDS
    v, q = (experiment("ac_td0", "Acrobot-v1", variant) for variant in "vq")
    first = [int(row["steps_to_threshold"]) / 1000 for row in v]
    greedy = [float(row["eval_mean"]) for row in v]
    assert f"average -100 after {min(first):.0f}k to {max(first):.0f}k steps, and the" in WORDS
    assert f"policy ends at {max(greedy):.1f} to {min(greedy):.1f}. Q," in WORDS
    assert not any(row["steps_to_threshold"] for row in q)
    last = [float(row["train_return"]) for row in q]
    assert f"episodes average {min(last):.0f} to {max(last):.0f}, and of" in WORDS
    assert [float(row["eval_mean"]) for row in q].count(-500) == 4
    assert "four never reach the goal (-500)" in WORDS
    with (RESULTS / "ac_td0-q-variance.csv").open() as file:
        ratios = [float(row["ratio"]) for row in csv.DictReader(file)]
    assert f"has {np.median(ratios):.0f} times the variance" in WORDS
    assert f"from {min(ratios):.0f} to {max(ratios):.0f});" in WORDS


def test_what_was_tried_on_lunar_lander_continuous():
    def part(rows, flags, start=80_000, end=95_000):
        """Means of the points between these steps, of each seed."""
        found = {}
        for row in rows:
            if start < int(row["step"]) <= end and flags == row["flags"]:
                found.setdefault(row["seed"], []).append(float(row["return"]))
        return [np.mean(returns) for _, returns in sorted(found.items())]

    plain = experiment("ddpg", LUNAR_CONTINUOUS)[0]["flags"].replace(" --exploration-noise 0.2", "")
    *used, row = rows_of(RESULTS / "ddpg-tried.csv")
    assert [(r["flags"], r["seed"]) for r in used] == [(plain, str(seed)) for seed in range(5)]
    *first, last = [f"{float(r['eval_mean']):.0f}" for r in used]
    mean = interquartile_mean([float(r["eval_mean"]) for r in used])
    words = f"`--exploration-noise 0.1` the five seeds end at {', '.join(first)} and {last}"
    assert f"{words} (interquartile mean {mean:.1f}):" in WORDS
    added = row["flags"].removeprefix(plain).strip()
    ends = [float(r["eval_mean"]) for r in (row, used[int(row["seed"])])]
    assert f"`{added}` seed {row['seed']} ends at {ends[0]:.0f}, not {ends[1]:.0f}." in WORDS
    tried = rows_of(RESULTS / "ddpg-tried-curves.csv")
    ours = part(tried, plain)
    assert len(ours) == 5
    assert f"these five seeds ({min(ours):.0f} to {max(ours):.0f}):" in WORDS
    zoo = "--hidden-sizes 400 300 --batch-size 100 --buffer-size 200000"
    assert f"`{zoo}`" in WORDS
    zoo = plain.replace("--batch-size 128", zoo)
    (ahead,) = part(tried, zoo)
    assert f"seed 0 was ahead there ({ahead:.0f})" in WORDS
    (later,) = part(tried, zoo, 100_000, 140_000)
    five = part(tried, plain, 100_000, 140_000)
    words = f"{later:.0f} between steps 100k and 140k, where the five average {min(five):.0f} to"
    assert f"{words} {max(five):.0f}, and was stopped" in WORDS
    assert later < min(five)
    tried = [row for row in tried if row["flags"] not in (zoo, plain)]
    kinds = [plain.replace("--gamma 0.98 ", "")]
    kinds += [f"{plain} {added}" for added in ("--twin-critics", "--actor-lr 1e-4")]
    gamma, twin, rate = (part(tried, flags)[0] for flags in kinds)
    _, second = part(tried, row["flags"])
    words = (
        f"with these rates ({second:.0f}), and seed 0 with the default gamma ({gamma:.0f}), with "
    )
    words += f"`--twin-critics` ({twin:.0f}) and with `--actor-lr 1e-4` ({rate:.0f})."
    assert words in WORDS
    assert max(second, gamma, twin, rate) < min(ours)
    last = {(r["flags"], r["seed"]): int(r["step"]) / 1000 for r in tried}
    first, *_, latest, whole = sorted(last.values())
    assert len(last) == 5
    assert whole > 299
    assert f"Four runs were stopped after {first:.0f}k to {latest:.0f}k steps" in WORDS


QUICK = re.findall(r"^\| (.+) \| (-\S+) \| (-\S+) \| (\d+ to \d+) \|$", README, re.M)


@pytest.mark.parametrize(("flags", "mean", "worst", "seconds"), QUICK)
def test_quick_pendulum(flags, mean, worst, seconds):
    flags = {"the defaults": ""}.get(flags, flags.strip("`"))
    rows = [row for row in rows_of(RESULTS / "ddpg-small.csv") if row["flags"] == flags]
    assert len({row["seed"] for row in rows}) == len(rows) == 10
    returns = np.array([float(row["eval_mean"]) for row in rows])
    assert (mean, worst) == (f"{interquartile_mean(returns):.1f}", f"{min(returns):.1f}")
    times = [float(row["seconds"]) for row in rows]
    assert seconds == f"{min(times):.0f} to {max(times):.0f}"


def test_too_quick_pendulum():
    flags = QUICK[-1][0].strip("`") + " --learning-starts 3000"
    rows = [row for row in rows_of(RESULTS / "ddpg-small.csv") if row["flags"] == flags]
    assert len({row["seed"] for row in rows}) == len(rows) == 10
    returns = np.array([float(row["eval_mean"]) for row in rows])
    assert sum(returns < -200) == 3
    mean = f"{interquartile_mean(returns):.1f}"
    words = f"three of ten seeds fail, the worst at {min(returns):.1f} (interquartile mean {mean})"
    assert words in WORDS


def test_quick_pendulum_is_there():
    kinds = {row["flags"] for row in rows_of(RESULTS / "ddpg-small.csv")}
    assert len(QUICK) == len(kinds) - 1 == 3


def test_where_the_time_of_an_update_goes():
    rows = rows_of(RESULTS / "ddpg-time.csv")
    shares = {
        name: np.median([float(row[name]) / float(row["update"]) for row in rows])
        for name in rows[0]
    }
    words = (
        "{large_products:.0%} goes into ten products of 256 x 256 matrices, {small_products:.0%} "
        "into the 18 smaller ones, {adam:.0%} into Adam, {targets:.0%} into moving the targets, "
        "{sampling:.0%} into the sampling"
    )
    assert len(rows) == 20
    assert words.format(**shares).replace("%", " %") in WORDS


def test_race():
    for column, unit, form in (("seconds", 1, "{:.1f}"), ("steps", 1000, "{:.0f}k")):
        ours, peers = np.array(columns("a2c_discrete-race", column)) / unit
        cells = [f"{form} (worst {form})".format(np.median(x), max(x)) for x in (ours, peers)]
        assert f"| {cells[0]} | {cells[1]} | {np.median(peers / ours):.1f} |" in README
    assert f"ours within {max(ours):.0f}k steps, SB3 within {max(peers):.0f}k:" in WORDS
    bad = min(
        experiment("peers", "CartPole-v1", "a2c_discrete"), key=lambda r: float(r["eval_mean"])
    )
    lost = f"SB3's seed {bad['seed']} is at {float(bad['eval_mean']):.0f} after"
    assert lost in WORDS


def test_what_is_said_of_training_returns():
    def last_100(script, env_id):
        return [float(row["train_return"]) for row in experiment(script, env_id)]

    lunar = last_100("a2c_continuous", "LunarLanderContinuous-v3")
    assert not any(r["steps_to_threshold"] for r in experiment("a2c_continuous", LUNAR_CONTINUOUS))
    assert f"training episodes average 200 ({min(lunar):.0f} to {max(lunar):.0f})" in WORDS
    last = last_100("ddpg", LUNAR_CONTINUOUS)
    greedy = [float(row["eval_mean"]) for row in experiment("ddpg", LUNAR_CONTINUOUS)]
    assert (
        f"the last 100 training episodes average {min(last):.0f} to {max(last):.0f}, and the"
        f" final policies {min(greedy):.0f} to {max(greedy):.0f}." in WORDS
    )
    bad, *good = (float(r["eval_mean"]) for r in experiment("ddpg", "MountainCarContinuous-v0"))
    words = f"no goal ({bad:.1f}); the others play {min(good):.0f} to {max(good):.0f}."
    assert words in WORDS
    greedy = [f"{float(row['eval_mean']):.0f}" for row in experiment("ddpg", "Hopper-v5")]
    last = last_100("ddpg", "Hopper-v5")
    words = (
        f"Hopper's three seeds end at {', '.join(greedy[:2])} and {greedy[2]}, and their last 100"
    )
    words += f" training episodes average {min(last):.0f} to"
    assert f"{words} {max(last):.0f};" in WORDS
    with (RESULTS / "curves" / "ddpg-Hopper-v5.csv").open() as file:
        rows = list(csv.DictReader(file))
    sums, counts = np.zeros((2, 3, 100))
    for row in rows:
        index = int(row["seed"]), min(int(row["step"]) // 10_000, 99)
        sums[index] += float(row["return"])
        counts[index] += 1
    assert f"in parts of 10,000 steps, is {(sums / counts).mean(0).max():.0f} at" in WORDS
    acrobot = last_100("reinforce_baseline", "Acrobot-v1")
    assert f"its last 100 training episodes average {min(acrobot):.0f}." in WORDS
    peers = experiment("peers", "Pendulum-v1", "a2c_continuous")
    peers = ", ".join(f"{float(row['eval_mean']):.1f}" for row in peers)
    assert f"of SB3's three runs of A2C fails there ({peers})" in WORDS


def test_cartpole_budget():
    """The flags of each run that was tried, without --target-return for the whole budget."""
    with (RESULTS / "a2c_discrete-cartpole-tried.csv").open() as file:
        rows = list(csv.DictReader(file))

    def runs(flags):
        found = [row for row in rows if row["flags"] == flags]
        assert sorted(int(row["seed"]) for row in found) == list(range(20))
        return found

    short, long = (runs(f"--total-timesteps {n}000 --target-return 475") for n in (150, 250))
    solved = sum(row["steps_to_threshold"] != "" for row in short)
    steps = np.array([int(row["steps_to_threshold"]) for row in long]) / 1000
    words = (
        f"with 150k steps {solved} of them reach 475 in training, with 250k steps all 20, within"
        f" {np.median(steps):.0f}k steps in the median and {steps.max():.0f}k at worst"
    )
    assert words in WORDS
    whole = runs("--total-timesteps 250000")
    assert {float(row["eval_mean"]) for row in whole} == {500.0}
    assert "all 20 evaluate at 500.0" in WORDS


def ppo_runs(env_id, advantages, flags):
    """Evaluations by seed, rounded."""
    with (RESULTS / "a2c_continuous-ppo-tried.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["advantages_computed"] == advantages]
    wanted = {*f"--total-timesteps 1000000 --env-id {env_id} {flags}".split()}
    rows = [row for row in rows if {*row["flags"].split()} == wanted]
    return [f"{float(row['eval_mean']):.0f}" for row in sorted(rows, key=lambda r: r["seed"])]


def test_ppo():
    shape = "--activation tanh --optimizer adam --num-envs 8 --num-steps 64"
    shape += " --critic-updates 20 --actor-updates 20"
    flags = f"{shape} --log-std-init -0.5 --actor-lr 3e-4"
    shown = re.search(r"one set of flags, `([^`]+)`", WORDS)[1]
    assert {*shown.split()} == {*flags.split()}
    (table,) = re.findall(r"PPO's objective, 1M steps.*?\n\n", README, re.S)
    for env_id in ("Hopper-v5", "Walker2d-v5", "HalfCheetah-v5"):
        found = ppo_runs(env_id, "once", flags)
        assert f"| {env_id} | {' | '.join(found + [''] * (3 - len(found)))}".strip() in table
    flags = f"{shape} --log-std-init -1 --actor-lr 5e-4"
    once, anew = (ppo_runs("Walker2d-v5", kind, flags) for kind in ("once", "each step"))
    words = f"ends at {' and '.join(once)} (seeds 0 and 1), and at {' and '.join(anew)} if each"
    assert words in WORDS


def test_td3_and_ddpg():
    with (RESULTS / "ddpg-td3.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["step"] == "300000"]
    last = {(row["method"], row["env"]): float(row["eval_return"]) for row in rows}
    assert len(last) == 4
    for env_id in ("Walker2d-v5", "Hopper-v5"):
        td3, ddpg = last["td3", env_id], last["ddpg", env_id]
        assert td3 > ddpg
        assert f"{env_id}, {td3:.0f} against {ddpg:.0f}" in WORDS


def test_cartpole_on_the_reporting_seeds():
    with (RESULTS / "reporting" / "summary.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["script"] == "a2c_discrete"]
    rows = [row for row in rows if row["env"] == "CartPole-v1"]
    assert sorted(int(row["seed"]) for row in rows) == list(range(100, 110))
    steps = np.array([int(row["steps_to_threshold"]) for row in rows]) / 1000
    assert {float(row["eval_mean"]) for row in rows} == {500.0}
    words = f"within {np.median(steps):.0f}k steps in the median and {steps.max():.0f}k at worst"
    assert f"all ten reach 475, {words}, and all ten evaluate at 500.0" in WORDS

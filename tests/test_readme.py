"""The READMEs say what the raw results, the settings and the code say."""

import importlib.util
import re
import shlex

import numpy as np
import pytest
import tyro

from tests.conftest import CASES, ROOT

RESULTS = ROOT / "benchmarks" / "results"
README = (ROOT / "README.md").read_text()
EVIDENCE = (ROOT / "benchmarks" / "README.md").read_text()
BOTH = README + EVIDENCE
WORDS, EVIDENCE_WORDS = (" ".join(text.split()) for text in (BOTH, EVIDENCE))
PEERS = ("peers", "sb3", "straightforward")  # runs that follow one of ours in the speed files

spec = importlib.util.spec_from_file_location("table", ROOT / "benchmarks" / "table.py")
table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(table)


# Results on the reporting seeds


def settings():
    with (ROOT / "benchmarks" / "settings.toml").open("rb") as file:
        return [{"variant": "", "flags": ""} | e for e in table.tomllib.load(file)["experiment"]]


@pytest.mark.parametrize("name", ["results", "changes", "races"])
def test_tables_are_those_of_the_raw_results(name):
    shown = {match[2]: match[0] for match in table.BLOCK.finditer(BOTH)}
    assert table.tables()[name] in shown[name]


def test_every_experiment_with_runs_is_shown():
    found = [e for e in table.experiments() if e["rows"] and e["script"] != "peers"]
    shown = {key[:2] for key in table.CHANGES} | set(table.METHODS) | {("ddpg", "learned")}
    assert {(e["script"], e["variant"]) for e in found} <= shown


def test_learned_noise():
    learned, default = (table.rows_of("ddpg", "Pendulum-v1", kind) for kind in ("learned", ""))
    assert [row["seed"] for row in learned] == [row["seed"] for row in default]
    assert len(learned) == 10
    numbers = []
    for rows in (learned, default):
        returns = table.column(rows, "eval_mean")
        numbers += [table.number(table.interquartile_mean(returns)), table.number(returns.min())]
    words = "the return is {} (worst seed {}) with a learned sigma and {} (worst seed {}) with the "
    assert words.format(*numbers) + "default noise (the same ten seeds)." in WORDS


def test_sigma_shrinks():
    runs = {}
    for row in rows_of("ddpg-sigma"):
        runs.setdefault(row["seed"], []).append((int(row["step"]), float(row["sigma"])))
    assert [*runs] == ["0", "1", "2"]
    for steps in runs.values():
        assert 0.09 < steps[0][1] < 0.1
        assert steps[-1][0] == 15_000
        assert steps[-1][1] < 1e-4
    words = "sigma falls from 0.1 to less than 0.0001 in 15,000 steps (seeds 0 to 2)."
    assert words in WORDS


def test_lengths_of_the_files():
    lengths, algorithms = [], []
    for case in CASES:
        lines = (ROOT / case.file).read_text().splitlines()
        lengths.append(round(len(lines), -1))
        (plumbing,) = [i for i, line in enumerate(lines) if line.startswith("# Plumbing")]
        algorithms.append(round(plumbing, -1))
    words = f"The files have {min(lengths)} to {max(lengths)} lines, of which the first "
    assert words + f"{min(algorithms)} to {max(algorithms)} contain the algorithm." in WORDS


def test_reporting_runs_have_the_frozen_flags_and_seeds():
    """Seeds from 100 on were never used to choose flags."""
    frozen = {(e["script"], e["env"], e["variant"]): e for e in settings()}
    assert all(e["seeds"][0] >= 100 for e in frozen.values())
    for row in table.read(table.SUMMARY):
        found = frozen[row["script"], row["env"], row["variant"]]
        assert int(row["seed"]) in range(*found["seeds"])
        assert row["flags"] == found["flags"]


def test_interquartile_mean_and_interval():
    assert table.interquartile_mean(np.array([0.0, 1, 2, 3, 4, 5, 6, 107])) == 3.5
    low, high = table.interval(np.arange(10.0))
    assert 2 < low < 4.5 < high < 7
    assert low == pytest.approx(9 - high, abs=0.3)  # symmetric, as the numbers are


def test_how_often_the_interval_contains_the_true_value():
    """Slack: the standard error of a share of 1,000 is 0.01; the mean of normal numbers is 0."""
    random, shares = np.random.default_rng(0), []
    for seeds in (5, 10):
        numbers = random.normal(size=(1000, 1, seeds))
        places = random.integers(seeds, size=(1000, 1000, seeds))
        samples = table.interquartile_mean(np.take_along_axis(numbers, places, -1))
        low, high = np.percentile(samples, [2.5, 97.5], -1)
        shares.append(np.mean((low <= 0) & (high >= 0)))
    assert shares == pytest.approx([0.90, 0.94], abs=0.03)
    assert "in 90% of cases for five seeds and in 94% for ten" in EVIDENCE_WORDS


def test_the_protocol():
    """Numbers in the sections "Protocol" and "Notes on the results" of benchmarks/README.md."""
    returns = table.column(table.rows_of("peers", "Pendulum-v1", "sb3-ddpg"), "eval_mean")
    (zoo,) = (
        row["return"]
        for row in table.read(RESULTS.parent / "published.csv")
        if (row["env"], row["method"], row["source"]) == ("Pendulum-v1", "DDPG", "zoo")
    )
    words = (
        f"SB3's DDPG returns {table.interquartile_mean(returns):.1f} here and {zoo} in the zoo's"
    )
    assert words in EVIDENCE_WORDS
    double = table.rows_of("a2c_continuous", "InvertedDoublePendulum-v5")
    double = np.sort(table.column(double, "eval_mean"))
    falls = np.round((double[-1] - double) / 930)
    assert double[-1] - 930 * falls == pytest.approx(double, abs=20)
    assert len(set(falls)) > 2
    median = np.median(table.column(table.rows_of("a2c_discrete", "LunarLander-v3"), "seconds"))
    assert (
        f"The median run of A2C on LunarLander, for example, took {median:.0f} s." in EVIDENCE_WORDS
    )
    shown = [e for e in table.experiments() if (e["script"], e["variant"]) in table.METHODS]
    speeds = [table.column(e["rows"], "steps_per_second") for e in shown]
    slowest = max(speed.max() / speed.min() for speed in speeds)
    assert f"Other programs slowed some runs by a factor of up to {slowest:.0f}." in WORDS
    ant = table.rows_of("a2c_continuous", "Ant-v5")
    train, greedy = (
        table.interquartile_mean(table.column(ant, name)) for name in ("train_return", "eval_mean")
    )
    assert f"A2C on Ant, for example, {train:.0f} instead of {greedy:.0f})" in EVIDENCE_WORDS
    hours = table.column(table.read(table.SUMMARY), "seconds").sum() / 3600
    (stated,) = re.findall(r"repeats all of them, which took (\d+) core hours", EVIDENCE_WORDS)
    assert hours == pytest.approx(int(stated), abs=1)


def test_steps_of_the_race_on_lunar_lander():
    flags = table.rows_of("a2c_discrete", "LunarLander-v3")
    before = {row["seed"]: float(row["steps_to_threshold"]) for row in flags}
    rows = [r for r in rows_of("a2c_discrete-race-lunar") if r["who"] == "a2c_discrete"]
    race = {row["seed"]: float(row["steps"]) for row in rows}
    ratios = [race[seed] / before[seed] for seed in before]
    words = f"the same seed needed {min(ratios):.1f} to {max(ratios):.1f} times as many steps"
    assert words in EVIDENCE_WORDS
    medians = [round(np.median(list(steps.values())) / 1000) for steps in (race, before)]
    assert "The medians are {}k and {}k.".format(*medians) in EVIDENCE_WORDS


def test_runs_on_the_tuning_seeds():
    """The seeds that failed are part of the published results."""
    for name, seeds in (("tuning", range(10)), ("ddpg-discarded", range(100, 110))):
        assert {int(row["seed"]) for row in rows_of(name)} == set(seeds)
    car = [r for r in rows_of("tuning") if (r["script"], r["env"][:11]) == ("ddpg", "MountainCar")]
    returns = sorted(table.column(car, "eval_mean"))
    assert (len(returns), returns[0] < 0, returns[1] > 90) == (5, True, True)
    assert f"one of five tuning seeds failed ({returns[0]})" in EVIDENCE_WORDS


def flag_values(flags):
    """{flag: values} without the budget, which is a column of its own."""
    found = re.findall(r"--([a-z-]+)((?: [^-\s]\S*| -[\d.]\S*)*)", flags)
    return {k: v.strip() for k, v in found if k not in ("total-timesteps", "target-return")}


def test_the_sets_of_flags_are_those_of_the_settings():
    rows = re.findall(r"^\| (\w+) \| (\w+) \| [^|]+ \| `(--[^|]+)` \|$", README, re.M)
    shown = {(script, name): flag_values(flags) for script, name, flags in rows}
    assert len(shown) == len(rows) > 5
    basic = {"": {}}  # variants that are ablations or choices of a baseline add flags to a set
    for e in settings():
        if e["script"] == "peers" or e["variant"] not in (*basic, "ppo", "td3", "q", "elite"):
            continue
        assert flag_values(e["flags"]) == shown.get((e["script"], e["set"]), {})


# Numbers in the text


def rows_of(name):
    return table.read(RESULTS / f"{name}.csv")


def test_variance_with_a_baseline():
    rows = rows_of("reinforce-gradient-variance")
    ratios = [
        np.median([float(row["none"]) / float(row[kind]) for row in rows])
        for kind in ("mean", "value")
    ]
    words = "by a factor of {:.1f} with `mean` and by a factor of {:.1f} with `value`"
    assert words.format(*ratios) in WORDS


def test_variance_of_qac():
    ratios = [float(row["ratio"]) for row in rows_of("ac_td0-q-variance")]
    assert len(ratios) == 5
    assert f"the variance of the gradient is {np.median(ratios):.0f} times as large with" in WORDS


def test_the_td_error_solves_what_qac_does_not():
    found = []
    for env in ("CartPole-v1", "Acrobot-v1"):
        assert all(row["steps_to_threshold"] for row in table.rows_of("ac_td0", env, "v"))
        found.append(table.solved(table.rows_of("ac_td0", env, "q"))[0])
    words = "every seed solves CartPole and Acrobot. With QAC, {} seeds solve CartPole and {} solve"
    assert words.format(*found) in WORDS
    returns = table.column(table.rows_of("ac_td0", "Acrobot-v1", "q"), "eval_mean")
    solved = [bool(row["steps_to_threshold"]) for row in table.rows_of("ac_td0", "Acrobot-v1", "q")]
    assert sum(returns[solved] == -500) == 4
    assert sum(returns[np.invert(solved)] == -500) == 3
    words = (
        "Four of these six get worse again: at the end, their greedy policies return -500, as do"
    )
    assert words + " three of the others." in WORDS


def test_steps_to_200_on_lunar_lander():
    """SB3's A2C has only 200k steps on LunarLander, so compare at that point."""
    assert not any(
        r["steps_to_threshold"] for r in table.rows_of("peers", "LunarLander-v3", "sb3-a2c")
    )
    rows = table.rows_of("a2c_discrete", "LunarLander-v3", "")
    assert len(rows) == 10
    assert sum(float(row["steps_to_threshold"]) <= 200_000 for row in rows) == 1
    assert "only one of our ten seeds reached 200 within 200k steps" in WORDS


def test_where_sb3_stays_below_the_zoo():
    published = {
        (r["env"], r["method"]): r
        for r in table.read(RESULTS.parent / "published.csv")
        if r["source"] == "zoo"
    }
    far_below = []
    for env, method in published:
        returns = table.column(table.rows_of("peers", env, f"sb3-{method.lower()}"), "eval_mean")
        zoo = float(published[env, method]["return"])
        if len(returns) and zoo > 0 and table.interquartile_mean(returns) < 0.5 * zoo:
            assert returns.max() < zoo
            far_below.append((env[:-3], method))
    assert far_below == [("LunarLander", "A2C"), ("HalfCheetah", "A2C"), ("Hopper", "PPO")]
    words = "SB3's A2C on LunarLander and HalfCheetah and of SB3's PPO on Hopper stay far below"
    assert words in WORDS


def test_random_physics():
    rows = rows_of("a2c_discrete-physics")
    seeds = {row["seed"] for row in rows}
    assert len(rows) == 2 * len(seeds)
    means = [
        np.mean([float(row[physics]) for row in rows if row["trained_with"] == trained])
        for trained in ("random", "fixed")
        for physics in ("fixed_physics", "random_physics")
    ]
    assert len(seeds) == 5
    words = "mean return of {:.0f} with the standard physics and {:.0f} with random physics. "
    words += "Policies trained without it achieve {:.0f} and {:.0f} (a separate experiment with "
    words += "five seeds"
    assert words.format(*means) in WORDS


def pairs(name, pattern=""):
    """Rows of ours and of the run that followed on the same core, where the flags match."""
    rows = rows_of(name)
    found = list(zip(rows[::2], rows[1::2], strict=True))
    found = [two for two in found if re.search(pattern, " ".join(r.get("flags", "") for r in two))]
    assert len(found) > 2
    assert all(a["who"] not in PEERS and b["who"] in PEERS for a, b in found)
    return found


@pytest.mark.parametrize(
    ("name", "pattern", "column"),
    [
        ("a2c_discrete-throughput", "num-envs 8", "sps"),
        ("a2c_discrete-throughput", "400000", "sps"),
        ("a2c_discrete-throughput", "sync", "sps"),
        ("a2c_continuous-throughput", "Pendulum", "sps"),
        ("a2c_continuous-throughput", "Hopper", "sps"),
        ("ac_td0-throughput", "", "updates_per_second"),
        ("ddpg-throughput", "", "sps"),
        ("ddpg-throughput-sbx", "", "sps"),
    ],
)
def test_speeds(name, pattern, column):
    ours, peers = np.array([[float(row[column]) for row in two] for two in pairs(name, pattern)]).T
    numbers = f"{np.median(ours):,.0f} | {np.median(peers):,.0f} | {np.median(ours / peers):.1f} |"
    assert f"| {numbers}" in EVIDENCE_WORDS


def test_times_in_the_main_readme():
    times = {}
    for _, _, file in table.RACES:
        for row in rows_of(file):
            time = float(row["seconds"]) if row["solved"] == "1" else np.inf
            times.setdefault((file, table.program(row)), []).append(time)
    median = {key: np.median(found) for key, found in times.items()}
    ours, sb3 = (median["a2c_discrete-race", who] for who in ("A2C, this project", "SB3's A2C"))
    assert f"a mean training return of 475 after {ours:.1f} s (median of ten seeds" in WORDS
    own = median["a2c_discrete-race-ppo", "A2C, this project"]
    ppo = [median["a2c_discrete-race-ppo", f"{who} PPO"] / own for who in ("SB3's", "SBX's")]
    assert {f"{ratio:.1f}" for ratio in ppo} == {"8.2"}
    words = f"SB3's A2C needs {sb3 / ours:.1f} times as long, and the PPO of SB3 and of SBX 8.2"
    assert words in WORDS
    ours, sbx = (
        median["a2c_discrete-race-lunar", who] for who in ("A2C, this project", "SBX's PPO")
    )
    words = f"our A2C reaches 200 after {ours:.1f} s (median of ten seeds) and SBX's PPO after"
    assert f"{words} {sbx:.1f} s (three seeds)" in WORDS


def test_speeds_in_the_main_readme():
    def ratio(name, pattern=""):
        both = np.array([[float(r["sps"]) for r in two] for two in pairs(name, pattern)])
        return np.median(both[:, 0] / both[:, 1])

    kinds = ["num-envs 8", "400000", "sync"]
    found = [ratio("a2c_discrete-throughput", kind) for kind in kinds]
    found += [ratio("a2c_continuous-throughput", "Pendulum")]
    words = "our A2C makes {:.1f} to {:.1f} times as many steps per second as SB3's on CartPole and"
    assert words.format(min(found), max(found)) + " Pendulum and equally many on Hopper." in WORDS
    assert ratio("a2c_continuous-throughput", "Hopper") == pytest.approx(1, abs=0.05)
    found = [ratio("ddpg-throughput"), ratio("ddpg-throughput-sbx")]
    words = "DDPG is {:.1f} times as fast as SB3's and {:.1f} times as fast as SBX's"
    assert words.format(*found) in WORDS


def test_where_the_time_of_an_update_goes():
    rows = rows_of("ddpg-time")
    assert len(rows) == 20
    shares = {k: np.median([float(r[k]) / float(r["update"]) for r in rows]) for k in rows[0]}
    words = (
        "spends {large_products:.0%} of its time on ten products of 256 x 256 matrices and "
        "{small_products:.0%} on 18 smaller matrix products. It spends {adam:.0%} on Adam, "
        "{targets:.0%} on the update of the target networks, and {sampling:.0%} on sampling"
    )
    assert words.format(**shares) in EVIDENCE_WORDS


# "What was tried" in benchmarks/README.md


def with_flags(rows, *words):
    """The rows whose flags contain all of these words."""
    return [row for row in rows if all(word in row["flags"] for word in words)]


def steps_to_threshold(rows, flags):
    return [float(r["steps_to_threshold"] or "inf") for r in rows if r["flags"] == flags]


def test_tried_on_cartpole():
    rows = rows_of("a2c_discrete-cartpole-tried")
    for budget, count, words in (("150000", 17, "17 of 20"), ("250000", 20, "all 20")):
        steps = steps_to_threshold(rows, f"--total-timesteps {budget} --target-return 475")
        assert (len(steps), sum(np.isfinite(steps))) == (20, count)
        assert f"{budget[:3]}k steps, {words}" in EVIDENCE_WORDS
    medians = []
    for environments in (" --num-envs 8", " --num-envs 16", ""):
        flags = f"--total-timesteps 150000{environments} --target-return 475"
        steps = steps_to_threshold(rows, flags)
        assert not environments or (len(steps), sum(np.isfinite(steps))) == (20, 19)
        medians.append(round(np.median(steps) / 1000))
    words = "after a median of {}k and {}k instead of {}k steps"
    assert words.format(*medians) in EVIDENCE_WORDS


def test_tried_with_cem():
    solved = {}
    for row in with_flags(rows_of("reinforce_baseline-elite-tried"), "--actor-lr"):
        rate = re.search(r"--actor-lr (\S+)", row["flags"])[1]
        runs = solved.setdefault(rate, {}).setdefault(row["flags"], [])
        runs.append(row["steps_to_threshold"] != "")
    counts = {rate: [sum(runs) for runs in found.values()] for rate, found in solved.items()}
    assert counts["3e-3"] == [5, 5, 5]
    words = "With 1e-2, {}, {} and {} of 5 seeds do."
    assert words.format(*counts["1e-2"]) in EVIDENCE_WORDS


def test_tried_with_ppo_advantages_computed_once():
    rows = with_flags(rows_of("a2c_continuous-ppo-tried"), "--log-std-init -1 ", "5e-4")
    words = {
        "Walker2d": "from {:.0f} to {:.0f} for seed 0 and from {:.0f} to {:.0f} for seed 1, and on",
        "Hopper": "on Hopper from {:.0f} to {:.0f} and from {:.0f} to {:.0f} (the",
    }
    for env, text in words.items():
        found = {
            (r["advantages_computed"], r["seed"]): float(r["eval_mean"])
            for r in with_flags(rows, env)
        }
        numbers = [found[kind, seed] for seed in "01" for kind in ("each step", "once")]
        assert text.format(*numbers) in EVIDENCE_WORDS


def returns_of_ppo(num_steps):
    """{(environment, num_envs, seed): return} with the learning rate and sigma of the "ppo" set."""
    words = "--log-std-init -0.5", "--actor-lr 3e-4", "--optimizer adam", f"--num-steps {num_steps}"
    found = {}
    for row in with_flags(rows_of("a2c_continuous-ppo-tried"), *words):
        env, num_envs = (re.search(p, row["flags"])[1] for p in (r"(\w+)-v5", r"--num-envs (\d)"))
        found[env, num_envs, row["seed"]] = float(row["eval_mean"])
    return found


def test_tried_with_ppo_rollouts():
    found = returns_of_ppo(64)
    numbers = [found["HalfCheetah", "8", seed] for seed in "01"]
    assert "it is {:.0f} and {:.0f} with seeds 0 and 1".format(*numbers) in EVIDENCE_WORDS
    reporting = table.rows_of("a2c_continuous", "HalfCheetah-v5", "ppo")
    assert max(numbers) < table.column(reporting, "eval_mean").min()
    numbers = [
        found[env, n, seed] for env, seed in (("HalfCheetah", "0"), ("Walker2d", "1")) for n in "84"
    ]
    words = "changed the return on HalfCheetah from {:.0f} to {:.0f} for seed 0, but also changed "
    words += "the return on Walker2d from {:.0f} to {:.0f} for seed 1"
    assert words.format(*numbers) in EVIDENCE_WORDS


def test_tried_with_longer_rollouts_of_ppo():
    short, long = returns_of_ppo(64), returns_of_ppo(256)
    words = 'They give {:.0f} and {:.0f} on HalfCheetah ({:.0f} and {:.0f} with the "ppo" set), '
    words += "{:.0f} and {:.0f} on Walker2d ({:.0f} and {:.0f}), and {:.0f} and {:.0f} on Hopper "
    words += "({:.0f} and {:.0f})."
    numbers = [
        returns[env, "8", seed]
        for env in ("HalfCheetah", "Walker2d", "Hopper")
        for returns in (long, short)
        for seed in "01"
    ]
    assert words.format(*numbers) in EVIDENCE_WORDS


def test_tried_with_qac():
    rows = rows_of("ac_td0-tried")
    failed = [r for r in rows if r["flags"] == "--env-id Acrobot-v1 --critic q --actor-lr 1e-4"]
    assert [(r["seed"], float(r["eval_mean"])) for r in failed] == [
        (seed, -500) for seed in ("100", "101", "102")
    ]
    rows = with_flags(rows, "--gamma 0.9 ")
    solved = [r["solved"] for r in with_flags(rows, "-lr 3e-4 --env-id Acrobot-v1")]
    assert sorted(solved) == ["0", "1", "1"]
    assert "two of three runs reach" in EVIDENCE_WORDS
    cart = table.column(with_flags(rows, "--target-return 475"), "eval_mean")
    words = "are {:.0f} with `--actor-lr 1e-4`, and {:.0f} and {:.0f} with the default"
    assert words.format(*cart) in EVIDENCE_WORDS


def test_tried_with_small_networks_in_ddpg():
    flags = "--hidden-sizes 64 64 --policy-frequency 2 --learning-starts 3000"
    rows = [r for r in rows_of("ddpg-small") if r["flags"] == flags]
    failed = [x for x in table.column(rows, "eval_mean") if x < -200]
    assert (len(rows), len(failed)) == (10, 3)
    words = f"three of ten seeds fail ({max(failed):.0f} to {min(failed):.0f})"
    assert f"`{flags}`, {words}" in EVIDENCE_WORDS


def test_tried_with_ddpg_on_lunar_lander():
    rows = [r for r in rows_of("ddpg-tried") if r["env"] == "LunarLanderContinuous-v3"]
    flags = "--total-timesteps 300000 --gamma 0.98 --batch-size 128 --learning-starts 10000"
    returns = table.column([r for r in rows if r["flags"] == flags], "eval_mean")
    assert len(returns) == 5
    words = f"five seeds give returns from {returns.min():.0f} to {returns.max():.0f}"
    assert f"with the default noise of 0.1, {words}" in EVIDENCE_WORDS
    (ended,) = table.column(with_flags(rows, "--actor-lr 3e-4 --critic-lr 3e-4"), "eval_mean")
    assert f"A run with lower learning rates ended at {ended:.0f} (seed 0)." in EVIDENCE_WORDS
    last = {(r["flags"], r["seed"]): int(r["step"]) for r in rows_of("ddpg-tried-curves")}
    assert sum(step < 150_000 for step in last.values()) == 5
    assert "Five other runs" in EVIDENCE_WORDS


def test_tried_with_fewer_steps_of_ddpg():
    rows = rows_of("ddpg-budget-tried-curves")
    rows = [(int(r["step"]), float(r["eval_return"])) for r in rows if "batch" not in r["flags"]]
    for first, last, failed, total in (
        (5_000, 7_500, 15, 60),
        (8_000, 10_000, 1, 50),
        (10_500, 20_000, 0, 200),
    ):
        found = [value for step, value in rows if first <= step <= last]
        assert (sum(value < -150 for value in found), len(found)) == (failed, total)


def test_ppo_against_a2c():
    """Where the intervals of PPO and A2C are disjoint and where they overlap, as the text says."""
    found = {"PPO": [], "A2C": [], "overlap": []}
    for env in ("Walker2d", "Ant", "Hopper", "HalfCheetah", "BipedalWalker"):
        version = "-v3" if env == "BipedalWalker" else "-v5"
        rows = [table.rows_of("a2c_continuous", env + version, variant) for variant in ("", "ppo")]
        a2c, ppo = (table.interval(table.column(r, "eval_mean")) for r in rows)
        if ppo[0] > a2c[1]:
            found["PPO"].append(env)
        elif a2c[0] > ppo[1]:
            found["A2C"].append(env)
        else:
            found["overlap"].append(env)
    words = "On {}, this gives a higher return than A2C. On {}, A2C gives the higher return. "
    words += "On {}, {} and {}, the intervals overlap."
    assert words.format(*found["PPO"], *found["A2C"], *found["overlap"]) in WORDS
    assert [len(envs) for envs in found.values()] == [1, 1, 3]


def test_ppo_against_sb3():
    numbers = []
    for env in ("Hopper", "Walker2d", "HalfCheetah"):
        ours = table.column(table.rows_of("a2c_continuous", f"{env}-v5", "ppo"), "eval_mean")
        sb3 = table.column(table.rows_of("peers", f"{env}-v5", "sb3-ppo"), "eval_mean")
        assert len(sb3) == 3
        numbers += [table.interquartile_mean(ours), table.interquartile_mean(sb3)]
        assert (ours.min() > sb3.max()) == (env == "Hopper")
    assert numbers[2] == pytest.approx(numbers[3], rel=0.03)
    assert numbers[4] < 0.9 * numbers[5]
    words = "the return is higher on Hopper ({:.0f} and {:.0f}, although the zoo reports 2410 for "
    words += "SB3), similar on Walker2d ({:.0f} and {:.0f}) and lower on HalfCheetah ({:.0f} and "
    words += "{:.0f})."
    assert words.format(*numbers) in WORDS


def training_return(name, first, last):
    """Mean over the seeds of the mean training return from one step to another."""
    runs = {}
    for row in table.read(RESULTS / "reporting" / "curves" / f"{name}.csv"):
        if first < float(row["step"]) <= last:
            runs.setdefault(row["seed"], []).append(float(row["return"]))
    return np.mean([np.mean(run) for run in runs.values()])


def test_on_policy_against_off_policy():
    """After 1M steps, TD3 is ahead of A2C and PPO on two tasks, and after 300k steps on one."""
    early, late = {}, {}
    for env in ("HalfCheetah", "Hopper", "Walker2d"):
        kinds = [("ddpg", "td3"), ("ddpg", ""), ("a2c_continuous", ""), ("a2c_continuous", "ppo")]
        td3, _, *on_policy = (
            table.column(table.rows_of(script, f"{env}-v5", variant), "eval_mean")
            for script, variant in kinds
        )
        late[env] = td3.mean() > max(table.interval(returns)[1] for returns in on_policy)
        assert td3.mean() > max(map(table.interquartile_mean, on_policy))
        names = ["-".join(filter(None, (script, f"{env}-v5", kind))) for script, kind in kinds]
        td3, ddpg, *on_policy = (training_return(name, 250_000, 300_000) for name in names)
        early[env] = min(td3, ddpg) > max(on_policy)
        assert early[env] or max(td3, ddpg) < max(on_policy)
    assert early == {"HalfCheetah": True, "Hopper": False, "Walker2d": False}
    assert late == {"HalfCheetah": True, "Hopper": True, "Walker2d": False}
    words = (
        "after 1M steps, TD3 is ahead of A2C and PPO on HalfCheetah and Hopper and level with PPO"
    )
    assert words + " on Walker2d" in WORDS
    words = (
        "after 300k steps are above those of A2C and PPO. On Hopper and Walker2d, they are below."
    )
    assert words in WORDS


def test_sbx_on_hopper():
    rows = table.rows_of("peers", "Hopper-v5", "sbx-td3")
    sbx = training_return("peers-Hopper-v5-sbx-td3", 250_000, 300_000)
    own = training_return("ddpg-Hopper-v5-td3", 250_000, 300_000)
    seeds = {1: "one seed", 2: "two seeds", 3: "three seeds"}[len(rows)]
    words = f"needs fewer steps on Hopper ({seeds}): from 250k to 300k steps, its mean training "
    words += f"return is {sbx:.0f}, and that of our TD3 is {own:.0f} (three seeds)."
    assert words in EVIDENCE_WORDS


def test_one_critic_step():
    found = [table.rows_of("a2c_discrete", "CartPole-v1", "k1")]
    found += [table.rows_of("a2c_continuous", "Pendulum-v1", "k1")]
    words = "fewer seeds solve CartPole ({}) and Pendulum ({})."
    assert words.format(*(table.solved(rows)[0] for rows in found)) in WORDS
    assert table.solved(table.rows_of("peers", "CartPole-v1", "sb3-a2c"))[0] == "10 of 10"


def test_tanh_on_pendulum():
    found = {}
    for row in rows_of("a2c_continuous-tried"):
        if "--env-id" in row["flags"]:
            continue
        found.setdefault(row["flags"], []).append(float(row["eval_mean"]))
    words = "With it, the returns are {:.0f}, {:.0f} and {:.0f} for seeds 0 to 2."
    assert words.format(*found.pop("--activation tanh --gamma 0.9")) in EVIDENCE_WORDS
    words = "one critic step, the returns are {:.0f}, {:.0f} and {:.0f}."
    assert words.format(*found.pop("--critic-updates 1 --gamma 0.9")) in EVIDENCE_WORDS
    returns = [x for flags, few in found.items() if "tanh" in flags and len(few) == 2 for x in few]
    assert len(returns) == 12
    assert f"The best of these twelve returns is {max(returns):.0f}." in EVIDENCE_WORDS


def test_gamma_on_swimmer():
    rows = [r for r in rows_of("a2c_continuous-tried") if "Swimmer" in r["flags"]]
    assert ["--gamma 0.9999" in row["flags"] for row in rows] == [True, True]
    words = "{:.0f} and {:.0f}".format(*table.column(rows, "eval_mean"))
    assert f"the return is {words} for seeds 0 and 1." in EVIDENCE_WORDS
    assert table.column(table.rows_of("a2c_continuous", "Swimmer-v5"), "eval_mean").max() < 49


@pytest.mark.parametrize(("environment", "target", "file"), table.RACES)
def test_races(environment, target, file):
    """Each program ran on the first seeds, and to the end if it did not reach the return."""
    seconds = {}  # {(is it ours, is it SBX, is it PPO): times until the return was reached}
    for row in rows_of(file):
        flags = row["flags"].split()
        key = row["who"] == "a2c_discrete", "sbx" in flags, "ppo" in flags
        times = seconds.setdefault(key, [])
        assert row["seed"] == str(100 + len(times))
        assert flags[flags.index("--target-return") + 1] == str(target)
        env = flags[flags.index("--env-id") + 1] if "--env-id" in flags else "CartPole-v1"
        assert env == environment
        assert row["solved"] == "1" or round(int(row["steps"]), -5) == 1_000_000
        times.append(float(row["seconds"]) if row["solved"] == "1" else np.inf)
    ours = seconds.pop((True, False, False))
    assert len(seconds) >= 1
    for (_, sbx, ppo), times in seconds.items():
        assert 3 <= len(times) <= len(ours)
        program = f"{'SBX' if sbx else 'SB3'}'s {'PPO' if ppo else 'A2C'}"
        median = f"{np.median(times):.1f}" if np.median(times) < np.inf else "never"
        head = f"| {environment} | {target} | {program} | {len(times)} | {median}, "
        (line,) = [line for line in EVIDENCE.splitlines() if line.startswith(head)]
        ratio = np.median(times) / np.median(ours[: len(times)])  # on the same seeds
        assert f" | {ratio:.1f} | " in line if ratio < np.inf else "| never, never | " in line


def test_policies_at_the_end_of_the_race_on_lunar_lander():
    assert "On LunarLander, PPO ends with better policies." in WORDS
    returns = {}
    for row in rows_of("a2c_discrete-race-lunar"):
        returns.setdefault(table.program(row), []).append(float(row["eval_mean"]))
    ours, sb3, sbx = (np.array(found) for found in returns.values())
    assert max(ours) < np.mean([sb3, sbx])
    assert (sum(ours < 200), len(ours)) == (6, 10)
    words = (
        "With six of ten seeds, the return of our greedy policy is still below 200 at this point"
    )
    assert f"{words}, whereas that of PPO is above 230 with every seed." in WORDS
    assert min(*sb3, *sbx) > 230
    words = "SB3's PPO reached 200 with one of three seeds, after {:.0f} s."
    rows = [r for r in rows_of("a2c_discrete-race-lunar") if table.program(r) == "SB3's PPO"]
    (time,) = (float(row["seconds"]) for row in rows if row["solved"] == "1")
    assert len(rows) == 3
    assert words.format(time) in WORDS


def test_times_of_the_default_tasks():
    """The table of files repeats times from the table of results."""
    variants = {"reinforce_baseline": "value", "ac_td0": "v"}
    for case in CASES:
        (line,) = [x for x in README.splitlines() if x.startswith(f"| `{case.file}` | ")]
        env, time = re.search(r"\| (\w+-v\d), (\d+ (?:s|min))", line).groups()
        assert env == case.module.Args().env_id
        rows = table.rows_of(case.name, env, variants.get(case.name, ""))
        assert table.duration(rows) == time


# Names, commands and snippets


def test_every_flag_and_function_that_is_named_exists():
    scripts = {path.name: path.read_text() for path in ROOT.glob("*.py")}
    others = "".join(path.read_text() for path in ROOT.glob("benchmarks/*.py"))
    others += "".join((ROOT / "tests" / f"{n}.py").read_text() for n in ("endurance", "mutants"))
    flags = set(re.findall(r"--(?:no-)?([a-z][a-z-]+)", README + EVIDENCE))
    flags -= {"help", "logdir", "no-", "with", "head", "address", "quiet"}
    known = {name for case in CASES for name in case.module.Args.__dataclass_fields__}
    peers = (ROOT / "benchmarks" / "peers.py").read_text()
    known |= set(re.findall(r"^    (\w+): ", peers[peers.index("class Args") :], re.M))
    known = {name.replace("_", "-") for name in known}
    known |= set(re.findall(r'"--([a-z-]+)"', others))
    assert flags - known == set()
    for function, script in re.findall(r"`(\w+)` in `(\w+\.py)`", README):
        assert f"def {function}(" in scripts[script]


def test_every_test_that_is_named_exists():
    source = "".join(path.read_text() for path in ROOT.glob("tests/test_*.py"))
    names = re.findall(r"`(test_\w+)`", README)
    assert len(names) > 10
    assert [name for name in names if f"def {name}(" not in source] == []


def commands(text):
    """(script, words) of each command line that runs one of the five scripts."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    lines = [line for language, block in blocks if not language for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]*\bpython \w+\.py[^`]*)`", text)
    for line in lines:
        for script, flags in re.findall(r"\b(\w+)\.py((?:(?! -- )[^|;])*)", line):
            if script in {case.name for case in CASES}:
                yield script, shlex.split(flags.replace("{}", "0").replace("$(nproc)", "1"))


SETTINGS = [(e["script"], shlex.split(e["flags"])) for e in settings() if e["script"] != "peers"]
COMMANDS = [*commands(README), *commands(EVIDENCE), *SETTINGS]


@pytest.mark.parametrize(("script", "words"), COMMANDS)
def test_commands_have_valid_flags(script, words):
    (case,) = [case for case in CASES if case.name == script]
    words = [word for word in words if word not in ("--help", "--quick")]
    tyro.cli(case.module.Args, args=words)


SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippets_run(snippet, tmp_path, monkeypatch):
    """As they are, but with fewer steps and trials."""
    monkeypatch.chdir(tmp_path)
    (case,) = [case for case in CASES if case.name == "a2c_discrete"]
    args = case.module.Args(total_timesteps=600, log_dir="first", eval_episodes=1)
    case.module.train(args)
    (run,) = (tmp_path / "first").iterdir()
    snippet = re.sub(r"total_timesteps=[\d_]+", "total_timesteps=600", snippet)
    snippet = snippet.replace('"RUN"', repr(str(run))).replace("n_trials=20", "n_trials=2")
    names = {}
    exec(compile(snippet, "README.md", "exec"), names)
    assert names.get("study") is None or len(names["study"].trials) == 2
    assert "reward" not in names or np.isfinite(names["reward"])

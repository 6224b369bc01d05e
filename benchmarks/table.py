"""Write the tables of results into both READMEs, from the files in results/.

    python benchmarks/table.py

Each table is enclosed by two comments. In the tables "results" and "changes", each row
is an experiment of settings.toml that has runs. The return is the interquartile mean over the seeds
of the greedy policy's mean return, with its 95% bootstrap interval for five or more seeds. The
published results are in published.csv. In the table "races", each row is a program.
The program needs only NumPy, so that the tests can compare the README with its output.
"""

import csv
import re
from pathlib import Path

import numpy as np

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest installs tomli
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SUMMARY = RESULTS / "reporting" / "summary.csv"
BLOCK = re.compile(r"(<!-- table (\S+): .*? -->\n).*?(<!-- end of the table -->\n)", re.S)

METHODS = {  # (script, variant): name in the table of results
    ("a2c_discrete", ""): "A2C",
    ("a2c_continuous", ""): "A2C",
    ("a2c_continuous", "ppo"): "PPO",
    ("reinforce_baseline", ""): "REINFORCE",
    ("reinforce_baseline", "value"): "REINFORCE",
    ("reinforce_baseline", "elite"): "CEM",
    ("ac_td0", "v"): "AC",
    ("ac_td0", "q"): "QAC",
    ("ddpg", ""): "DDPG",
    ("ddpg", "td3"): "TD3",
}
CHANGES = [  # script, variant, environment, and the name of its flags in the table of changes
    ("reinforce_baseline", "none", "CartPole-v1", "`--baseline none`"),
    ("reinforce_baseline", "mean", "CartPole-v1", "`--baseline mean`"),
    ("reinforce_baseline", "value", "CartPole-v1", "defaults: `--baseline value`"),
    ("ac_td0", "v", "CartPole-v1", "defaults"),
    ("ac_td0", "discounted", "CartPole-v1", "`--discount-policy-gradient`"),
    ("ac_td0", "q", "CartPole-v1", "q"),
    ("ac_td0", "v", "Acrobot-v1", "defaults"),
    ("ac_td0", "q", "Acrobot-v1", "acrobot"),
    ("a2c_discrete", "", "CartPole-v1", "defaults: K = 3"),
    ("a2c_discrete", "k1", "CartPole-v1", "`--critic-updates 1`"),
    ("a2c_discrete", "", "LunarLander-v3", "lunar"),
    ("a2c_discrete", "entropy", "LunarLander-v3", "lunar, but `--ent-coef 0.01`"),
    ("a2c_discrete", "randomized", "LunarLander-v3", "lunar, `--randomize-domain`"),
    ("a2c_continuous", "", "Pendulum-v1", "defaults: K = 10, relu"),
    ("a2c_continuous", "k1", "Pendulum-v1", "`--critic-updates 1`"),
    ("a2c_continuous", "tanh", "Pendulum-v1", "`--activation tanh`"),
]
RACES = [  # environment, target return, file
    ("CartPole-v1", 475, "a2c_discrete-race"),
    ("CartPole-v1", 475, "a2c_discrete-race-ppo"),
    ("LunarLander-v3", 200, "a2c_discrete-race-lunar"),
]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def experiments() -> list[dict]:
    """The experiments of settings.toml, each with the rows of the summary that belong to it."""
    with (ROOT / "benchmarks" / "settings.toml").open("rb") as file:
        found = [{"variant": "", "flags": ""} | e for e in tomllib.load(file)["experiment"]]
    return [e | {"rows": rows_of(e["script"], e["env"], e["variant"])} for e in found]


def rows_of(script: str, env: str, variant: str = "") -> list[dict[str, str]]:
    """The rows of one experiment, one for each seed."""
    keys = {"script": script, "env": env, "variant": variant}
    return [row for row in read(SUMMARY) if keys.items() <= row.items()]


def column(rows: list[dict], name: str) -> np.ndarray:
    """The numbers in a column; empty cells are left out."""
    return np.array([float(row[name]) for row in rows if row[name]])


def interquartile_mean(numbers: np.ndarray) -> np.ndarray:
    """Mean along the last axis, without the lowest and the highest quarter (rounded down)."""
    cut = numbers.shape[-1] // 4
    return np.sort(numbers)[..., cut : numbers.shape[-1] - cut].mean(-1)


def interval(numbers: np.ndarray) -> np.ndarray:
    """95 % percentile bootstrap interval of the interquartile mean."""
    samples = np.random.default_rng(0).choice(numbers, (10_000, len(numbers)))
    return np.percentile(interquartile_mean(samples), [2.5, 97.5])


def number(x: float) -> str:
    return f"{x:.1f}" if abs(x) < 1000 else f"{x:.0f}"


def count(steps: float) -> str:
    """A number of steps with two significant digits, such as 250k or 1M."""
    n = int(float(f"{steps:.2g}"))
    return f"{n / 1_000_000:.2g}M" if n >= 1_000_000 else f"{n // 1000}k"


def score(rows: list[dict]) -> tuple[str, str]:
    """The return with its interval, and the worst seed."""
    returns = column(rows, "eval_mean")
    if failed := len(rows) - len(returns):  # a mean of the others would be misleading
        return f"{failed} of {len(rows)} failed", "failed"
    mean = number(interquartile_mean(returns))
    if len(returns) >= 5:
        mean += " [{}, {}]".format(*map(number, interval(returns)))
    return mean, number(returns.min())


def duration(rows: list[dict]) -> str:
    """Time of the longest run at the highest speed: other programs slowed down some of the runs."""
    seconds = column(rows, "steps").max() / column(rows, "steps_per_second").max()
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.0f} min"


def peers(env: str, method: str) -> str:
    """Interquartile mean and worst seed of the libraries' runs."""
    cells = []
    for library in ("SB3", "SBX"):
        rows = rows_of("peers", env, f"{library}-{method}".lower())
        if len(returns := column(rows, "eval_mean")):
            steps = count(column(rows, "steps").max())
            mean, worst = number(interquartile_mean(returns)), number(returns.min())
            cells.append(f"{library} {mean}, worst {worst} ({steps}, {len(rows)})")
    return "; ".join(cells)


def published(env: str, method: str) -> str:
    rows = read(ROOT / "benchmarks" / "published.csv")
    rows = [row for row in rows if (row["env"], row["method"]) == (env, method)]
    return ", ".join(f"{row['source']} {row['return']} ({row['steps']})" for row in rows)


def results() -> list[list[str]]:
    """The table of results, grouped by environment."""
    names = "environment, method, flags, steps x seeds, time, return, worst seed, SB3 and SBX"
    lines, found = [[*names.split(", "), "published"]], experiments()
    order = list(dict.fromkeys(e["env"] for e in found))
    for e in sorted(found, key=lambda e: order.index(e["env"])):
        method, rows = METHODS.get((e["script"], e["variant"])), e["rows"]
        if method and len(column(rows, "eval_mean")):
            size = f"{count(column(rows, 'steps').max())} x {len(rows)}"
            line = [e["env"], method, e["set"], size, duration(rows), *score(rows)]
            lines.append([*line, peers(e["env"], method), published(e["env"], method)])
    return lines


def solved(rows: list[dict]) -> tuple[str, str]:
    """How many seeds reached the threshold in training, and after how many steps."""
    steps = np.array([float(row["steps_to_threshold"] or "inf") for row in rows])
    cells = [count(x) if x < np.inf else "never" for x in (np.median(steps), steps.max())]
    return f"{sum(steps < np.inf)} of {len(rows)}", ", ".join(cells)


def changes() -> list[list[str]]:
    """Rows of the table of changes: the results with one or more flags changed."""
    names = ["file", "environment", "flags", "solved", "steps to threshold: median, slowest"]
    lines = [[*names, "return", "worst seed"]]
    for script, variant, env, flags in CHANGES:
        rows = rows_of(script, env, variant)
        if len(column(rows, "eval_mean")):
            lines.append([script, env, flags, *solved(rows), *score(rows)])
    return lines


def program(row: dict[str, str]) -> str:
    """The name of the program that made a row of a race."""
    if row["who"] != "peers":
        return "A2C, this project"
    library = "SBX" if "--library sbx" in row["flags"] else "SB3"
    return f"{library}'s PPO" if "--algorithm ppo" in row["flags"] else f"{library}'s A2C"


def races() -> list[list[str]]:
    """Time to reach the target, and the ratio of its median to ours on the same seeds."""
    names = ["environment", "target return", "program", "seeds", "seconds: median, slowest"]
    lines = [[*names, "steps: median", "ratio to the time of our A2C", "return at the end"]]
    for env, target, file in RACES:
        rows, ours = read(RESULTS / f"{file}.csv"), {}
        for name in dict.fromkeys(map(program, rows)):
            own = [row for row in rows if program(row) == name]
            solved = column(own, "solved") == 1
            times = np.where(solved, column(own, "seconds"), np.inf)
            steps = np.median(np.where(solved, column(own, "steps"), np.inf))
            ours = ours or dict(zip((row["seed"] for row in own), times))  # the first program
            cells = [f"{x:.1f}" if x < np.inf else "never" for x in (np.median(times), times.max())]
            ends = column(own, "eval_mean")
            line = [env, str(target), name, str(len(own)), ", ".join(cells)]
            ratio = np.median(times) / np.median([ours[row["seed"]] for row in own])
            line += [count(steps) if steps < np.inf else "never"]
            line += [f"{ratio:.1f}" if ratio < np.inf else "never"]
            lines.append([*line, f"{ends.min():.0f} to {ends.max():.0f}"])
    return lines


def tables() -> dict[str, str]:
    """The text of each table by its name in README.md."""
    found = {"results": results(), "changes": changes(), "races": races()}
    for name, (head, *lines) in found.items():
        lines = [head, ["---"] * len(head), *lines]
        found[name] = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return found


def main() -> None:
    found = tables()
    for readme in (ROOT / "README.md", ROOT / "benchmarks" / "README.md"):
        text = BLOCK.sub(lambda match: match[1] + found[match[2]] + match[3], readme.read_text())
        readme.write_text(text)


if __name__ == "__main__":
    main()

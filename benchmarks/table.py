"""Write the table of results into README.md, from results/reporting/summary.csv.

    python benchmarks/table.py

Each row is an experiment of settings.toml that has runs. The return is the interquartile mean over
the seeds, with its 95 % bootstrap interval from five seeds on. The published results are in
published.csv. It needs only NumPy, so that the tests can compare the README with it.
"""

import csv
import re
from pathlib import Path

import numpy as np
import tomllib

ROOT = Path(__file__).resolve().parents[1]
SUMMARY = ROOT / "benchmarks" / "results" / "reporting" / "summary.csv"
START, END = "<!-- python benchmarks/table.py -->\n", "<!-- end of the table -->\n"
HEADER = """\
| environment | method | flags | steps, seeds | time | return | worst | SB3, SBX | published |
|---|---|---|---|---|---|---|---|---|
"""
METHODS = {  # (script, variant): name; the variants that are missing here are in the sections only
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


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def experiments() -> list[dict]:
    """The experiments of settings.toml, each with the rows of the summary that belong to it."""
    with (ROOT / "benchmarks" / "settings.toml").open("rb") as file:
        found = [{"variant": "", "flags": ""} | e for e in tomllib.load(file)["experiment"]]
    rows = read(SUMMARY)
    keys = ("script", "env", "variant")
    return [e | {"rows": [r for r in rows if all(r[k] == e[k] for k in keys)]} for e in found]


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


def steps(rows: list[dict]) -> str:
    """Training steps of the longest run, with two digits."""
    n = int(float(f"{max(int(row['steps']) for row in rows):.2g}"))
    return f"{n / 1_000_000:.2g}M" if n >= 1_000_000 else f"{n // 1000}k"


def returns(rows: list[dict]) -> np.ndarray:
    return np.array([float(row["eval_mean"]) for row in rows])


def peers(env: str, method: str, found: list[dict]) -> str:
    """Interquartile mean and worst seed of the libraries' runs."""
    cells = []
    for library in ("SB3", "SBX"):
        for e in found:
            if e["env"] == env and e["variant"] == f"{library}-{method}".lower() and e["rows"]:
                r = returns(e["rows"])
                size = f"{steps(e['rows'])}, {len(r)}"
                mean, worst = number(interquartile_mean(r)), number(r.min())
                cells.append(f"{library} {mean}, worst {worst} ({size})")
    return "; ".join(cells)


def published(env: str, method: str) -> str:
    rows = read(ROOT / "benchmarks" / "published.csv")
    rows = [row for row in rows if (row["env"], row["method"]) == (env, method)]
    return ", ".join(f"{row['source']} {row['return']} ({row['steps']})" for row in rows)


def table() -> str:
    lines, found = [], experiments()
    order = list(dict.fromkeys(e["env"] for e in found))
    for e in sorted(found, key=lambda e: order.index(e["env"])):
        method, rows = METHODS.get((e["script"], e["variant"])), e["rows"]
        if not method or not rows:
            continue
        r = returns(rows)
        mean = number(interquartile_mean(r))
        if len(r) >= 5:
            mean += " [{}, {}]".format(*map(number, interval(r)))
        seconds = min(float(row["seconds"]) for row in rows)  # the machine is shared
        time = f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.0f} min"
        cells = [e["env"], method, e["set"], f"{steps(rows)}, {len(rows)}", time, mean]
        cells += [number(r.min()), peers(e["env"], method, found), published(e["env"], method)]
        lines.append(f"| {' | '.join(cells)} |\n")
    return HEADER + "".join(lines)


def main() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text()
    pattern = re.escape(START) + ".*?" + re.escape(END)
    readme.write_text(re.sub(pattern, lambda _: START + table() + END, text, flags=re.S))


if __name__ == "__main__":
    main()

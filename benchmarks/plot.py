"""Draw the learning curves of results/reporting into benchmarks/figures.

    python benchmarks/plot.py

One figure for each script and environment: the return of training episodes against environment
steps. A line is the interquartile mean over the seeds and its band is the 95% bootstrap interval. A
run that ended before the others keeps its last value. Runs of SB3 and SBX are dashed. Another
figure, gradient-variance.png, shows the variance of the policy gradient with each baseline of
reinforce_baseline.py, relative to no baseline.

The background is transparent and the colours are of medium lightness, for light and dark pages.
"""

from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy as np
from table import SUMMARY, interquartile_mean, interval, read

matplotlib.use("agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
RESULTS, FIGURES = HERE / "results", HERE / "figures"
REPORTING = RESULTS / "reporting"
BLUE, GREEN, PURPLE, ORANGE = "#2b8ad4", "#2fa35b", "#c24fb0", "#e07b1a"
GREY = "#757575"  # contrasts equally with white and black
VARIANTS = {  # a colour for each, the same in all figures, and a label
    "none": (PURPLE, "--baseline none"),
    "mean": (GREEN, "--baseline mean"),
    "value": (BLUE, "--baseline value"),
    "elite": (ORANGE, "--elite-share 0.5"),
    "v": (BLUE, "--critic v"),
    "discounted": (GREEN, "--discount-policy-gradient"),
    "q": (PURPLE, "--critic q"),
    "k1": (PURPLE, "--critic-updates 1"),
    "tanh": (GREEN, "--activation tanh"),
    "entropy": (PURPLE, "--ent-coef 0.01"),
    "randomized": (GREEN, "--randomize-domain"),
    "learned": (GREEN, "--noise learned"),
    "ppo": (GREEN, "PPO's loss"),
    "td3": (GREEN, "TD3"),
}
PEERS = {  # colour, label, and the script that it is compared with
    "sb3-a2c": (ORANGE, "SB3's A2C", "a2c"),
    "sb3-ppo": (PURPLE, "SB3's PPO", "a2c"),
    "sb3-ddpg": (ORANGE, "SB3's DDPG", "ddpg"),
    "sbx-ddpg": (PURPLE, "SBX's DDPG", "ddpg"),
    "sbx-td3": (GREY, "SBX's TD3", "ddpg"),
}
BINS = 60
plt.rcParams.update(
    {
        "font.size": 11,
        "lines.linewidth": 1.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        **{f"{what}.color": GREY for what in ("text", "xtick", "ytick", "grid")},
        **{f"axes.{what}": GREY for what in ("edgecolor", "labelcolor", "titlecolor")},
        "axes.grid": True,
        "grid.alpha": 0.25,
        "legend.frameon": False,
        "savefig.transparent": True,
        "savefig.dpi": 110,
    }
)


def binned(x: np.ndarray, y: np.ndarray, end: float) -> np.ndarray:
    """Means of y in BINS equal parts of [0, end], interpolated in empty parts, NaN at the start."""
    part = (x / end * BINS).astype(int)
    counts, sums = np.bincount(part, minlength=BINS), np.bincount(part, y, BINS)
    (full,) = np.nonzero(counts)
    return np.interp(np.arange(BINS), full, sums[full] / counts[full], left=np.nan)


def draw(axes, runs: list[dict], **style) -> None:
    """Interquartile mean over the runs, and, for three or more runs, its interval."""
    end = max(run["step"][-1] for run in runs) * (1 + 1e-9)
    y = np.stack([binned(run["step"], run["return"], end) for run in runs])
    known = ~np.isnan(y).any(0)  # from the first point of every run on
    x, y = ((np.arange(BINS) + 0.5) * end / BINS)[known], y[:, known]
    axes.plot(x, interquartile_mean(y.T), **style)
    if len(runs) > 2:
        low, high = np.transpose([interval(returns) for returns in y.T])
        axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)


def read_runs(path: Path) -> list[dict]:
    """The runs in a file of curves, one for each seed: arrays step and return."""
    columns = defaultdict(lambda: defaultdict(list))
    for row in read(path):
        for name in ("step", "return"):
            columns[row["seed"]][name].append(float(row[name]))
    return [{k: np.array(v) for k, v in run.items()} for run in columns.values()]


def summary() -> list[tuple[str, str, str]]:
    """(script, environment, variant) of each experiment in summary.csv, peers last."""
    keys = dict.fromkeys((r["script"], r["env"], r["variant"]) for r in read(SUMMARY))
    return sorted(keys, key=lambda key: key[0] == "peers")


def curves(axes, script: str, env: str) -> None:
    """All variants of a script on an environment, and the peers that it is compared with."""
    for key in summary():
        if key[:2] == (script, env):
            colour, label = VARIANTS.get(key[2], (BLUE, "DDPG" if script == "ddpg" else "A2C"))
        elif key[:2] == ("peers", env) and script.startswith(PEERS[key[2]][2]):
            colour, label, _ = PEERS[key[2]]
        else:
            continue
        runs = read_runs(REPORTING / "curves" / f"{'-'.join(filter(None, key))}.csv")
        label += ", 1 seed" if len(runs) == 1 else f", {len(runs)} seeds"
        style = {"color": colour, "label": label, "linestyle": "--" if key[0] == "peers" else "-"}
        if runs:  # empty if all runs failed
            draw(axes, runs, **style)
    axes.set_xlabel("environment steps")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))


def learning_curves() -> None:
    """Draw one figure for each script and environment that has curves."""
    for script, env in dict.fromkeys(key[:2] for key in summary() if key[0] != "peers"):
        figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
        curves(axes, script, env)
        axes.set_ylabel("training return")
        axes.set_title(f"{script}.py on {env}")
        axes.legend(labelcolor=GREY, fontsize=9)
        save(figure, f"{script}-{env}")


def gradient_variance() -> None:
    """Draw one line per seed: the variance with each baseline relative to that without one."""
    rows = read(RESULTS / "reinforce-gradient-variance.csv")
    kinds = ["none", "mean", "value"]
    ratios = np.array([[float(row[kind]) / float(row["none"]) for kind in kinds] for row in rows])
    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    axes.plot(kinds, ratios.T, color=GREY, alpha=0.5, linewidth=1, marker="o", markersize=3)
    axes.plot(kinds, np.median(ratios, 0), color=BLUE, marker="o", label="median")
    axes.set(ylim=(0, 1.05), ylabel="variance, relative to none", xlabel="--baseline")
    axes.set_title(f"policy gradient, CartPole-v1, {len(rows)} seeds")
    axes.legend(labelcolor=GREY)
    save(figure, "gradient-variance")


def save(figure, name: str) -> None:
    FIGURES.mkdir(exist_ok=True)
    figure.savefig(FIGURES / f"{name}.png")
    plt.close(figure)
    print(FIGURES / f"{name}.png")


if __name__ == "__main__":
    learning_curves()
    gradient_variance()

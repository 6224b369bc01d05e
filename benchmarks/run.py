"""Run the experiments of settings.toml over all their seeds, one core each, and keep the results.

    python benchmarks/run.py                            what is still missing, on all cores
    python benchmarks/run.py --only ddpg Pendulum-v1    one script, one environment, or both
    python benchmarks/run.py --quick                    2000 steps of each script, kept nowhere
    python benchmarks/run.py --address auto             on the Ray cluster that this machine is in

Two kinds of files come of it, in benchmarks/results:

    curves/<script>-<env>[-<variant>].csv    seed, step, seconds, return: a row for each point that
                                             the script logged, the mean return of the episodes
                                             that finished since the one before
    summary.csv                              a row for each run, see SUMMARY

A run that is in summary.csv with the same flags is not run again, and one whose worker died is
tried again, so the command can be stopped and repeated at any time.
"""

import argparse
import csv
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import ray
import tomllib

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CURVE = ["seed", "step", "seconds", "return"]
SUMMARY = [
    "script",
    "env",
    "variant",
    "seed",
    "steps",
    "seconds",  # of training: imports and evaluation are not counted
    "steps_per_second",
    "threshold",  # for the mean return of the last 100 training episodes
    "steps_to_threshold",
    "seconds_to_threshold",
    "train_return",  # mean of the last 100 training episodes
    "eval_mean",  # of the greedy policy's episodes
    "eval_std",
    "flags",
    "versions",
    "machine",
    "date",
]
KEY = ("script", "env", "variant", "seed", "flags")

# What a user of the script would write, in a process of its own.
LAUNCH = """
import importlib, json, sys, tyro
script = importlib.import_module(sys.argv[1])
_, episodes = script.train(tyro.cli(script.Args, args=sys.argv[3:]))
json.dump(episodes, open(sys.argv[2], "w"))
"""


def machine() -> str:
    """The machine in words."""
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]
    except (OSError, TypeError):
        found = platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores of {found}, {platform.system()}"


def points(folder: Path) -> list[tuple[int, float, float]]:
    """(step, unix time, return) of each point in the run's TensorBoard file."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    if "charts/episodic_return" not in events.Tags()["scalars"]:
        return []
    return [(e.step, e.wall_time, e.value) for e in events.Scalars("charts/episodic_return")]


@ray.remote(num_cpus=1, max_retries=3)
def play(source: str, job: dict) -> tuple[dict, list]:
    """One run, on whatever machine this is: its row of the summary, and its curve."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, f"{job['script']}.py").write_text(source)
        flags = ["--env-id", job["env"], *job["flags"].split(), "--seed", str(job["seed"])]
        command = [sys.executable, "-c", LAUNCH, job["script"], "episodes.json", *flags]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{job}: {done.stderr[-2000:]}")
        (run,) = Path(folder, "runs").iterdir()
        curve, episodes = points(run), json.loads(Path(folder, "episodes.json").read_text())
    seconds = float(re.search(r"^trained: .* in ([\d.]+) s", done.stdout, re.M)[1])
    mean, std = re.search(r"^evaluation: return (\S+) \+- (\S+)", done.stdout, re.M).groups()
    row = job | {"seconds": seconds, "eval_mean": mean, "eval_std": std, "machine": machine()}
    row["steps"] = int(re.search(r"^trained: (\d+) steps", done.stdout, re.M)[1])
    row["steps_per_second"] = f"{row['steps'] / seconds:.0f}"
    row["versions"] = " ".join(f"{name} {version(name)}" for name in ("torch", "gymnasium"))
    row["date"] = datetime.date.today().isoformat()
    steps, returns = np.array([e[0] for e in episodes]), np.array([e[1] for e in episodes])
    if len(curve) and len(returns):
        # A point's time is when it was written; that of the first step is not, but of the last.
        start = curve[-1][1] - seconds
        curve = [(step, max(0.0, moment - start), value) for step, moment, value in curve]
        row["train_return"] = f"{returns[-100:].mean():.2f}"
    if job["threshold"] != "" and len(returns) >= 100:
        means = np.convolve(returns, np.full(100, 0.01), "valid")  # of episodes i to i + 99
        (reached,) = np.nonzero(means >= job["threshold"])
        if len(reached):
            row["steps_to_threshold"] = at = int(steps[99 + reached[0]])
            known = np.array([(0, 0.0), *((step, moment) for step, moment, _ in curve)])
            row["seconds_to_threshold"] = f"{np.interp(at, known[:, 0], known[:, 1]):.2f}"
    return row, [(job["seed"], step, f"{t:.2f}", f"{value:.2f}") for step, t, value in curve]


def read(path: Path) -> list[dict]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, columns: list[str], rows: list[dict]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def keep(row: dict, curve: list) -> None:
    """Add a run to the results, in the place of an earlier one with other flags."""
    name = "-".join(filter(None, (row["script"], row["env"], row["variant"])))
    path = RESULTS / "curves" / f"{name}.csv"
    others = [r for r in read(path) if r["seed"] != str(row["seed"])]
    write(path, CURVE, others + [dict(zip(CURVE, values)) for values in curve])
    row = {column: str(row.get(column, "")) for column in SUMMARY}
    others = [r for r in read(RESULTS / "summary.csv") if any(r[k] != row[k] for k in KEY[:4])]
    rows = sorted([*others, row], key=lambda r: (*(r[k] for k in KEY[:3]), int(r["seed"])))
    write(RESULTS / "summary.csv", SUMMARY, rows)


def jobs(options: argparse.Namespace) -> list[dict]:
    """What is to be run: all experiments, or those chosen, less what the summary has."""
    with (ROOT / "benchmarks" / "settings.toml").open("rb") as file:
        experiments = tomllib.load(file)["experiment"]
    if options.quick:
        names = {e["script"]: e["env"] for e in reversed(experiments)}
        flags = "--total-timesteps 2000 --eval-episodes 1"
        experiments = [{"script": s, "env": e, "flags": flags} for s, e in names.items()]
    known = {tuple(row[k] for k in KEY) for row in read(RESULTS / "summary.csv")}
    found = []
    for experiment in experiments:
        job = {"variant": "", "flags": "", "threshold": "", "seeds": 1} | experiment
        seeds = job.pop("seeds")
        if set(options.only) <= {job["script"], job["env"], job["variant"]}:
            for seed in range(seeds):
                if options.quick or tuple(str((job | {"seed": seed})[k]) for k in KEY) not in known:
                    found.append(job | {"seed": seed})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", nargs="+", default=[], help="script, environment, variant")
    parser.add_argument("--quick", action="store_true", help="2000 steps each; nothing is kept")
    parser.add_argument("--address", default="local", help="of a Ray cluster")
    options = parser.parse_args()
    todo = jobs(options)
    if not todo:
        sys.exit("nothing to run: no such experiment, or all of it is in summary.csv")
    ray.init(address=options.address, include_dashboard=False, log_to_driver=False)
    folders = {"peers": ROOT / "benchmarks"}
    names = {job["script"] for job in todo}
    sources = {n: (folders.get(n, ROOT) / f"{n}.py").read_text() for n in names}
    running, failed, start = (
        [play.remote(sources[job["script"]], job) for job in todo],
        0,
        time.time(),
    )
    while running:
        (ready,), running = ray.wait(running)
        try:
            row, curve = ray.get(ready)
        except ray.exceptions.RayError as error:
            failed += 1
            print(error, file=sys.stderr)
            continue
        if not options.quick:
            keep(row, curve)
        what = " ".join(str(row[k]) for k in KEY[:4])
        spent = f"{row['seconds']:.0f} s, after {time.time() - start:.0f} s"
        print(f"{what}: {row['eval_mean']} in {spent}; {len(running)} to go", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()

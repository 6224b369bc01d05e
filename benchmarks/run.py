"""Run the experiments of settings.toml over all their seeds, one core per run, and save the rows.

    python benchmarks/run.py                            everything that is missing, on all cores
    python benchmarks/run.py --only ddpg Pendulum-v1    one script, one environment, or both
    python benchmarks/run.py --seeds 3                  the first three seeds of each experiment
    python benchmarks/run.py --quick                    2000 steps of each script, not saved
    python benchmarks/run.py --cores 1                  one run at a time, to compare run times
    python benchmarks/run.py --address auto             on the Ray cluster that this machine is in

The results are in benchmarks/results/reporting:

    curves/<script>-<env>[-<variant>].csv    seed, step, seconds, return: a row for each point that
                                             the script logged, the mean return of the episodes
                                             that finished since the previous point
    summary.csv                              a row for each run, see SUMMARY

The command can be stopped and restarted at any time. A run that is in summary.csv with the same
flags is not repeated, except with --again. A run that failed or was killed is repeated. If it has
a checkpoint and no threshold, it continues from there. It then differs slightly from an
uninterrupted run, because the environment is reset. Do not run two instances at once.
"""

import argparse
import csv
import datetime
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import ray
import tomllib
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "reporting"
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
    "failure",  # the error that ended the run, if one did
    "flags",
    "versions",
    "source",  # the first digits of the script's SHA-256
    "machine",
    "date",
]
RUN = ("script", "env", "variant", "seed")  # these identify a row of summary.csv
SAME = (*RUN, "flags", "threshold")  # a run is skipped if a row agrees in all of these

os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default is a low priority


class Killed(RuntimeError):
    """A signal ended the run, perhaps because memory ran out: Ray retries it."""


# Train from Python, as a user would, in a separate process that ends with the worker.
LAUNCH = """
import ctypes, importlib, json, signal, sys, tyro
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
script = importlib.import_module(sys.argv[1])
_, episodes = script.train(tyro.cli(script.Args, args=sys.argv[3:]))
json.dump(episodes, open(sys.argv[2], "w"))
"""


def machine() -> str:
    """Description of the machine: cores, processor, operating system."""
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]
    except (OSError, TypeError):
        found = platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores of {found}, {platform.system()}"


def points(folder: Path) -> list[tuple[int, float, float]]:
    """(step, seconds, return) of each point in the TensorBoard file of a run."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    if "charts/episodic_return" not in events.Tags()["scalars"]:
        return []
    start = events.FirstEventTimestamp()
    return [
        (e.step, e.wall_time - start, e.value) for e in events.Scalars("charts/episodic_return")
    ]


def interrupted(folder: Path) -> tuple[Path | None, int, list]:
    """The last checkpoint of a run that was killed, its step, and the curve up to there."""
    last, start, curve = None, 0, []
    for part in sorted(folder.glob("runs/*"), key=os.path.getmtime):
        if (part / "checkpoint.pt").exists():  # each part continues the one before
            last, before = part / "checkpoint.pt", curve[-1][1] if curve else 0
            start = torch.load(last, mmap=True, weights_only=True)["global_step"]
            curve += [(step, before + t, value) for step, t, value in points(part) if step <= start]
    return last, start, curve


@ray.remote(num_cpus=1, max_retries=3, retry_exceptions=[Killed])
def play(source: str, job: dict) -> tuple[dict, list]:
    """Execute one run on this machine; return its row of the summary and its curve."""
    row = job | {"machine": machine(), "date": datetime.date.today().isoformat()}
    names = ["torch", "gymnasium", "numpy", "mujoco", "box2d"]
    if job["script"] == "peers":
        names.append("sbx-rl" if "sbx" in job["variant"] else "stable-baselines3")
    row["source"] = hashlib.sha256(source.encode()).hexdigest()[:8]
    row["versions"] = " ".join(f"{name} {version(name)}" for name in names)
    name = hashlib.sha256(f"{job} {source}".encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir(), "actor-critic-runs", name)
    is_resumable = job["threshold"] == ""  # a checkpoint does not hold all earlier episodes
    if not is_resumable:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{job['script']}.py").write_text(source)
    flags = ["--env-id", job["env"], *shlex.split(job["flags"]), "--seed", str(job["seed"])]
    if is_resumable and job["script"] == "ddpg":
        flags.append("--save-buffer")
    checkpoint, start, curve = interrupted(folder)
    if checkpoint:
        flags += ["--resume", str(checkpoint)]
    parts = set(folder.glob("runs/*"))
    command = [sys.executable, "-c", LAUNCH, job["script"], "episodes.json", *flags]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode < 0:
        raise Killed(f"{job} by signal {-done.returncode}")
    if done.returncode:  # a failed run is a result too, so it gets a row
        shutil.rmtree(folder)
        return row | {"failure": (done.stderr.strip() or "no message").splitlines()[-1]}, []
    (part,) = set(folder.glob("runs/*")) - parts
    before = curve[-1][1] if curve else 0
    curve += [(step, before + t, value) for step, t, value in points(part)]
    episodes = json.loads((folder / "episodes.json").read_text())
    shutil.rmtree(folder)
    trained, seconds = re.search(r"^trained: (\d+) steps in (\S+) s", done.stdout, re.M).groups()
    mean, std = re.search(r"^evaluation: return (\S+) \+- (\S+)", done.stdout, re.M).groups()
    steps, seconds = start + int(trained), round(before + float(seconds), 2)
    row |= {"steps": steps, "seconds": seconds, "eval_mean": mean, "eval_std": std}
    row["steps_per_second"] = f"{row['steps'] / seconds:.0f}"
    ends, returns = np.array([e[0] for e in episodes]), np.array([e[1] for e in episodes])
    if len(returns):
        row["train_return"] = f"{returns[-100:].mean():.2f}"
    if job["threshold"] != "" and len(returns) >= 100:
        means = np.convolve(returns, np.ones(100), "valid") / 100  # of episodes i to i + 99
        last = np.append(np.diff(ends) > 0, True)[99:]  # of those that ended at the same step
        (reached,) = np.nonzero((means >= job["threshold"]) & last)
        if len(reached):
            row["steps_to_threshold"] = at = int(ends[99 + reached[0]])
            known = [(0, 0.0), *((step, moment) for step, moment, _ in curve)]
            known = np.array([*known, (row["steps"], seconds)])
            row["seconds_to_threshold"] = f"{np.interp(at, known[:, 0], known[:, 1]):.2f}"
    return row, [(job["seed"], step, f"{t:.2f}", f"{value:.2f}") for step, t, value in curve]


def read(path: Path) -> list[dict]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, columns: list[str], rows: list[dict]) -> None:
    """Write a CSV file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def keep(row: dict, curve: list) -> None:
    """Add a run to the results; replace an earlier one of the same experiment and seed."""
    name = "-".join(filter(None, (row["script"], row["env"], row["variant"])))
    path = RESULTS / "curves" / f"{name}.csv"
    rows = [r for r in read(path) if r["seed"] != str(row["seed"])]
    rows += [dict(zip(CURVE, map(str, values))) for values in curve]
    write(path, CURVE, sorted(rows, key=lambda r: (int(r["seed"]), int(r["step"]))))
    row = {column: str(row.get(column, "")) for column in SUMMARY}
    others = [r for r in read(RESULTS / "summary.csv") if any(r[k] != row[k] for k in RUN)]
    rows = sorted([*others, row], key=lambda r: (*(r[k] for k in RUN[:3]), int(r["seed"])))
    write(RESULTS / "summary.csv", SUMMARY, rows)


def jobs(options: argparse.Namespace) -> list[dict]:
    """The runs that are missing from the summary, of all experiments or of those chosen."""
    with (ROOT / "benchmarks" / "settings.toml").open("rb") as file:
        experiments = tomllib.load(file)["experiment"]
    if options.quick:
        names = {e["script"]: e["env"] for e in reversed(experiments)}
        flags = "--total-timesteps 2000 --eval-episodes 1"
        experiments = [{"script": s, "env": e, "flags": flags} for s, e in names.items()]
    rows = [row for row in read(RESULTS / "summary.csv") if not row["failure"]]
    known = {tuple(row[k] for k in SAME) for row in rows}
    found = []
    for experiment in experiments:
        job = {"variant": "", "flags": "", "threshold": "", "seeds": [100, 101]} | experiment
        seeds = range(*job.pop("seeds"))[: options.seeds]
        if set(options.only) <= {job["script"], job["env"], job["variant"]}:
            found += [job | {"seed": seed} for seed in seeds]
    if not found:
        sys.exit(f"--only {' '.join(options.only)}: no such experiment in settings.toml")
    if len({tuple(job[k] for k in RUN) for job in found}) < len(found):
        sys.exit("settings.toml: two experiments need a variant to tell them apart")
    missing = [job for job in found if tuple(str(job[k]) for k in SAME) not in known]
    return found if options.quick or options.again else missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", nargs="+", default=[], help="script, environment, variant")
    parser.add_argument("--seeds", type=int, help="run only this many of each experiment's seeds")
    parser.add_argument(
        "--quick", action="store_true", help="2000 steps each; results are not saved"
    )
    parser.add_argument("--again", action="store_true", help="also repeat runs in summary.csv")
    parser.add_argument("--cores", type=int, help="number of parallel runs (default: one per core)")
    parser.add_argument("--address", default="local", help="address of a Ray cluster")
    options = parser.parse_args()
    if options.cores and options.address != "local":
        parser.error("--cores: a running cluster has its own number of cores; omit this flag")
    todo = jobs(options)
    if not todo:
        print("nothing to run: all runs are in summary.csv")
        return
    ray.init(options.address, num_cpus=options.cores, include_dashboard=False, log_to_driver=False)
    folders = {"peers": ROOT / "benchmarks"}
    names = {job["script"] for job in todo}
    sources = {n: (folders.get(n, ROOT) / f"{n}.py").read_text() for n in names}
    running, failures = [play.remote(sources[job["script"]], job) for job in todo], 0
    while running:
        (ready,), running = ray.wait(running)
        try:
            row, curve = ray.get(ready)
        except ray.exceptions.RayError as error:  # killed on every retry, or an error in `play`
            failures += 1
            print(f"failed: {error}; {len(running)} to go", flush=True)
            continue
        if not options.quick:
            keep(row, curve)
        failures += "failure" in row
        outcome = row.get("failure") or f"{row['eval_mean']} after {row['seconds']:.0f} s"
        print(*(row[k] for k in RUN), f"{outcome}; {len(running)} to go", flush=True)
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()

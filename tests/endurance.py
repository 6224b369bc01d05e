"""Does a long run, or a long series of runs, use more and more memory, threads or files?

    python tests/endurance.py train a2c_discrete ddpg --minutes 10 --out OUT.csv
    python tests/endurance.py sweep --calls 200

`train` trains each script for that long in a process of its own, stops it with SIGTERM, and samples
what the process uses. `sweep` calls train() of the five scripts in turn in this process.

Both compare the use after a warm-up (a minute, or 20 calls) with the use at the end. The exit
status is 1 if memory has grown by more than 10 %, or the number of threads or of open files at all.
Not part of `python -m pytest`. Needs Linux: the numbers come from /proc.
"""

import argparse
import contextlib
import csv
import gc
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT, USES = Path(__file__).parents[1], ["rss_mib", "threads", "files"]
WARM_UP_SECONDS, WARM_UP_CALLS = 60, 20
SIZE = 10  # samples whose median counts as the use at the beginning or at the end
FLAGS = {"ddpg": ["--buffer-size", "20000"]}  # of `train`; filled within a few minutes
SMALL = {  # flags of `sweep`
    "a2c_discrete": {},
    "a2c_continuous": {"num_envs": 2, "vectorization": "async"},
    "reinforce_baseline": {},
    "ac_td0": {},
    "ddpg": {"learning_starts": 100, "buffer_size": 10_000},
}


def usage(pid: int) -> dict[str, float]:
    """Resident memory in MiB, threads and open files of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    numbers = int(status["VmRSS"].split()[0]) / 1024, int(status["Threads"])
    return dict(zip(USES, (*numbers, len(os.listdir(f"/proc/{pid}/fd")))))


def compare(first: dict[str, float], last: dict[str, float]) -> bool:
    """Print both; whether nothing has grown too much."""
    factors = {"rss_mib": 1.1, "threads": 1, "files": 1}
    grown = [name for name in USES if last[name] > factors[name] * first[name]]
    print(*(f"{name}: first {first[name]:.1f}, last {last[name]:.1f}" for name in USES), sep="; ")
    print(f"grown: {', '.join(grown) or 'nothing'}", flush=True)
    return not grown


def sample(script: str, seconds: float) -> list[dict]:
    """Train for so many seconds; return a row of numbers for every five of them."""
    with tempfile.TemporaryDirectory() as folder, open(f"{folder}/stderr", "w+") as stderr:
        command = [sys.executable, str(ROOT / f"{script}.py"), "--total-timesteps", str(10**12)]
        command += ["--log-dir", folder, *FLAGS.get(script, [])]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)
        rows, start, now = [], time.monotonic(), 0.0
        try:
            while now < seconds:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(5)
                    sys.exit(f"{script} ended: {Path(stderr.name).read_text()[-2000:]}")
                now = time.monotonic() - start
                size = sum(file.stat().st_size for file in Path(folder).glob("*/events*"))
                row = {"script": script, "seconds": round(now, 1), **usage(child.pid)}
                rows.append(row | {"tensorboard_bytes": size})
        finally:
            child.send_signal(signal.SIGTERM)
            status = child.wait()
    assert status == 143, f"{script}: exit status {status} after SIGTERM, not 143"
    return rows


def train(options: argparse.Namespace) -> bool:
    """Whether the use of each script stays the same."""
    rows, results = [], []
    for script in options.scripts:
        rows += sample(script, 60 * options.minutes)
        warm = [row for row in rows if row["script"] == script and row["seconds"] > WARM_UP_SECONDS]
        seconds, size = (warm[-1][x] - warm[0][x] for x in ("seconds", "tensorboard_bytes"))
        print(f"{script}: TensorBoard {60 * size / seconds:,.0f} bytes per minute; maximum", end="")
        print(*(f" {name} {max(row[name] for row in warm):.1f}" for name in USES))
        ends = warm[:SIZE], warm[-SIZE:]
        results.append(compare(*({x: median(row[x] for row in end) for x in USES} for end in ends)))
    if options.out:
        with options.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(row | {"rss_mib": f"{row['rss_mib']:.1f}"} for row in rows)
    return all(results)


def sweep(options: argparse.Namespace) -> bool:
    """Whether the last call leaves no more behind than the twentieth."""
    sys.path.insert(0, str(ROOT))
    modules, uses = [importlib.import_module(script) for script in SMALL], []
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as null:
        for call in range(1, options.calls + 1):
            module = modules[call % len(modules)]
            args = {"total_timesteps": 200, "eval_episodes": 1} | SMALL[module.SCRIPT]
            with contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
                module.train(module.Args(seed=call, log_dir=folder, **args))
            if call % WARM_UP_CALLS == 0:
                gc.collect()
                uses.append(usage(os.getpid()))
                print(f"call {call}:", *(f"{name} {n:.1f}" for name, n in uses[-1].items()))
    return compare(uses[0], uses[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=["train", "sweep"])
    parser.add_argument("scripts", nargs="*", default=["a2c_discrete", "ddpg"], help="for train")
    parser.add_argument("--minutes", type=float, default=10, help="at least 3")
    parser.add_argument("--out", type=Path, help="CSV file for the samples")
    parser.add_argument("--calls", type=int, default=200, help="for sweep; at least 40")
    options = parser.parse_args()
    if options.minutes < 3 or options.calls < 2 * WARM_UP_CALLS:
        parser.error(f"--minutes must be at least 3 and --calls at least {2 * WARM_UP_CALLS}")
    sys.exit(not {"train": train, "sweep": sweep}[options.what](options))


if __name__ == "__main__":
    main()

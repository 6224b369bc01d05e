"""Run a script over several seeds, or several scripts in turn, and add each run to a CSV file.

    python benchmarks/seeds.py OUT.csv --seeds 10 --cores 0 1 -- a2c_discrete.py --target-return 475
    python benchmarks/seeds.py OUT.csv --seeds 3 -- a2c_discrete.py -- benchmarks/peers.py

Each `--` is followed by the command line of a script. For each seed the scripts run one after the
other on the same core (`taskset`), which should otherwise be idle. Seeds for which OUT.csv has a
run of the first script with the same flags are skipped.

Columns: script (`who`), seed, environment steps, seconds of training (without imports and
evaluation), steps per second, whether the target was reached, mean and standard deviation of the
greedy evaluation, and the flags.
"""

import argparse
import concurrent.futures
import contextlib
import csv
import queue
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

COLUMNS = ["who", "seed", "steps", "seconds", "sps", "solved", "eval_mean", "eval_std", "flags"]


def play(core: str, seed: int, command: list[str]) -> list:
    """Run a script on one core; return its row of the CSV file. Its stderr is not captured."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["taskset", "-c", core, sys.executable, *command]
        words += ["--seed", str(seed), "--log-dir", folder]
        out = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout
    steps, seconds = re.search(r"^trained: (\d+) steps in ([\d.]+) s", out, re.M).groups()
    mean, std = re.search(r"^evaluation: return (\S+) \+- (\S+)", out, re.M).groups()
    flags = " ".join(command[1:])
    solved = int("\ntarget return" in out) if "--target-return" in flags else ""
    sps = f"{int(steps) / float(seconds):.2f}"
    return [Path(command[0]).stem, seed, steps, seconds, sps, solved, mean, std, flags]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--cores", nargs="+", default=["0"], help="the cores to use")
    words, commands = sys.argv[1:], []
    while "--" in words:  # from the right
        split = len(words) - 1 - words[::-1].index("--")
        words, commands = words[:split], [words[split + 1 :], *commands]
    options = parser.parse_args(words)
    if not commands or not all(commands):
        parser.error("after the options, give `-- script.py flags` one or more times")

    known = set()
    if options.out.exists():
        with options.out.open(newline="") as file:
            known = {(row["who"], row["seed"], row["flags"]) for row in csv.DictReader(file)}
    todo: queue.SimpleQueue = queue.SimpleQueue()
    for seed in range(options.first, options.first + options.seeds):
        script, *flags = commands[0]
        if (Path(script).stem, str(seed), " ".join(flags)) not in known:
            todo.put(seed)
    lock = threading.Lock()

    def work(core: str) -> None:
        try:
            while True:
                seed = todo.get_nowait()
                rows = [play(core, seed, command) for command in commands]
                with (
                    lock,
                    options.out.open("a", newline="") as file,
                ):  # runs of one seed stay together
                    writer = csv.writer(file, lineterminator="\n")
                    writer.writerows(([] if file.tell() else [COLUMNS]) + rows)
                for row in rows:
                    print(*row[:8], flush=True)
        except queue.Empty:
            pass
        except BaseException:
            with contextlib.suppress(queue.Empty):  # let the other cores finish their run and stop
                while True:
                    todo.get_nowait()
            raise

    with concurrent.futures.ThreadPoolExecutor() as pool:
        for worker in [pool.submit(work, core) for core in options.cores]:
            worker.result()  # raises what the worker raised


if __name__ == "__main__":
    main()

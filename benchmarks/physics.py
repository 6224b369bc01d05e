"""Evaluate LunarLander policies with and without random physics, and add a row for each to a CSV.

    python benchmarks/physics.py OUT.csv --first 100 --seeds 5

For each seed, one policy is trained without --randomize-domain and one with it, both with the set
"lunar" of settings.toml. Each plays 20 greedy episodes twice, with the same seeds: in the standard
physics, and with random gravity and wind. Rows that are already in OUT.csv are skipped.
"""

import argparse
import csv
import shlex
import sys
import tempfile
from pathlib import Path

import numpy as np
import tomllib
import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))
from a2c_discrete import Args, DomainRandomization, evaluate, make_env, train

EPISODES = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--first", type=int, default=100, help="the first seed")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    options = parser.parse_args()
    with (Path(__file__).parent / "settings.toml").open("rb") as file:
        experiments = tomllib.load(file)["experiment"]
    (flags,) = (
        e["flags"]
        for e in experiments
        if (e["script"], e["env"], e.get("variant")) == ("a2c_discrete", "LunarLander-v3", None)
    )
    known = set()
    if options.out.exists():
        with options.out.open(newline="") as file:
            known = {(row["seed"], row["trained_with"]) for row in csv.DictReader(file)}
    for seed in range(options.first, options.first + options.seeds):
        for physics in ("fixed", "random"):
            if (str(seed), physics) in known:
                continue
            words = ["--env-id", "LunarLander-v3", *shlex.split(flags), "--seed", str(seed)]
            words += ["--randomize-domain"] * (physics == "random")
            with tempfile.TemporaryDirectory() as folder:
                args = tyro.cli(Args, args=[*words, "--log-dir", folder])
                agent, _ = train(args)
            env = make_env(args)
            returns = [evaluate(agent, e, EPISODES) for e in (env, DomainRandomization(env))]
            row = [physics, seed, *(f"{np.mean(r):.2f}" for r in returns)]
            with options.out.open("a", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                if not file.tell():
                    writer.writerow(["trained_with", "seed", "fixed_physics", "random_physics"])
                writer.writerow(row)


if __name__ == "__main__":
    main()

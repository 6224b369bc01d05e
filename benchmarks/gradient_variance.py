"""Measure the variance of REINFORCE's gradient with each baseline, on the same policy and episodes.

    python benchmarks/gradient_variance.py OUT.csv

Trains reinforce_baseline.py on CartPole-v1 for a while (--steps), then plays many episodes with the
frozen policy and estimates the variance of the mean gradient of N episodes, once with each
baseline: b = 0, b = the moving average, b = the learned V. The CSV has one row per seed. `none`,
`mean` and `value` are the variances. The last two columns are the factors by which a baseline
reduces the variance.
"""

import argparse
import csv
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from reinforce_baseline import Args, gradient_variance, make_batch, make_envs, play, train


def variances(args: Args, num_episodes: int) -> tuple[float, dict[str, float]]:
    """Mean return of the policy after training, and the variance for each baseline."""
    agent, _ = train(args)
    envs, _ = make_envs(args)
    envs.reset(seed=args.seed + 1_000_000)
    found: dict[str, list[float]] = {"none": [], "mean": [], "value": []}
    returns = []
    for _ in range(num_episodes // args.num_envs):
        episodes = play(agent, envs)
        returns += list(episodes.rewards.sum(0))
        for kind, estimates in found.items():
            batch = make_batch(agent, episodes, replace(args, baseline=kind, bootstrap=False))
            estimates.append(gradient_variance(agent, batch, args.num_envs))
    return float(np.mean(returns)), {kind: float(np.mean(x)) for kind, x in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=30_000, help="training before the measurement")
    parser.add_argument("--episodes", type=int, default=160)
    parser.add_argument("--log-dir", default="runs")
    options = parser.parse_args()
    with options.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["seed", "policy_return", "none", "mean", "value", "mean_x", "value_x"])
        for seed in range(options.seeds):
            args = Args(seed=seed, total_timesteps=options.steps, log_dir=options.log_dir)
            policy_return, found = variances(args, options.episodes)
            none, mean, value = found.values()
            numbers = [policy_return, none, mean, value, none / mean, none / value]
            writer.writerow([seed, *(f"{number:.4g}" for number in numbers)])
            file.flush()


if __name__ == "__main__":
    main()

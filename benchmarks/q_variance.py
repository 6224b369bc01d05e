"""Variance of the online policy gradient weighted by Q(s, a), and by Q(s, a) - V(s).

    python benchmarks/q_variance.py OUT.csv

Trains `ac_td0.py --critic q` on CartPole-v1 for a while (--steps), then continues with the frozen
policy and weights grad log pi(a|s) at each step in two ways: by the critic's Q(s, a), as QAC does,
and by Q(s, a) minus its mean under pi, which is the advantage. Both have the same expectation. The
CSV has one row per seed. The variance is summed over all weights of the actor.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from ac_td0 import Agent, Args, make_env, train


def variances(agent: Agent, args: Args, num_steps: int) -> tuple[float, float, float]:
    """Root mean square of Q(s, a), and the variances with weights Q and Q - V."""
    env, done, q_values = make_env(args), True, []
    gradients: dict[str, list[torch.Tensor]] = {"q": [], "advantage": []}
    for _ in range(num_steps):
        if done:
            obs, _ = env.reset(seed=1_000_000 + args.seed if not q_values else None)
        obs = torch.as_tensor(obs, dtype=torch.float32)
        action = agent.act(obs).item()
        log_pi, q = agent.actor(obs).log_softmax(-1), agent.critic(obs).detach()
        score = torch.autograd.grad(log_pi[action], list(agent.actor.parameters()))
        score = torch.cat([part.flatten() for part in score])
        value = (log_pi.detach().exp() * q).sum()
        gradients["q"].append(q[action] * score)
        gradients["advantage"].append((q[action] - value) * score)
        q_values.append(q[action].item())
        obs, _, terminated, truncated, _ = env.step(env.action_space.start + action)
        done = terminated or truncated
    q, advantage = (torch.stack(g).var(0).sum().item() for g in gradients.values())
    return float(np.sqrt(np.mean(np.square(q_values)))), q, advantage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30_000, help="training before the measurement")
    parser.add_argument("--sample", type=int, default=5_000, help="steps of the measurement")
    parser.add_argument("--log-dir", default="runs")
    options = parser.parse_args()
    with options.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["seed", "rms_q", "variance_q", "variance_advantage", "ratio"])
        for seed in range(options.seeds):
            flags = {"total_timesteps": options.steps, "log_dir": options.log_dir}
            args = Args(critic="q", actor_lr=1e-4, seed=seed, **flags)
            rms, q, advantage = variances(train(args)[0], args, options.sample)
            writer.writerow(
                [seed, *(f"{number:.4g}" for number in (rms, q, advantage, q / advantage))]
            )
            file.flush()


if __name__ == "__main__":
    main()

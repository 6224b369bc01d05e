"""Compare the updates per second of ac_td0.py and of a straightforward implementation, on one core.

    taskset -c 0 python benchmarks/td0_speed.py OUT.csv --env-id CartPole-v1 --steps 20000

The other implementation uses torch.distributions, an MSE loss and one optimizer per network, with
default settings except for our learning rates. It writes neither logs nor checkpoints. The two take
turns, in one process.
"""

import argparse
import contextlib
import csv
import io
import re
import sys
import tempfile
import time
from pathlib import Path

import gymnasium as gym
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
import ac_td0


def ours(env_id: str, steps: int, seed: int) -> float:
    out = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(out):
        flags = {"env_id": env_id, "total_timesteps": steps, "seed": seed, "eval_episodes": 1}
        ac_td0.train(ac_td0.Args(log_dir=folder, **flags))
    return float(re.search(r"trained: .* in ([\d.]+) s", out.getvalue())[1])


def straightforward(env_id: str, steps: int, seed: int) -> float:
    torch.manual_seed(seed)
    args, env = ac_td0.Args(), gym.make(env_id)
    agent = ac_td0.Agent(env.observation_space.shape[0], int(env.action_space.n), args)
    actor_optimizer = torch.optim.Adam(agent.actor.parameters(), lr=args.actor_lr)
    critic_optimizer = torch.optim.Adam(agent.critic.parameters(), lr=args.critic_lr)
    start, done = time.time(), True
    for _ in range(steps):
        if done:
            obs = torch.as_tensor(env.reset()[0])
        policy = torch.distributions.Categorical(logits=agent.actor(obs))
        action = policy.sample()
        next_obs, reward, terminated, truncated, _ = env.step(action.item())
        next_obs, done = torch.as_tensor(next_obs), terminated or truncated
        with torch.no_grad():
            target = reward + args.gamma * (1 - terminated) * agent.critic(next_obs)
        value = agent.critic(obs)
        critic_loss = F.mse_loss(value, target)
        actor_loss = -((target - value).detach() * policy.log_prob(action)).sum()
        critic_optimizer.zero_grad()
        critic_loss.backward()
        critic_optimizer.step()
        actor_optimizer.zero_grad()
        actor_loss.backward()
        actor_optimizer.step()
        obs = next_obs
    return time.time() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--env-id", default="CartPole-v1")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with options.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["who", "seed", "steps", "seconds", "updates_per_second"])
        for seed in range(options.repeats):
            for run in (ours, straightforward):
                seconds = run(options.env_id, options.steps, seed)
                row = [run.__name__, seed, options.steps, f"{seconds:.2f}"]
                writer.writerow([*row, f"{options.steps / seconds:.0f}"])
                print(*row, f"{options.steps / seconds:.0f} updates/s", flush=True)

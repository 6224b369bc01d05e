"""Run algorithms of Stable-Baselines3 (SB3) and SBX, its JAX version, as our scripts do.

    python benchmarks/peers.py --algorithm a2c --env-id CartPole-v1 --target-return 475
    python benchmarks/peers.py --library sbx --algorithm td3 --env-id Pendulum-v1

The settings are those of rl-baselines3-zoo for the environment, or for an earlier version of it.
DDPG and TD3 make one update after each step, as in ddpg.py. If the zoo has no settings for the
environment, or with --no-zoo, the library's defaults are used. Flags override these settings, for
example to compare speeds with the same network and batch sizes. The evaluation plays the same ten
greedy episodes as our scripts. SB3 uses one thread.
--total-timesteps also sets the length of learning rate schedules.
"""

import importlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import VecNormalize
from torch.utils.tensorboard import SummaryWriter


def linear(start: float) -> Callable[[float], float]:
    """A schedule that decreases to 0."""
    return lambda remaining: remaining * start


CONTINUOUS = {
    "n_steps": 8,
    "gae_lambda": 0.9,
    "vf_coef": 0.4,
    "ent_coef": 0.0,
    "learning_rate": linear(7e-4),
    "use_sde": True,
    "policy_kwargs": {"log_std_init": -2, "ortho_init": False},
}
OFF_POLICY = {
    "gamma": 0.98,
    "buffer_size": 200_000,
    "learning_starts": 10_000,
    "train_freq": 1,
    "gradient_steps": 1,
    "learning_rate": 1e-3,
    "policy_kwargs": {"net_arch": [400, 300]},
}
MUJOCO_OFF_POLICY = OFF_POLICY | {"gamma": 0.99, "buffer_size": 1_000_000, "batch_size": 256}
MUJOCO_PPO = {
    "n_steps": 512,
    "policy_kwargs": {
        "log_std_init": -2,
        "ortho_init": False,
        "activation_fn": torch.nn.ReLU,
        "net_arch": [256, 256],
    },
}
LUNAR_PPO = {
    "n_steps": 1024,
    "batch_size": 64,
    "gae_lambda": 0.98,
    "gamma": 0.999,
    "n_epochs": 4,
    "ent_coef": 0.01,
}
# (algorithm, environment): number of environments, whether normalised, steps, other settings
ZOO = {
    ("a2c", "CartPole-v1"): (8, False, 500_000, {"ent_coef": 0.0}),
    ("a2c", "Acrobot-v1"): (16, True, 500_000, {"ent_coef": 0.0}),
    ("a2c", "LunarLander-v3"): (
        8,
        False,
        200_000,
        {"gamma": 0.995, "n_steps": 5, "learning_rate": linear(0.00083), "ent_coef": 1e-5},
    ),
    ("a2c", "Pendulum-v1"): (8, True, 1_000_000, CONTINUOUS | {"gamma": 0.9}),
    ("a2c", "HalfCheetah-v5"): (1, True, 1_000_000, {}),
    ("a2c", "Hopper-v5"): (1, True, 1_000_000, {}),
    ("ddpg", "Pendulum-v1"): (1, False, 20_000, OFF_POLICY),
    ("ddpg", "Hopper-v5"): (1, False, 1_000_000, MUJOCO_OFF_POLICY),
    ("td3", "Pendulum-v1"): (1, False, 20_000, OFF_POLICY),
    ("td3", "Hopper-v5"): (1, False, 1_000_000, MUJOCO_OFF_POLICY),
    ("ppo", "CartPole-v1"): (
        8,
        False,
        100_000,
        {
            "n_steps": 32,
            "batch_size": 256,
            "gae_lambda": 0.8,
            "gamma": 0.98,
            "n_epochs": 20,
            "ent_coef": 0.0,
            "learning_rate": linear(1e-3),
            "clip_range": linear(0.2),
        },
    ),
    ("ppo", "LunarLander-v3"): (16, False, 1_000_000, LUNAR_PPO),
    ("ppo", "HalfCheetah-v5"): (
        1,
        True,
        1_000_000,
        MUJOCO_PPO
        | {
            "batch_size": 64,
            "gamma": 0.98,
            "learning_rate": 2.0633e-05,
            "ent_coef": 0.000401762,
            "clip_range": 0.1,
            "n_epochs": 20,
            "gae_lambda": 0.92,
            "max_grad_norm": 0.8,
            "vf_coef": 0.58096,
        },
    ),
    ("ppo", "Hopper-v5"): (
        1,
        True,
        1_000_000,
        MUJOCO_PPO
        | {
            "batch_size": 32,
            "gamma": 0.999,
            "learning_rate": 9.80828e-05,
            "ent_coef": 0.00229519,
            "clip_range": 0.2,
            "n_epochs": 5,
            "gae_lambda": 0.99,
            "max_grad_norm": 0.7,
            "vf_coef": 0.835671,
        },
    ),
    ("ppo", "Walker2d-v5"): (
        1,
        True,
        1_000_000,
        {
            "n_steps": 512,
            "batch_size": 32,
            "gamma": 0.99,
            "learning_rate": 5.05041e-05,
            "ent_coef": 0.000585045,
            "clip_range": 0.1,
            "n_epochs": 20,
            "gae_lambda": 0.95,
            "max_grad_norm": 1,
            "vf_coef": 0.871923,
        },
    ),
}


@dataclass(frozen=True)
class Args:
    library: Literal["sb3", "sbx"] = "sb3"
    algorithm: Literal["a2c", "ppo", "ddpg", "td3"] = "a2c"
    env_id: str = "CartPole-v1"
    seed: int = 0
    zoo: bool = True  # use the zoo's settings for flags that are not given
    total_timesteps: int | None = None
    num_envs: int | None = None
    normalize: bool = False  # normalise observations and rewards even if the zoo does not
    num_steps: int | None = None
    ent_coef: float | None = None
    batch_size: int | None = None
    learning_starts: int | None = None
    learning_rate: float | None = None
    hidden_sizes: tuple[int, ...] | None = None
    target_return: float = np.inf  # stop once the last 100 episodes average this or more
    eval_episodes: int = 10
    log_dir: str = "runs"


class Record(BaseCallback):
    """Store all episodes, log their mean up to four times a second, and stop at the target."""

    def __init__(self, writer: SummaryWriter, target: float) -> None:
        super().__init__()
        self.writer, self.target = writer, target
        self.episodes: list[tuple[int, float, int]] = []
        self.num_logged, self.log_time = 0, time.time()

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:  # from the Monitor that make_vec_env puts around each environment
                result = info["episode"]
                self.episodes.append((self.num_timesteps, float(result["r"]), int(result["l"])))
        if time.time() >= self.log_time + 0.25:
            self.log()
        return not self.solved()

    def log(self) -> None:
        if new := self.episodes[self.num_logged :]:
            mean = np.mean([r for _, r, _ in new])
            self.writer.add_scalar("charts/episodic_return", mean, self.num_timesteps)
            self.num_logged, self.log_time = len(self.episodes), time.time()

    def solved(self) -> bool:
        last = [r for _, r, _ in self.episodes[-100:]]
        return len(last) == 100 and np.mean(last) >= self.target


def train(args: Args) -> tuple[Any, list[tuple[int, float, int]]]:
    """Train and evaluate, as in our scripts; return the model and its episodes."""
    if (args.library, args.algorithm) == ("sbx", "a2c"):
        sys.exit("--algorithm a2c: SBX has no A2C; use --library sb3")
    torch.set_num_threads(1)
    off_policy = args.algorithm in ("ddpg", "td3")
    every_step = {"train_freq": 1, "gradient_steps": 1} if off_policy else {}
    known, default = ZOO if args.zoo else {}, (1, False, 1_000_000, every_step)
    num_envs, normalize, steps, settings = known.get((args.algorithm, args.env_id), default)
    normalize = normalize or args.normalize
    given = {"n_steps": args.num_steps, "ent_coef": args.ent_coef, "batch_size": args.batch_size}
    given |= {"learning_starts": args.learning_starts, "learning_rate": args.learning_rate}
    given |= {"policy_kwargs": args.hidden_sizes and {"net_arch": list(args.hidden_sizes)}}
    settings = settings | {name: value for name, value in given.items() if value is not None}
    # With the default render mode, LunarLander would become slower with each step of an episode.
    make = partial(make_vec_env, args.env_id, env_kwargs={"render_mode": None})
    env = make(args.num_envs or num_envs, seed=args.seed)
    if normalize:
        env = VecNormalize(env, gamma=settings.get("gamma", 0.99))
    if off_policy:
        size = env.action_space.shape
        settings = settings | {
            "action_noise": NormalActionNoise(np.zeros(size), np.full(size, 0.1))
        }
    library = importlib.import_module({"sb3": "stable_baselines3", "sbx": "sbx"}[args.library])
    algorithm = getattr(library, args.algorithm.upper())
    model = algorithm("MlpPolicy", env, seed=args.seed, device="cpu", **settings)
    name = f"{args.env_id}__{args.library}-{args.algorithm}__{args.seed}__{time.time():.6f}"
    writer = SummaryWriter(Path(args.log_dir, name))
    record, start = Record(writer, args.target_return), time.time()
    model.learn(args.total_timesteps or steps, callback=record)
    seconds = f"{time.time() - start:.2f} s"
    print(f"trained: {model.num_timesteps} steps in {seconds}")
    record.log()
    writer.close()
    if record.solved():
        step = f"step {model.num_timesteps} after {seconds}"
        print(f"target return {args.target_return} reached at {step}")
    fresh = make()
    if normalize:
        fresh = VecNormalize(fresh, training=False, norm_reward=False)
        fresh.obs_rms = env.obs_rms
    returns = []
    for episode in range(args.eval_episodes):  # the same episodes as those of our scripts
        fresh.seed(episode)
        returns.append(evaluate_policy(model, fresh, 1)[0])
    score = f"{np.mean(returns):.2f} +- {np.std(returns):.2f}"
    print(f"evaluation: return {score} over {args.eval_episodes} episodes")
    return model, record.episodes


if __name__ == "__main__":
    train(tyro.cli(Args, description=__doc__.split("\n\n")[0]))

"""Run one script over several seeds and write a row for each to a CSV file.

    python benchmarks/seeds.py OUT.csv --seeds 10 --cores 0 1 -- a2c_discrete.py --target-return 475

Every run gets one core to itself (`taskset`); what stands after `--` is the run's command line.
With --peer, each run is followed by one of Stable-Baselines3 with the same seed on the same core,
timed until the mean of 100 training episodes reaches the target, or for --peer-steps. Its A2C has
the settings of rl-baselines3-zoo for CartPole-v1 (8 environments, 5 steps, entropy 0), and with
--peer-normalize its running statistics of observations and rewards; --peer-batch takes its DDPG
instead, with the layers, rates and noise of ddpg.py.

Columns: who, seed, steps played, seconds of training (imports and evaluation not counted), steps/s,
whether the target was reached, mean and deviation of the greedy evaluation, and the flags.
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

import torch

COLUMNS = ["who", "seed", "steps", "seconds", "sps", "solved", "eval_mean", "eval_std", "flags"]

PEER = """
import sys, time, numpy as np, torch
from stable_baselines3 import A2C, DDPG
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import VecNormalize

class Target(BaseCallback):
    solved = False
    def _on_step(self):
        episodes = self.model.ep_info_buffer
        self.solved = len(episodes) == 100 and np.mean([e["r"] for e in episodes]) >= target
        return not self.solved

torch.set_num_threads(1)
env_id, seed, steps, target = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
num_envs, num_steps = int(sys.argv[5]), int(sys.argv[6])
if num_envs:
    env = make_vec_env(env_id, n_envs=num_envs, seed=seed)
    env = VecNormalize(env) if sys.argv[7] == "True" else env
    model = A2C("MlpPolicy", env, n_steps=num_steps, ent_coef=0.0, seed=seed, device="cpu")
else:
    env, batch_size = make_vec_env(env_id, seed=seed), num_steps
    size = env.action_space.shape
    model = DDPG(
        "MlpPolicy", env, learning_rate=1e-3, batch_size=batch_size, learning_starts=1000,
        train_freq=1, gradient_steps=1, policy_kwargs={"net_arch": [256, 256]}, seed=seed,
        action_noise=NormalActionNoise(np.zeros(size), 0.1 * np.ones(size)), device="cpu",
    )
callback, start = Target(), time.perf_counter()
model.learn(steps, callback=callback)
seconds = time.perf_counter() - start
fresh, returns = make_vec_env(env_id), []
if isinstance(env, VecNormalize):
    fresh = VecNormalize(fresh, training=False, norm_reward=False)
    fresh.obs_rms = env.obs_rms
for episode in range(10):  # the same episodes as those of our scripts
    fresh.seed(episode)
    returns.append(evaluate_policy(model, fresh, 1)[0])
score = np.mean(returns), np.std(returns)
print("peer", model.num_timesteps, seconds, int(callback.solved), *score)
"""


def run(core: str, command: list[str]) -> str:
    """Standard output of a command on one core; its errors are shown."""
    command = ["taskset", "-c", core, sys.executable, *command]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def ours(core: str, seed: int, flags: list[str]) -> list:
    with tempfile.TemporaryDirectory() as folder:
        command = [*flags, "--seed", str(seed), "--log-dir", folder]
        out = run(core, command)
        (path,) = Path(folder).glob("*/checkpoint.pt")
        steps = torch.load(path, weights_only=True)["global_step"]
    seconds = float(re.search(r"^trained: .* in ([\d.]+) s", out, re.M)[1])
    mean, std = re.search(r"^evaluation: return (\S+) \+- (\S+)", out, re.M).groups()
    solved = int("\ntarget return" in out) if "--target-return" in flags else ""
    name = Path(flags[0]).stem
    return [name, seed, steps, seconds, steps / seconds, solved, mean, std, " ".join(flags[1:])]


def peer(core: str, seed: int, options: argparse.Namespace) -> list:
    shape = [str(n) for n in (options.peer_shape if options.batch is None else [0, options.batch])]
    numbers = [str(seed), str(options.peer_steps), str(options.peer_target), *shape]
    numbers.append(str(options.peer_normalize))
    out = run(core, ["-c", PEER, options.peer, *numbers]).split("peer ")[-1].split()
    steps, seconds, solved, mean, std = (float(word) for word in out)
    flags = f"{options.peer} n_envs {shape[0]} n_steps {shape[1]}"
    flags += " VecNormalize" * options.peer_normalize
    if options.batch is not None:
        flags = f"{options.peer} DDPG batch_size {options.batch}"
    row = ["sb3", seed, int(steps), seconds, steps / seconds, int(solved), mean, std, flags]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--cores", nargs="+", default=["0"])
    parser.add_argument("--peer", metavar="ENV_ID", help="time Stable-Baselines3 after every run")
    parser.add_argument("--peer-steps", type=int, default=500_000)
    parser.add_argument("--peer-target", type=float, default=475.0)
    parser.add_argument("--peer-shape", type=int, nargs=2, default=[8, 5], help="n_envs n_steps")
    parser.add_argument("--peer-normalize", action="store_true", help="with its VecNormalize")
    parser.add_argument("--peer-batch", dest="batch", type=int, help="DDPG, with this batch size")
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options, flags = parser.parse_args(sys.argv[1:split]), sys.argv[split + 1 :]

    todo: queue.SimpleQueue = queue.SimpleQueue()
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        todo.put(seed)
    lock = threading.Lock()
    new = not options.out.exists()
    file = options.out.open("a", newline="")
    writer = csv.writer(file, lineterminator="\n")
    if new:
        writer.writerow(COLUMNS)

    def write(row: list) -> None:
        with lock:
            writer.writerow([f"{x:.2f}" if isinstance(x, float) else x for x in row])
            file.flush()
            print(*row[:8], flush=True)

    def work(core: str) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                seed = todo.get_nowait()
                write(ours(core, seed, flags))
                if options.peer:
                    write(peer(core, seed, options))

    with concurrent.futures.ThreadPoolExecutor() as pool:
        for worker in [pool.submit(work, core) for core in options.cores]:
            worker.result()  # raises what the worker raised


if __name__ == "__main__":
    main()

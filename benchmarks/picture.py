"""Draw the picture at the top of the README: a landing, and how it was learned.

    python a2c_discrete.py --env-id LunarLander-v3 ...     the flags of settings.toml
    python benchmarks/picture.py runs/.../checkpoint.pt

Left: one greedy episode of the checkpoint's policy in a single picture. Each pixel is the lightest
that it was in the frames, which are taken whenever the lander has moved by STRIDE. Right: the
learning curve of the reporting runs.
"""

import argparse
import sys
from pathlib import Path

import gymnasium as gym
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import plot
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import a2c_discrete

STRIDE = 0.2  # half the width of the picture is 1


def landing(checkpoint: Path, seed: int) -> tuple[np.ndarray, str]:
    """An episode in one picture, (400, 600, 3), and a title for it."""
    state = a2c_discrete.load(str(checkpoint))
    args = a2c_discrete.Args(**state["args"])
    env = gym.make(args.env_id, render_mode="rgb_array")
    agent = a2c_discrete.Agent(env.observation_space.shape[0], int(env.action_space.n), args)
    agent.load_state_dict(state["agent"])
    (obs, _), frames, score, over = env.reset(seed=seed), [], 0.0, False
    place = np.full(2, np.inf)  # of the lander in the last frame kept
    while not over:
        frame = env.render()  # each, as the sparks burn out from frame to frame
        if np.linalg.norm(obs[:2] - place) >= STRIDE:
            place = obs[:2]
            frames.append(frame)
        action = agent.act(torch.as_tensor(obs), greedy=True).item()
        obs, reward, terminated, truncated, _ = env.step(action)
        score, over = score + float(reward), terminated or truncated
    steps = matplotlib.ticker.EngFormatter(sep="")(state["global_step"] // 1000 * 1000)
    return np.max([*frames, frame], 0), f"an episode after {steps} steps: return {score:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of the episode")
    options = parser.parse_args()
    picture, title = landing(options.checkpoint, options.seed)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    left.imshow(picture)
    left.set(xticks=[], yticks=[])
    left.spines[:].set_visible(True)  # the ground is white, as a page may be
    left.set_title(title)
    runs = plot.read_runs(plot.REPORTING / "curves" / "a2c_discrete-LunarLander-v3.csv")
    plot.draw(right, runs, color=plot.BLUE)
    right.set(ylabel="training return", xlabel="environment steps")
    right.set_title(f"LunarLander-v3, {len(runs)} seeds")
    right.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
    plot.save(figure, "lunar-lander")


if __name__ == "__main__":
    main()

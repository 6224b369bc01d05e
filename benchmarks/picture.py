"""Draw the animated picture at the top of the README: a landing, and learning curves.

    python a2c_discrete.py --env-id LunarLander-v3 ...     the flags of settings.toml
    python benchmarks/picture.py runs/.../checkpoint.pt

Left: a greedy episode of the checkpoint's policy. Right: learning curves of the reporting runs, and
of Stable-Baselines3 (SB3) where it ran. The file is an animated PNG.
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
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
import a2c_discrete

PANELS = [
    ("a2c_discrete", "CartPole-v1"),
    ("a2c_discrete", "Acrobot-v1"),
    ("a2c_discrete", "LunarLander-v3"),
    ("a2c_continuous", "Pendulum-v1"),
    ("a2c_continuous", "HalfCheetah-v5"),
    ("a2c_continuous", "Walker2d-v5"),
]
LINES = {  # end of the file name of the curves: style
    "": {"color": plot.BLUE, "label": "A2C"},
    "-ppo": {"color": plot.GREEN, "label": "PPO's loss"},
    "-sb3-a2c": {"color": plot.ORANGE, "label": "SB3's A2C", "linestyle": "--"},
    "-sb3-ppo": {"color": plot.PURPLE, "label": "SB3's PPO", "linestyle": "--"},
}
START, STRIDE = 30, 3  # of the environment's 50 frames per second; at first, the top is cut off


def landing(checkpoint: Path, seed: int) -> tuple[list[np.ndarray], str]:
    """The frames of an episode, (400, 600, 3) each, and a title for it."""
    state = a2c_discrete.load(str(checkpoint))
    args = a2c_discrete.Args(**state["args"])
    env = gym.make(args.env_id, render_mode="rgb_array")
    agent = a2c_discrete.Agent(env.observation_space.shape[0], int(env.action_space.n), args)
    agent.load_state_dict(state["agent"])
    (obs, _), frames, score, over = env.reset(seed=seed), [], 0.0, False
    while not over:
        frames.append(env.render())  # at every step, because sparks fade with each rendered frame
        action = agent.act(torch.as_tensor(obs), greedy=True).item()
        obs, reward, terminated, truncated, _ = env.step(action)
        score, over = score + float(reward), terminated or truncated
    steps = matplotlib.ticker.EngFormatter(sep="")(state["global_step"] // 1000 * 1000)
    return [*frames[START::STRIDE], env.render()], f"after {steps} steps: return {score:.0f}"


def draw_curves(figure) -> None:
    """Draw one panel per task."""
    for axes, (script, env) in zip(figure.subplots(2, 3).flat, PANELS):
        for ending, style in LINES.items():
            owner = "peers" if "sb3" in ending else script
            path = plot.REPORTING / "curves" / f"{owner}-{env}{ending}.csv"
            if path.exists():
                plot.draw(axes, plot.read_runs(path), **style)
        axes.set_facecolor("none")
        axes.set_xlim(left=0)
        axes.set_title(env, fontsize=10)
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
    handles = [plt.Line2D([], [], **style) for style in LINES.values()]
    figure.legend(handles=handles, ncols=4, loc="outside lower center", labelcolor=plot.GREY)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="seed of the episode")
    options = parser.parse_args()
    frames, title = landing(options.checkpoint, options.seed)
    figure = plt.figure(figsize=(10.5, 4), dpi=100, layout="constrained")
    figure.patch.set_alpha(0)
    left, right = figure.subfigures(1, 2, width_ratios=(3, 5))
    axes = left.subplots()
    axes.set(xticks=[], yticks=[], title=title)
    axes.spines[:].set_visible(True)  # draw a border: the ground is white, and so may be the page
    screen = axes.imshow(frames[0])
    draw_curves(right)
    images = []
    for frame in frames:
        screen.set_data(frame)
        figure.canvas.draw()
        images.append(Image.fromarray(np.array(figure.canvas.buffer_rgba())))
    path, times = plot.FIGURES / "lunar-lander.png", [20 * STRIDE] * (len(images) - 1)
    images[0].save(path, save_all=True, append_images=images[1:], duration=[*times, 2000], loop=0)
    print(path, f"{path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

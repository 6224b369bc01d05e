"""Small environments whose every observation, reward and end is known beforehand."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Scripted(gym.Env):
    """Plays episodes of given lengths and ends, over and over.

    Observes [episode, step within it], pays 1 + step as reward; `ends` is a string with a letter
    for each episode: t terminated, u truncated, b both. With box, actions are two numbers, each
    with bounds of its own. `actions` are those that it was given.
    """

    metadata = {"render_modes": []}  # noqa: RUF012
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)

    def __init__(self, lengths=(3, 2, 4), ends="tub", box=False):
        bounds = np.array([[-1, 2], [3, 2.5]], np.float32)
        self.action_space = spaces.Box(*bounds) if box else spaces.Discrete(3, start=5)
        self.lengths, self.ends, self.episode, self.actions = lengths, ends, -1, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.step_number = 0
        return np.array([self.episode, 0.0]), {}

    def step(self, action):
        assert action in self.action_space
        self.actions.append(action)
        self.step_number += 1
        over = self.step_number == self.lengths[self.episode % len(self.lengths)]
        end = self.ends[self.episode % len(self.ends)] if over else ""
        obs = np.array([self.episode, float(self.step_number)])
        return obs, float(self.step_number), end in ("t", "b"), end in ("u", "b"), {}


class Identity(gym.Env):
    """Pays 1 for the action that was observed; 25 steps an episode.

    `space` says how the wanted action is shown: discrete, multidiscrete, dict, box or number. With
    box, the action is a number between -1 and n, and within 0.5 of the wanted one it is right.
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, space="discrete", n=3, box=False):
        self.n, self.space = n, space
        self.action_space = spaces.Box(-1, n, (1,)) if box else spaces.Discrete(n)
        self.observation_space = {
            "discrete": spaces.Discrete(n),
            "multidiscrete": spaces.MultiDiscrete([n, 2]),
            "dict": spaces.Dict({"wanted": spaces.Discrete(n), "x": spaces.Box(-1, 1, (2,))}),
            "box": spaces.Box(0, 1, (n,), np.float64),
            "number": spaces.Box(0, n, (), np.float64),
        }[space]

    def observe(self):
        self.wanted = int(self.np_random.integers(self.n))
        return {
            "discrete": self.wanted,
            "multidiscrete": np.array([self.wanted, 0]),
            "dict": {"wanted": self.wanted, "x": np.zeros(2, np.float32)},
            "box": np.eye(self.n)[self.wanted],
            "number": np.array(float(self.wanted)),
        }[self.space]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), {}

    def step(self, action):
        assert action in self.action_space
        reward = float(np.abs(action - self.wanted).item() < 0.5)
        self.t += 1
        return self.observe(), reward, False, self.t == 25, {}


class Poisoned(Identity):
    """An Identity whose second episode has a number that is not finite.

    The reward of its step 12, the observation after it, the one after the last step, or the first.
    """

    def __init__(self, where="reward", value=np.nan, box=False):
        super().__init__("box", box=box)
        self.where, self.value, self.finished = where, value, 0

    def reset(self, **kwargs):
        obs, info = super().reset(**kwargs)
        if self.finished == 1 and self.where == "first obs":
            obs = obs * self.value
        return obs, info

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        when = {"last obs": 25, "first obs": 0}.get(self.where, 12)
        if self.finished == 1 and self.t == when:
            reward = self.value if self.where == "reward" else reward
            obs = obs if self.where == "reward" else obs * self.value
        self.finished += truncated
        return obs, reward, terminated, truncated, info


class Picture(Identity):
    """Observes an image."""

    def __init__(self, box=False):
        super().__init__("box", box=box)
        self.observation_space = spaces.Box(0, 255, (8, 8, 3), np.uint8)


class Sentence(Identity):
    """Observes a list of any length."""

    def __init__(self, box=False):
        super().__init__("box", box=box)
        self.observation_space = spaces.Sequence(spaces.Discrete(3))


class Needy(Identity):
    """Cannot be made without an argument."""

    def __init__(self, argument, box=False):
        super().__init__("box", box=box)


class Endless(Identity):
    """Has no end and no time limit, and does not say what it can draw."""

    metadata = {}  # noqa: RUF012

    def step(self, action):
        obs, reward, terminated, _, info = super().step(action)
        return obs, reward, terminated, False, info


class Actions(Identity):
    """Has a given action space; is only there to be refused."""

    def __init__(self, space):
        super().__init__("box")
        self.action_space = space


class PaidResets(gym.vector.VectorWrapper):
    """Pays 7 for the steps that go into a reset, for which SyncVectorEnv pays 0."""

    over = False

    def step(self, actions):
        obs, rewards, terminated, truncated, infos = self.env.step(actions)
        rewards = rewards + 7 * self.over
        self.over = terminated | truncated
        return obs, rewards, terminated, truncated, infos


def with_paid_resets(make_envs):
    """A script's make_envs, but that the first of its results pays for resets."""

    def make(args):
        envs, env = make_envs(args)
        return PaidResets(envs), env

    return make


for toy in (Scripted, Identity, Poisoned, Picture, Sentence, Needy, Endless):
    gym.register(f"{toy.__name__}-v0", toy)
    gym.register(f"{toy.__name__}Box-v0", toy, kwargs={"box": True})

spaces_to_refuse = {
    "Unbounded-v0": spaces.Box(np.array([-1, -np.inf]), np.array([1, 1]), dtype=np.float64),
    "Matrix-v0": spaces.Box(-1, 1, (2, 2)),
    "Integers-v0": spaces.Box(0, 5, (2,), np.int64),
}
for name, space in spaces_to_refuse.items():
    gym.register(name, Actions, kwargs={"space": space})

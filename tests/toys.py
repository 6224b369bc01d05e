"""Small environments with known behaviour."""

import os
import random
import signal

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Scripted(gym.Env):
    """Cycles through episodes of given lengths and endings.

    Observes [episode, step within it] and pays 1 + step as reward. `ends` is a string with one
    letter per episode: t terminated, u truncated, b both. With box, actions are two numbers, each
    with its own bounds. `actions` and `seeds` list what step() and reset() received.
    """

    metadata = {"render_modes": []}  # noqa: RUF012
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)

    lengths, ends = (3, 2, 4), "tub"

    def __init__(self, box=False):
        bounds = np.array([[-1, 2], [3, 2.5]], np.float32)
        self.action_space = spaces.Box(*bounds) if box else spaces.Discrete(3, start=5)
        self.episode, self.actions, self.seeds = -1, [], []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
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


class OddSpace(spaces.Space):
    """A custom space that Gymnasium cannot flatten."""

    def sample(self, mask=None, probability=None):
        return "odd"

    def contains(self, x):
        return True

    @property
    def is_np_flattenable(self):
        raise NotImplementedError


class Silent(gym.Env):
    """Cannot be made, and the error has no message."""

    def __init__(self):
        joint = "ball"
        assert joint in ("hinge", "slide")


class Unmade(gym.Env):
    """Raises the given error when it is made."""

    def __init__(self, error):
        raise error


class Identity(gym.Env):
    """Pays 1 for the action that was observed; an episode has 25 steps.

    `space` says how the wanted action is shown. With box, the action is a number between -1 and n,
    and is right within 0.5 of the wanted one.
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, space="discrete", n=3, box=False):
        self.n, self.space = n, space
        self.action_space = spaces.Box(-1, n, (1,)) if box else spaces.Discrete(n)
        wanted, image = spaces.Discrete(n), spaces.Box(0, 255, (8, 8, 3), np.uint8)
        self.observation_space = {
            "discrete": wanted,
            "multidiscrete": spaces.MultiDiscrete([n, 2]),
            "dict": spaces.Dict({"wanted": wanted, "x": spaces.Box(-1, 1, (2,))}),
            "box": spaces.Box(0, 1, (n,), np.float64),
            "number": spaces.Box(0, n, (), np.float64),
            "matrix": spaces.Box(0, 1, (n, 2), np.float32),
            "column": spaces.Box(0, 1, (n, 1), np.float64),
            "dict of a matrix": spaces.Dict({"x": spaces.Box(0, 1, (n, 2))}),
            "image": image,
            "dict with an image": spaces.Dict({"wanted": wanted, "x": image}),
            "tuple with an image": spaces.Tuple((wanted, image)),
            "odd": OddSpace(),
            "dict with an odd space": spaces.Dict({"wanted": wanted, "x": OddSpace()}),
        }[space]

    def observe(self):
        self.wanted = int(self.np_random.integers(self.n))
        row, matrix = np.eye(self.n)[self.wanted], np.zeros((self.n, 2), np.float32)
        matrix[self.wanted] = 1
        image = np.full((8, 8, 3), self.wanted, np.uint8)
        return {
            "discrete": self.wanted,
            "multidiscrete": np.array([self.wanted, 0]),
            "dict": {"wanted": self.wanted, "x": np.zeros(2, np.float32)},
            "box": row,
            "number": np.array(float(self.wanted)),
            "matrix": matrix,
            "column": row[:, None],
            "dict of a matrix": {"x": matrix},
            "image": image,
            "dict with an image": {"wanted": self.wanted, "x": image},
            "tuple with an image": (self.wanted, image),
            "odd": "odd",
            "dict with an odd space": {"wanted": self.wanted, "x": "odd"},
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
    """An Identity whose second episode contains a number that is not finite.

    `where` is the reward of its step 12, the observation after that step, the last observation, or
    the first one.
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
        super().__init__("image", box=box)


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
    """Never ends, has no time limit, and does not declare its render modes."""

    metadata = {}  # noqa: RUF012

    def step(self, action):
        obs, reward, terminated, _, info = super().step(action)
        return obs, reward, terminated, False, info


class Steady(Endless):
    """Pays 1 per step, forever."""

    def step(self, action):
        obs, _, terminated, truncated, info = super().step(action)
        return obs, 1.0, terminated, truncated, info


class GlobalRandom(gym.Env):
    """Samples from the global generators, like many home-made environments."""

    metadata = {"render_modes": []}  # noqa: RUF012
    observation_space = spaces.Box(-9, 9, (2,), np.float32)

    def __init__(self, box=False):
        self.action_space = spaces.Box(-1, 1, (1,)) if box else spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        self.t += 1
        obs = np.random.uniform(-1, 1, 2).astype(np.float32)
        return obs, random.random() + np.random.random(), False, self.t == 20, {}

    def ignores_ctrl_c(self):
        return signal.getsignal(signal.SIGINT) == signal.SIG_IGN


class Talkative(Identity):
    """Returns an info whose arrays change their shape, or whose values change their type."""

    def __init__(self, changes="shape", box=False):
        super().__init__("box", box=box)
        self.changes = changes

    def info(self):
        number = self.np_random.integers(3)  # another one in each of the parallel environments
        if self.changes == "shape":
            return {"visible": np.ones(1 + number)}
        return {"status": [1.5, "falling", None][number]}

    def reset(self, **kwargs):
        return super().reset(**kwargs)[0], self.info()

    def step(self, action):
        return *super().step(action)[:-1], self.info()


class Unpicklable(RuntimeError):
    """An error that cannot be sent from one process to another."""

    def __init__(self, text):
        super().__init__(text)
        self.handle = lambda: None


class Crashing(Identity):
    """Raises an error, or ends its process, in the given step or in the second reset."""

    def __init__(self, where="step", at=40, box=False):
        super().__init__("box", box=box)
        self.where, self.at, self.steps, self.resets = where, at, 0, 0

    def fail(self):
        if self.where == "exit":
            os._exit(3)
        kind = Unpicklable if self.where == "unpicklable" else RuntimeError
        raise kind("the environment is broken")

    def reset(self, **kwargs):
        self.resets += 1
        if self.where == "reset" and self.resets == 2:
            self.fail()
        return super().reset(**kwargs)

    def step(self, action):
        self.steps += 1
        if self.where != "reset" and self.steps == self.at:
            self.fail()
        return super().step(action)


class Moving(Identity):
    """Changes the working directory of the process."""

    def __init__(self, folder, box=False):
        super().__init__("box", box=box)
        self.folder = folder

    def reset(self, **kwargs):
        os.chdir(self.folder)
        return super().reset(**kwargs)


class PayingOddly(Identity):
    """Pays 1 per step, as an array of the given shape."""

    def __init__(self, shape=(1,), box=False):
        super().__init__("box", box=box)
        self.shape = tuple(shape)

    def step(self, action):
        obs, _, terminated, truncated, info = super().step(action)
        return obs, np.ones(self.shape, np.float32), terminated, truncated, info


class Undrawable(Identity):
    """Claims to render frames but cannot."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012

    def __init__(self, render_mode=None, error="no display", box=False):
        super().__init__("box", box=box)
        self.render_mode, self.error = render_mode, error

    def render(self):
        if self.error is None:
            return None
        raise RuntimeError(self.error)


class Actions(Identity):
    """Has the given action space, which a script should refuse."""

    def __init__(self, space):
        super().__init__("box")
        self.action_space = space


class OtherVectorForm(gym.vector.VectorEnv):
    """A vector form that differs from the single environment as `differs` says.

    It differs in its observations, its actions, its arguments or its autoreset mode.
    """

    def __init__(self, num_envs, differs="observation", box=False, max_episode_steps=None):
        if differs == "arguments":
            raise TypeError("OtherVectorForm got an unexpected keyword argument")
        single = Identity("box", box=box)
        self.num_envs = num_envs
        self.single_observation_space = single.observation_space
        self.single_action_space = single.action_space
        if differs == "observation":
            self.single_observation_space = spaces.Box(0, 1, (7,), np.float64)
        if differs == "action":
            self.single_action_space = spaces.Box(-1, 2, (3,)) if box else spaces.Discrete(9)
        modes = gym.vector.AutoresetMode
        mode = modes.SAME_STEP if differs == "autoreset" else modes.NEXT_STEP
        self.metadata = {"autoreset_mode": mode}
        batch = gym.vector.utils.batch_space
        self.observation_space = batch(self.single_observation_space, num_envs)
        self.action_space = batch(self.single_action_space, num_envs)


class PaidResets(gym.vector.VectorWrapper):
    """Pays something for the reset steps, for which SyncVectorEnv pays 0."""

    def __init__(self, envs, reward):
        super().__init__(envs)
        self.reward, self.over = reward, False

    def step(self, actions):
        obs, rewards, terminated, truncated, infos = self.env.step(actions)
        rewards = np.where(self.over, self.reward, rewards)
        self.over = terminated | truncated
        return obs, rewards, terminated, truncated, infos


def with_paid_resets(make_envs, reward):
    """Wrap a script's make_envs, so that the training environments pay `reward` for reset steps."""

    def make(args):
        envs, env = make_envs(args)
        return PaidResets(envs, reward), env

    return make


toys = [Scripted, Identity, Poisoned, Picture, Sentence, Needy, Endless, Steady, GlobalRandom]
for toy in [*toys, Crashing]:
    gym.register(f"{toy.__name__}-v0", toy)
    gym.register(f"{toy.__name__}Box-v0", toy, kwargs={"box": True})

"""Deep deterministic policy gradient (DDPG): off-policy actor-critic for continuous actions.

This is algorithm 1 of Lillicrap et al. (2015). The policy is deterministic: it gives an action
pi(s), not a distribution. Each environment step is stored in a replay buffer and followed by an
update on B transitions sampled from it.

    y        = r + gamma Q'(s', pi'(s'))                      Q' = 0 in a terminal state
    L_critic = mean[(y - Q(s, a))^2]
    L_actor  = -mean[Q(s, pi(s))]                             minimised over theta, pi's weights
    w'       = tau w + (1 - tau) w'                           w, w': weights of Q, Q'; same for pi

Q' and pi' are the target networks, which follow Q and pi slowly, so that y changes slowly. The
gradient of L_actor is -mean[grad_a Q(s, a) grad_theta pi(s)] at a = pi(s), so each step moves pi(s)
uphill on Q. Minimising mean[|pi(s) - z|^2] / 2, with z = pi(s) + grad_a Q(s, a) held constant,
gives the same gradient. y uses pi'(s'), not the next action in the buffer, so that Q approximates
the current policy's values, and transitions of earlier policies can be used.

At a time limit the episode ends, but s' is not terminal, so the target still bootstraps from it.
Actions are scaled so that -1 and 1 are the bounds of each dimension; noise is added on that scale.

Differences from the paper:
- Noise is Gaussian. The paper's Ornstein-Uhlenbeck noise is --noise ou --exploration-noise 0.2.
- Actions are random before the first update. Actions enter the critic at its first layer.
- There is no weight decay or batch normalisation, so keep observations and rewards near unit scale.
- The paper uses --hidden-sizes 400 300 --actor-lr 1e-4 --tau 0.001.
Two related algorithms are selected by flags:
- TD3 (Fujimoto et al. 2018): --twin-critics --policy-frequency 2 --policy-noise 0.2. It learns from
  the smaller of two target values, because the actor seeks out overestimated actions. It updates
  the actor and the targets every second step, and smooths Q' with noise on pi'(s').
- SVG(0) (Heess et al. 2015): --noise learned. Each pi(s) above becomes pi(s) + sigma epsilon,
  clipped to [-1, 1], with learned sigma and epsilon ~ N(0, I). L_actor's gradient flows through it.

    python ddpg.py           learns Pendulum-v1 in about a minute; the last line looks like
                             `evaluation: return -132.00 +- 82.00 over 10 episodes`
    python ddpg.py --help    lists the flags
"""

# /// script
# requires-python = ">=3.10"
# dependencies = ["torch>=2.7", "gymnasium[classic-control]>=1.1", "tyro>=0.9.1", "numpy>=1.26",
#   "tensorboard>=2.16.2", "tqdm>=4.66"]
# ///
import argparse
import copy
import importlib
import json
import pickle
import random
import re
import shlex
import signal
import sys
import threading
import time
import zipfile
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from traceback import extract_tb
from typing import Annotated, Literal, NamedTuple, get_args, get_origin, get_type_hints

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

# Types annotated with their allowed ranges
Count, Fraction = Annotated[int, (1, np.inf)], Annotated[float, (0, 1)]
NonNegative, Number = Annotated[float, (0, np.inf)], Annotated[float, (-np.inf, np.inf)]
Finite = Annotated[float, (0, 1e38)]  # fits in float32


@dataclass(frozen=True)
class Args:
    # Algorithm
    total_timesteps: Count = 15_000  # environment steps; one update per step after learning_starts
    gamma: Fraction = 0.99  # discount factor; closer to 1 for long-delayed rewards
    buffer_size: Count = 1_000_000  # transitions kept; the oldest are overwritten
    batch_size: Count = 64  # B, transitions per update
    learning_starts: Count = 1_000  # transitions collected before the first update
    actor_lr: Finite = 1e-3  # learning rate of the actor
    critic_lr: Finite = 1e-3  # learning rate of the critic
    tau: Fraction = 0.005  # weight of the learned networks in each update of the targets
    noise: Literal["gaussian", "ou", "learned"] = "gaussian"  # ou: Ornstein-Uhlenbeck (correlated)
    exploration_noise: Finite = 0.1  # gaussian: std; ou: std of increments; learned: initial sigma
    policy_frequency: Count = 1  # critic updates per update of the actor and targets; TD3: 2
    twin_critics: bool = False  # use the smaller of two target values to reduce overestimation
    policy_noise: Finite = 0.0  # std of the noise on target actions; TD3: 0.2
    noise_clip: NonNegative = 0.5  # largest absolute value of the policy noise
    hidden_sizes: Annotated[tuple[int, ...], (1, np.inf)] = (256, 256)  # units in each hidden layer
    activation: Literal["tanh", "relu"] = "relu"  # activation function of the hidden layers
    # Environment
    env_id: str = "Pendulum-v1"  # Gymnasium id; needs bounded Box actions and vector observations
    env_kwargs: str = "{}"  # keyword arguments for the environment, as a JSON object
    # Run
    seed: Annotated[int, (0, 2**64 - 1)] = 0  # the same seed and machine give the same results
    device: Literal["cpu", "cuda", "mps", "auto"] = "cpu"  # cpu is fastest for small networks
    torch_threads: Annotated[int, (1, 1024)] = 1  # CPU threads; one is fastest for small networks
    log_dir: str = "runs"  # parent folder of the run folder
    eval_episodes: Count = 10  # greedy episodes per evaluation, with seeds 0, 1, ...
    eval_interval: Annotated[int, (0, np.inf)] = 0  # steps between evaluations; 0: only at the end
    capture_video: bool = False  # record the final evaluation, at most 2,000 frames per episode
    target_return: Number = np.inf  # stop when the last 100 episodes average at least this return
    checkpoint_interval: NonNegative = 60.0  # seconds between checkpoints
    save_buffer: bool = False  # also save the replay buffer; otherwise a resumed run refills it
    resume: str | None = None  # run folder or checkpoint to resume from; omitted flags come from it

    def __post_init__(self) -> None:
        check_flags(self)
        if self.learning_starts > self.buffer_size:
            raise InputError(f"--learning-starts must not exceed --buffer-size {self.buffer_size}")
        if self.noise == "learned" and not self.exploration_noise:
            raise InputError("--noise learned requires --exploration-noise above 0")


# --- Equations
def td_target(rewards: Tensor, next_q: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    """y = r + gamma Q'(s', pi'(s')), with Q' = 0 in a terminal state; (B,) each -> (B,)."""
    return rewards + gamma * (1 - terminated) * next_q


def critic_loss(q: Tensor, y: Tensor) -> Tensor:
    """Mean squared error, summed over C critics, with y constant; (C, B), (B,) -> ()."""
    assert q.shape[1:] == y.shape  # with C = 1, (B, 1) would broadcast to (B, B)
    return (y.detach() - q).pow(2).mean(-1).sum()


@torch.no_grad()
def polyak_update(source: nn.Module, target: nn.Module, tau: float) -> None:
    """target <- tau source + (1 - tau) target, weight by weight."""
    for w, w_target in zip(source.parameters(), target.parameters()):
        w_target.lerp_(w, tau)


# --- Networks
def mlp(sizes: tuple[int, ...], activation: str) -> nn.Sequential:
    """Linear layers and activations. The outputs start near 0, where the actor's tanh is steep."""
    layers: list[nn.Module] = []
    for n_in, n_out in zip(sizes, sizes[1:]):
        layers += [nn.Linear(n_in, n_out), {"tanh": nn.Tanh, "relu": nn.ReLU}[activation]()]
    for parameter in layers[-2].parameters():  # the last Linear is initialised as in the paper
        nn.init.uniform_(parameter, -3e-3, 3e-3)
    return nn.Sequential(*layers[:-1])  # no activation after the last layer


class Agent(nn.Module):
    """Actor pi(s), with actions in [-1, 1], and C critics Q(s, a)."""

    def __init__(self, obs_size: int, act_size: int, args: Args) -> None:
        super().__init__()
        self.actor = mlp((obs_size, *args.hidden_sizes, act_size), args.activation)
        sizes = (obs_size + act_size, *args.hidden_sizes, 1)
        critics = [mlp(sizes, args.activation) for _ in range(1 + args.twin_critics)]
        self.critics = nn.ModuleList(critics)
        self.has_sigma = args.noise == "learned"
        if self.has_sigma:  # as part of the actor, log_std is optimised with it
            self.actor.log_std = nn.Parameter(torch.full((act_size,), args.exploration_noise).log())

    def pi(self, obs: Tensor) -> Tensor:
        """pi(s) in [-1, 1]: (..., obs_size) -> (..., act_size)."""
        return self.actor(obs).tanh()

    def q(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Q(s, a) of each critic: (B, obs_size), (B, act_size) -> (C, B)."""
        both = torch.cat((obs, actions), -1)
        return torch.stack([critic(both).squeeze(-1) for critic in self.critics])

    def q1(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Q(s, a) of the first critic, which the actor ascends: -> (B,)."""
        return self.critics[0](torch.cat((obs, actions), -1)).squeeze(-1)

    def policy_action(self, obs: Tensor) -> Tensor:
        """pi(s), or the clipped pi(s) + sigma epsilon if noise is learned: -> (..., act_size)."""
        actions = self.pi(obs)
        if not self.has_sigma:
            return actions
        return (actions + self.actor.log_std.exp() * torch.randn_like(actions)).clamp(-1, 1)

    @torch.no_grad()
    def act(self, obs: Tensor, greedy: bool = False) -> Tensor:
        """pi(s) if greedy, otherwise policy_action(s), to which explore() may add noise."""
        return self.pi(obs) if greedy else self.policy_action(obs)


# --- Collect
def explore(agent: Agent, obs: np.ndarray, noise: Tensor, args: Args) -> tuple[np.ndarray, Tensor]:
    """clip(pi(s) + noise, -1, 1) and the noise, given the previous noise; (act_size,) each."""
    if args.noise != "learned":  # learned noise is part of the policy, and `noise` stays 0
        fresh = args.exploration_noise * torch.randn_like(noise)
        noise = 0.85 * noise + fresh if args.noise == "ou" else fresh  # ou noise decays by 15%
    device = next(agent.parameters()).device
    action = agent.act(torch.as_tensor(obs, dtype=torch.float32, device=device)).cpu()
    return (action + noise).clamp(-1, 1).numpy(), noise


class Batch(NamedTuple):
    """B transitions, or all rows of a replay buffer."""

    obs: Tensor  # s, (B, obs_size)
    actions: Tensor  # a, (B, act_size)
    rewards: Tensor  # r, (B,)
    next_obs: Tensor  # s', (B, obs_size), the true successor even where the episode ended
    terminated: Tensor  # (B,), 1 if s' is terminal


class ReplayBuffer:
    """The last `buffer_size` transitions."""

    def __init__(self, obs_size: int, act_size: int, device: torch.device, args: Args) -> None:
        self.capacity, self.num_added, self.is_saved = args.buffer_size, 0, args.save_buffer
        shapes = (obs_size,), (act_size,), (), (obs_size,), ()  # as in Batch
        try:  # zeros, not empty, so that the memory is allocated now
            kind = {"dtype": torch.float32, "device": device}
            self.data = Batch(*(torch.zeros(self.capacity, *shape, **kind) for shape in shapes))
        except (RuntimeError, TypeError) as error:
            gib = self.capacity * (2 * obs_size + act_size + 2) * 4 / 2**30
            reason = f"needs {gib:,.1f} GiB, which cannot be allocated"
            raise InputError(f"--buffer-size {self.capacity}: {reason}") from error

    def __len__(self) -> int:
        return min(self.num_added, self.capacity)

    def add(self, *transition) -> None:
        """Store obs, action, reward, next_obs, terminated; overwrite the oldest if full."""
        for field, value in zip(self.data, transition, strict=True):
            field[self.num_added % self.capacity] = torch.as_tensor(value)
        self.num_added += 1

    def sample(self, batch_size: int) -> Batch:
        """Transitions sampled uniformly, with replacement."""
        index = torch.randint(len(self), (batch_size,), device=self.data.rewards.device)
        return Batch(*(field.index_select(0, index) for field in self.data))

    def latest(self, count: int) -> Batch:
        """The newest `count` transitions, oldest first."""
        index = torch.arange(self.num_added - min(count, len(self)), self.num_added) % self.capacity
        return Batch(*(field[index] for field in self.data))

    def state_dict(self) -> dict:
        """The stored transitions; empty without --save-buffer."""
        latest = self.latest(len(self) if self.is_saved else 0)
        return {name: field.cpu() for name, field in latest._asdict().items()}

    def load_state_dict(self, state: dict) -> None:
        """Load as many of the checkpoint's newest transitions as fit."""
        for field, rows in zip(self.data, Batch(**state)):
            rows = rows[-self.capacity :]
            field[: len(rows)] = rows
        self.num_added = len(rows)


# --- Learn
def update(agent, target, actor_optimizer, critic_optimizer, batch: Batch, args: Args, step: int):
    """Update the critics and, every policy_frequency steps, the actor and the targets."""
    with torch.no_grad():
        next_actions = target.policy_action(batch.next_obs)
        if args.policy_noise:
            noise = args.policy_noise * torch.randn_like(next_actions)
            noise = noise.clamp(-args.noise_clip, args.noise_clip)
            next_actions = (next_actions + noise).clamp(-1, 1)
        next_q = target.q(batch.next_obs, next_actions).amin(0)  # (C, B) -> (B,)
        y = td_target(batch.rewards, next_q, batch.terminated, args.gamma)
    loss = critic_loss(agent.q(batch.obs, batch.actions), y)
    critic_optimizer.zero_grad()
    loss.backward()
    critic_optimizer.step()
    losses = {"value_loss": loss.item()}
    if step % args.policy_frequency == 0:
        loss = -agent.q1(batch.obs, agent.policy_action(batch.obs)).mean()  # L_actor
        actor_optimizer.zero_grad()
        loss.backward(inputs=list(agent.actor.parameters()))  # gradients for the actor only
        actor_optimizer.step()
        losses["policy_loss"] = loss.item()
        polyak_update(agent, target, args.tau)
    return losses


@torch.no_grad()
def overestimation(agent: Agent, episode: Batch, gamma: float) -> float:
    """Mean of Q(s, a) - G over an episode: predicted minus observed discounted return.

    At a time limit, Q(s', pi(s')) estimates the missing tail of G. Even for an exact Q, the result
    is usually positive, because exploration and earlier policies lower G. With twin critics, Q is
    the minimum.
    """
    tail = agent.q(episode.next_obs[-1:], agent.pi(episode.next_obs[-1:])).amin(0)
    total, returns = tail.item() * (1 - episode.terminated[-1].item()), []
    for reward in reversed(episode.rewards.tolist()):
        total = reward + gamma * total
        returns.append(total)
    q = agent.q(episode.obs, episode.actions).amin(0)
    return q.mean().item() - sum(returns) / len(returns)


@torch.no_grad()
def diagnostics(agent: Agent, target: Agent, batch: Batch, episode, args: Args) -> dict:
    """Statistics of the batch (after the update, no noise), the gradients and the last episode."""
    next_q = target.q(batch.next_obs, target.pi(batch.next_obs)).amin(0)
    y = td_target(batch.rewards, next_q, batch.terminated, args.gamma)
    q = agent.q(batch.obs, batch.actions)
    gradients = [w.grad for w in agent.parameters() if w.grad is not None]
    found = {
        "q_values": q.mean().item(),
        "explained_variance": 1 - ((y - q).var(correction=0) / y.var(correction=0)).item(),
        "saturated_actions": (agent.pi(batch.obs).abs() > 0.99).float().mean().item(),
        "grad_norm": nn.utils.get_total_norm(gradients).item(),
    }
    if agent.has_sigma:
        found["sigma"] = agent.actor.log_std.exp().mean().item()
    if episode:
        found["overestimation"] = overestimation(agent, episode, args.gamma)
    return found


# --- Train
def make_learners(obs_size: int, act_size: int, device: torch.device, args: Args) -> dict:
    """The agent, its target copy, and the two optimizers: the first arguments of update()."""
    agent = Agent(obs_size, act_size, args).to(device).float()  # the default dtype may be float64
    actor, critics = agent.actor.parameters(), agent.critics.parameters()
    return {
        "agent": agent,
        "target": copy.deepcopy(agent).requires_grad_(False),
        "actor_optimizer": torch.optim.Adam(actor, args.actor_lr, fused=True),
        "critic_optimizer": torch.optim.Adam(critics, args.critic_lr, fused=True),
    }


def train(args: Args) -> tuple[Agent, list[tuple[int, float, int]]]:
    """Train and evaluate; return the agent and the episodes as (step, return, length)."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.torch_threads)
    device = pick_device(args.device)
    env, eval_env = make_env(args), make_env(args, film=args.capture_video)
    sizes = env.observation_space.shape[0], env.action_space.shape[0]
    learners = make_learners(*sizes, device, args)
    agent, target = learners["agent"], learners["target"]
    buffer = ReplayBuffer(*sizes, device, args)
    with Run(args, env, eval_env, **learners, buffer=buffer) as run:
        done, episode, losses = True, None, {}
        has_learned = bool(learners["critic_optimizer"].state)  # True if resumed after an update
        while not run.finished:
            if done:
                obs, _ = env.reset(seed=run.reset_seed)  # only the first reset is seeded
                noise = torch.zeros(sizes[1], dtype=torch.float32)
            if has_learned:
                action, noise = explore(agent, obs, noise, args)
            else:
                action = 2 * torch.rand(sizes[1], dtype=torch.float32).numpy() - 1
            run.check(observation=obs, action=action)
            next_obs, reward, terminated, truncated, _ = env.step(to_env(action, env.action_space))
            done = terminated or truncated
            run.add_step(next_obs, reward, done)
            buffer.add(obs, action, reward, next_obs, terminated)
            obs = next_obs
            if done:
                episode = buffer.latest(run.episodes[-1][2])  # [2] is its length
            if len(buffer) >= args.learning_starts:
                batch = buffer.sample(args.batch_size)
                losses |= update(**learners, batch=batch, args=args, step=run.step)
                has_learned = True
                run.check(**losses)
            if run.due:
                metrics = diagnostics(agent, target, batch, episode, args) if losses else {}
                run.report(losses | metrics)
    if not has_learned:
        print(f"nothing learned: the run ended before --learning-starts {args.learning_starts}")
    run.evaluate()
    return agent, run.episodes


# ==================================================================================================
# Plumbing: the same in all five files, except for environments and actions
# ==================================================================================================
SCRIPT = Path(globals().get("__file__", "notebook")).stem
FIXED = "script", "env_id", "hidden_sizes", "activation", "optimizer"  # what --resume cannot change
FIXED += "shared_body", "norm_obs", "critic", "twin_critics"  # no script has all of these


class InputError(Exception):
    """A mistake the user can fix: one line on stderr and exit status 2, no traceback."""


class NotFinite(FloatingPointError):
    """NaN or inf in a number that the run depends on."""


def check_flags(args: Args) -> None:
    """Raise InputError if a flag violates its annotation or --env-kwargs is not a JSON object."""
    for name, hint in get_type_hints(Args, include_extras=True).items():
        value, flag = getattr(args, name), "--" + name.replace("_", "-")
        kind = type(getattr(Args, name))  # the type of the default
        if isinstance(value, np.generic | np.ndarray | list | tuple):
            value = np.asarray(value).tolist()
        if isinstance(value, list | Path):  # lists become tuples; checkpoints cannot hold a Path
            value = tuple(value) if isinstance(value, list) else str(value)
        if kind is int and isinstance(value, float) and value.is_integer():
            value = int(value)  # such as 1e5
        if kind not in (type(value), type(None)) and (kind, type(value)) != (float, int):
            raise InputError(f"{flag} must be of type {kind.__name__}, got {value!r}")
        object.__setattr__(args, name, value)
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise InputError(f"{flag} must be one of {get_args(hint)}, got {value!r}")
        for low, high in getattr(hint, "__metadata__", ()):
            if not all(low <= x <= high for x in np.atleast_1d(value)):
                raise InputError(f"{flag} must be in [{low}, {high}], got {value}")
    try:
        json.loads(args.env_kwargs).items()  # AttributeError unless it is an object
    except (AttributeError, RecursionError, ValueError) as error:
        reason = """must be a JSON object such as '{"is_slippery": false}'"""
        raise InputError(f"--env-kwargs {args.env_kwargs}: {reason}") from error


def pick_device(name: str) -> torch.device:
    """The named device; "auto" is the accelerator if there is one, otherwise the CPU."""
    found = torch.device("cpu")
    if name != "cpu":  # looking for an accelerator can make it unusable in forked processes
        found = torch.accelerator.current_accelerator(check_available=True) or found
    if name not in ("auto", found.type):
        raise InputError(f"--device {name}: not available on this machine; use {found.type}")
    return found


class PlainEnv(gym.Wrapper):
    """Wrapper that seeds the global generators, returns plain numbers, and drops info."""

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        if seed is not None:  # some environments sample from the global generators
            random.seed(seed)
            np.random.seed(seed % 2**32)
        obs, _ = self.call(self.env.reset, seed=seed, options=options)
        return obs, {}  # vector environments cannot merge info of varying shape or type

    def step(self, action):
        obs, reward, terminated, truncated, _ = self.call(self.env.step, action)
        return obs, np.asarray(reward, np.float64).item(), bool(terminated), bool(truncated), {}

    def call(self, method, *args, **kwargs):
        """Call the environment; turn an error that cannot be pickled into a RuntimeError."""
        try:
            obs, *rest = method(*args, **kwargs)
        except Exception as error:
            try:
                pickle.loads(pickle.dumps(error))
            except Exception:
                raise RuntimeError(f"{type(error).__name__}: {error}") from error
            raise
        shape = self.observation_space.shape  # None for Dict and Tuple, which are flattened
        if shape is not None and np.shape(obs) != shape:  # a wrong shape would be broadcast
            raise ValueError(f"observation has shape {np.shape(obs)}, expected {shape}")
        return obs, *rest


def make_env(args: Args, film: bool = False) -> gym.Env:
    """Make one environment with flat observations; `film` makes it render frames."""
    task, hint, options = f"--env-id {args.env_id}", "", json.loads(args.env_kwargs)
    known = gym.error.Error, AssertionError, ImportError, NotImplementedError, TypeError, ValueError
    if options:  # an environment can raise anything if its arguments are wrong
        task, known = f"{task} --env-kwargs {args.env_kwargs}", Exception
    if film:
        task, known, options["render_mode"] = f"{task} --capture-video", Exception, "rgb_array"
    try:
        env = gym.make(args.env_id, **options)
        hint = f"; cannot flatten {env.observation_space}"
        flat = gym.wrappers.FlattenObservation(PlainEnv(env))  # copies, so env may reuse its array
        if film:  # fail now, not after training
            hint = "; needs rgb_array rendering, moviepy, and for MuJoCo a display or MUJOCO_GL=egl"
            importlib.import_module("moviepy")
            flat.reset(seed=0)
            flat.render().shape  # noqa: B018
    except known as error:
        last = extract_tb(error.__traceback__)[-1]  # some errors have no message
        text = str(error) or f"{error!r} in {last.filename}, line {last.lineno}: {last.line}"
        missing = ModuleNotFoundError, gym.error.NameNotFound, gym.error.NamespaceNotFound
        if extra := re.search(r"gymnasium\[[\w-]+\]", text):
            hint = f'; with uv: uv run --with "{extra[0]}" {SCRIPT}.py'
        elif isinstance(error, missing) and not film:
            hint = "; use --env-id module:Name with an installed or local module that registers it"
        raise InputError(f"{task}: {' '.join(text.split()).rstrip('.')}{hint}") from error
    space = env.action_space
    box = isinstance(space, gym.spaces.Box) and space.is_bounded() and len(space.shape) == 1
    if not box or not np.issubdtype(space.dtype, np.floating):
        discrete = isinstance(space, gym.spaces.Discrete)
        hint = "use a2c_discrete.py" if discrete else "they must be bounded vectors of floats"
        raise InputError(f"{task}: actions are {space}; {hint}")
    image = re.search(r"\(\d+, \d+, \d+\), uint8", str(env.observation_space))  # also inside a Dict
    if image or len(flat.observation_space.shape or ()) != 1:
        raise InputError(f"{task}: observations must be vectors, because the networks are MLPs")
    return flat


def to_env(actions: np.ndarray, space: gym.spaces.Box) -> np.ndarray:
    """Map actions from [-1, 1] to the bounds of each dimension, and clip them to these bounds."""
    share = (actions + 1) / 2
    return ((1 - share) * space.low + share * space.high).clip(space.low, space.high)


@contextmanager
def restoring():
    """On exit, restore the CPU random generators and the number of CPU threads."""
    with ExitStack() as stack:
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())
        stack.callback(torch.set_rng_state, torch.get_rng_state())
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        yield


train = restoring()(train)  # for Python callers


@restoring()  # so that --eval-interval does not affect training
def evaluate(agent: Agent, env: gym.Env, num_episodes: int) -> list[float]:
    """The returns of greedy episodes with the seeds 0, 1, ..."""
    device, returns = next(agent.parameters()).device, [0.0] * num_episodes
    limit = (env.spec and env.spec.max_episode_steps) or 10_000  # a greedy policy may never finish
    for i in range(num_episodes):
        (obs, _), done, steps = env.reset(seed=i), False, 0
        while not done and steps < limit:
            obs = torch.as_tensor(obs, dtype=torch.float32, device=device)
            action = to_env(agent.act(obs, greedy=True).cpu().numpy(), env.action_space)
            obs, reward, terminated, truncated, _ = env.step(action)
            returns[i] += float(reward)
            if not (np.isfinite(obs).all() and np.isfinite(reward)):
                raise NotFinite(f"evaluation episode {i}: NaN or inf in observation or reward")
            done, steps = terminated or truncated, steps + 1
        if not done:
            print(f"evaluation: episode {i} was cut off after {limit} steps", file=sys.stderr)
    return returns


def load(path: str, args: Args | None = None) -> dict:
    """Read a checkpoint of this script from a file or folder; the FIXED values must match."""
    try:
        file = Path(path).expanduser()
        file = file / "checkpoint.pt" if file.is_dir() else file
        with zipfile.ZipFile(file) as archive:  # torch.load does not verify checksums
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(damaged)
        state = torch.load(file, map_location="cpu", weights_only=True)
        found = {"script": state["script"], **state["args"]}
    except Exception as error:  # an invalid file can raise almost anything here
        missing = isinstance(error, FileNotFoundError)
        reason = "file or checkpoint.pt not found" if missing else "not a readable checkpoint"
        raise InputError(f"--resume {path}: {reason}") from error
    wanted = {"script": SCRIPT} | (asdict(args) if args else {})
    for name in FIXED:
        if name in wanted and found.get(name, wanted[name]) != wanted[name]:
            raise InputError(f"--resume {path}: made with {name} {found[name]}, not {wanted[name]}")
    if unknown := sorted(state["args"].keys() - asdict(Args()).keys()):  # new flags have defaults
        raise InputError(f"--resume {path}: made by a version with other flags: {unknown}")
    return state


class Run(AbstractContextManager):
    """One training run: folder, curves, progress bar, checkpoints, stopping rule, evaluation.

    `parts` are saved in every checkpoint and restored by --resume: modules, optimizers, or
    anything else with state_dict() and load_state_dict(). `env` is closed when the run ends.
    """

    def __init__(self, args: Args, env, eval_env, report_interval: float = 0.25, **parts) -> None:
        self.args, self.env, self.eval_env, self.parts = args, env, eval_env, parts
        self.report_interval, self.best_return = report_interval, -np.inf
        self.step, self.episodes = 0, []  # environment steps; (step, return, length) of episodes
        if args.resume is not None:
            self.restore(args.resume)
        self.start_step, self.num_logged = self.step, len(self.episodes)
        self.solved, interval = self.is_solved(), args.eval_interval or np.inf
        self.eval_step = (self.step // interval + 1) * interval  # of the next evaluation
        # Mix seed and step: adjacent seeds share no episodes, and a resumed run repeats none.
        self.reset_seed = int(np.random.SeedSequence([args.seed, self.step]).generate_state(1)[0])
        num_envs = getattr(args, "num_envs", 1)
        self.episode_return, self.episode_length = np.zeros(num_envs), np.zeros(num_envs, int)
        name = f"{args.env_id}__{SCRIPT}__{args.seed}__{time.time():.6f}"
        try:
            log_dir = Path(args.log_dir).expanduser().absolute()
            self.folder = log_dir / re.sub("[/:]", "_", name)
            self.folder.mkdir(parents=True)
        except (OSError, RuntimeError) as error:  # RuntimeError: unknown user in ~user
            reason = f"cannot create a run folder: {getattr(error, 'strerror', error)}"
            raise InputError(f"--log-dir {args.log_dir}: {reason}") from error
        self.checkpoint = self.folder / "checkpoint.pt"
        self.resume_hint = f"continue with --resume {shlex.quote(str(self.checkpoint))}"
        print(f"run folder: {self.folder}")
        print(f"to watch it: tensorboard --logdir {shlex.quote(str(log_dir))}", flush=True)
        self.writer = SummaryWriter(self.folder, flush_secs=10)  # close() may block this long
        rows = "".join(f"|{name}|{value}|\n" for name, value in asdict(args).items())
        self.writer.add_text("hyperparameters", f"|flag|value|\n|-|-|\n{rows}")
        self.bar = tqdm(total=args.total_timesteps, initial=self.step, unit="step", mininterval=0.5)
        self.start_time = self.save_time = self.report_time = time.perf_counter()

    @property
    def finished(self) -> bool:
        """Whether --total-timesteps or --target-return has been reached."""
        return self.solved or self.step >= self.args.total_timesteps

    def check(self, **values) -> None:
        """Raise NotFinite, naming the step, if a number or an array is not finite in float32."""
        for name, value in values.items():
            in_range = abs(value) < 3.4e38  # about the largest float32; NaN gives False
            if in_range is not True and not np.all(in_range):
                raise NotFinite(f"step {self.step}: NaN or inf in {name}")

    def add_step(self, obs, reward, done, steps=1) -> None:
        """Add steps and rewards; with N environments, reward, done and steps are (N,)."""
        self.reset_seed = None  # only the first reset is seeded
        self.step += steps if isinstance(steps, int) else int(steps.sum())
        self.check(observation=obs, reward=reward)
        self.episode_return += reward
        self.episode_length += steps
        for i in np.flatnonzero(done) if done is not False else ():
            total, length = float(self.episode_return[i]), int(self.episode_length[i])
            self.episodes.append((self.step, total, length))
            self.episode_return[i] = self.episode_length[i] = 0
            self.solved = self.is_solved()
        is_late = time.perf_counter() >= self.report_time + self.report_interval
        self.due = is_late or self.step >= self.eval_step or self.finished

    def is_solved(self) -> bool:
        """Whether the last 100 episodes reach --target-return on average."""
        returns = [episode_return for _, episode_return, _ in self.episodes[-100:]]
        return len(returns) == 100 and sum(returns) / 100 >= self.args.target_return

    def report(self, losses: dict[str, float]) -> None:
        """Update curves and progress bar; evaluate and save a checkpoint when each is due."""
        self.report_time = time.perf_counter()
        scalars = {f"losses/{name}": value for name, value in losses.items()}
        scalars["charts/SPS"] = (self.step - self.start_step) / (self.report_time - self.start_time)
        if new := self.episodes[self.num_logged :]:
            self.num_logged = len(self.episodes)
            _, mean_return, length = np.mean(new, 0)
            scalars |= {"charts/episodic_return": mean_return, "charts/episodic_length": length}
            recent = np.mean(self.episodes[-100:], 0)[1]
            self.bar.set_postfix_str(f"return {recent:.1f}", refresh=False)
        if self.args.eval_interval and (self.step >= self.eval_step or self.finished):
            while self.eval_step <= self.step:
                self.eval_step += self.args.eval_interval
            returns = evaluate(self.parts["agent"], self.eval_env, self.args.eval_episodes)
            scalars["charts/eval_return"] = mean = np.mean(returns)
            if mean > self.best_return:
                self.best_return = mean
                self.save("best.pt")
        with self.writing():
            for tag, value in scalars.items():
                self.writer.add_scalar(tag, value, self.step)
        self.bar.update(self.step - self.bar.n)
        if self.report_time >= self.save_time + self.args.checkpoint_interval:
            self.save_time = self.report_time
            self.save()

    def save(self, name: str = "checkpoint.pt") -> None:
        """Write a checkpoint, first to a temporary file, so that a kill damages no existing one."""
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        if not all(weight.isfinite().all() for weight in parts["agent"].values()):
            raise NotFinite(f"step {self.step}: NaN or inf in weights")
        state = {"script": SCRIPT, "args": asdict(self.args), "global_step": self.step, **parts}
        state |= {"rng": torch.get_rng_state(), "episodes": self.episodes[-100:]}
        with self.writing():
            torch.save(state, self.folder / "tmp")
            (self.folder / "tmp").replace(self.folder / name)

    @contextmanager
    def writing(self):
        """Replace a disk error with one line that names the folder and says how to continue."""
        try:
            yield
        except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError on a full disk
            reason = getattr(error, "strerror", None) or "is the disk full or the folder deleted?"
            hint = self.resume_hint if self.checkpoint.is_file() else "no checkpoint exists"
            text = f"step {self.step}: cannot write to {self.folder}: {reason} ({hint})"
            raise InputError(text) from error

    def restore(self, path: str) -> None:
        state = load(path, self.args)
        try:
            for name, part in self.parts.items():
                saved = state[name]
                if isinstance(part, torch.optim.Optimizer):  # learning rates come from the flags
                    saved = part.state_dict() | {"state": saved["state"]}
                part.load_state_dict(saved)
            self.step, self.episodes = state["global_step"], state["episodes"]
            torch.manual_seed((self.args.seed + self.step) % 2**64)  # GPU generators are not saved
            if self.args.seed == state["args"]["seed"]:
                torch.set_rng_state(state["rng"])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            detail = (str(error).strip() or repr(error)).splitlines()[-1].strip()
            reason = f"does not match these flags or the spaces of {self.args.env_id}: {detail}"
            raise InputError(f"--resume {path}: {reason}") from error

    def __exit__(self, kind, error, traceback) -> None:
        seconds = f"{time.perf_counter() - self.start_time:.2f} s"
        try:
            if kind is not NotFinite:  # otherwise keep the last good checkpoint
                self.save()
        finally:
            self.bar.close()
            if error and isinstance(self.env.unwrapped, gym.vector.AsyncVectorEnv):
                for worker in self.env.unwrapped.processes:
                    worker.kill()  # a reply may be half-read, so do not use the pipes again
                    worker.join()
                self.env.unwrapped.closed = True
            self.env.close()
            with self.writing():
                self.writer.close()
        if error is None:
            print(f"trained: {self.step - self.start_step} steps in {seconds}")
        elif kind is not NotFinite:
            print(f"stopped at step {self.step}: {self.resume_hint}")
        if self.solved:
            target = self.args.target_return
            print(f"target return {target} reached at step {self.step} after {seconds}")

    def evaluate(self) -> None:
        """Run the greedy policy and print the evaluation line."""
        env = self.eval_env
        if self.args.capture_video:  # RecordVideo keeps the frames in memory, so limit them
            folder, every = str(self.folder / "videos"), lambda episode: True
            env = gym.wrappers.RecordVideo(env, folder, every, video_length=2_000)
        returns = evaluate(self.parts["agent"], env, self.args.eval_episodes)
        env.close()
        score = f"{np.mean(returns):.2f} +- {np.std(returns):.2f}"
        print(f"evaluation: return {score} over {len(returns)} episodes")


def main() -> None:
    ignore_until = 0.0

    def stop(number, frame):
        nonlocal ignore_until
        if time.monotonic() >= ignore_until:  # a second signal must not interrupt the save
            ignore_until = time.monotonic() + 10  # accept one after 10 s in case the first was lost
            sys.exit(128 + number)

    for number in signal.SIGINT, signal.SIGTERM:
        if signal.getsignal(number) != signal.SIG_IGN:  # background jobs may ignore SIGINT
            signal.signal(number, stop)
    hook = threading.excepthook  # TensorBoard re-raises its thread's OSErrors in the main thread
    threading.excepthook = lambda failed: isinstance(failed.exc_value, OSError) or hook(failed)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--resume")
    try:
        resume = parser.parse_known_args()[0].resume
        default = Args() if resume is None else Args(**load(resume)["args"])
        args = tyro.cli(Args, default=default, description=__doc__.split("\n\n")[0])
        torch.set_flush_denormal(True)  # dead units' Adam moments become denormal, which is slow
        train(args)
    except (InputError, NotFinite) as error:
        parser.exit(2, f"error: {error}\n")
    except (MemoryError, RuntimeError) as error:  # RuntimeError comes from PyTorch
        if isinstance(error, RuntimeError) and "allocate" not in str(error):
            raise
        parser.exit(2, f"error: out of memory; reduce sizes such as --hidden-sizes: {error}\n")


if __name__ == "__main__" and "__file__" in globals():  # a notebook has no __file__
    main()

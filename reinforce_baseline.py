"""REINFORCE (Williams 1992), the Monte Carlo policy gradient, with a choice of baselines.

Each iteration plays N whole episodes with the policy pi(a|s). Each action then becomes more likely
if the return that followed it exceeds a baseline b(s), and less likely otherwise.

    G[t]    = r[t+1] + gamma G[t+1]                           return, to the end of the episode
    grad J  = E[sum over t of gamma^t (G[t] - b(s[t])) grad log pi(a[t]|s[t])]    J = E[G[0]]
    L_actor = -mean over episodes of sum over t of (G[t] - b(s[t])) log pi(a[t]|s[t])
    L_V     = mean[(G[t] - V(s[t]))^2]                        K gradient steps; only for b = V

    --baseline none     b = 0                                 (Sutton and Barto 2018, section 13.3)
    --baseline mean     b = moving average of G[t] over earlier episodes
    --baseline value    b = V(s[t]), a learned function       (section 13.4)

The gradient of L_actor estimates -grad J, but without the factor gamma^t. The value of L_actor does
not measure performance. A baseline that does not depend on the action does not bias the estimate
and can reduce its variance. b is therefore computed before V is trained on the batch, because the
trained V depends on the batch's actions. The code calls V `critic`, but V is only a baseline. The
exception is a time limit, where V estimates the missing tail of the return (--no-bootstrap turns
this off). With the other baselines, the return ends at the time limit.

--baseline none --elite-share P selects the cross-entropy method: the policy imitates the actions of
the best episodes. In L_actor, G[t] - b(s[t]) becomes 1 in the top fraction P of the N episodes,
ranked by undiscounted return (at least one episode; ties are included), and 0 in the others.

Differences from the book:
- One gradient step is taken on N episodes instead of one per time step. The N environments step
  together until the last episode ends. Steps after the end of an episode are ignored.
- The optimizer is Adam. By default, nearly every gradient is clipped, which biases the update.
- The factor gamma^t is omitted, as is common. --discount-policy-gradient restores it.

    python reinforce_baseline.py          solves CartPole-v1 in seconds; the last line looks like
                                          `evaluation: return 500.00 +- 0.00 over 10 episodes`
    python reinforce_baseline.py --help   lists the flags
"""

# /// script
# requires-python = ">=3.10"
# dependencies = ["torch>=2.7", "gymnasium[classic-control]>=1.1", "tyro>=0.9.1", "numpy>=1.26",
#   "tensorboard>=2.16.2", "tqdm>=4.66"]
# ///
import argparse
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
import torch.nn.functional as F
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
    total_timesteps: Count = 300_000  # environment steps, summed over all episodes
    num_envs: Count = 16  # N, episodes per update, played in parallel
    baseline: Literal["none", "mean", "value"] = "value"  # b: 0, moving average, or learned V(s)
    elite_share: Fraction = 0.0  # imitate only this top fraction of the episodes; 0 disables it
    bootstrap: bool = True  # value baseline: V(s) estimates the return beyond a time limit
    discount_policy_gradient: bool = False  # weight step t by gamma^t, as Sutton and Barto do
    gamma: Fraction = 0.99  # discount factor; closer to 1 for long-delayed rewards
    mean_decay: Fraction = 0.9  # fraction of the moving average (initially 0) kept per update
    actor_lr: Finite = 3e-3  # learning rate of the policy
    critic_lr: Finite = 5e-3  # learning rate of the value baseline
    anneal_lr: bool = True  # decay both learning rates linearly to 0 at total_timesteps
    critic_updates: Count = 10  # K, gradient steps on V per gradient step on the policy
    ent_coef: NonNegative = 0.0  # weight of the entropy, which is summed over each episode
    max_grad_norm: NonNegative = 0.5  # clip each network's gradient to this norm; inf: no clipping
    hidden_sizes: Annotated[tuple[int, ...], (1, np.inf)] = (64, 64)  # units in each hidden layer
    activation: Literal["tanh", "relu"] = "tanh"  # activation function of the hidden layers
    # Environment
    env_id: str = "CartPole-v1"  # Gymnasium id; needs Discrete actions and vector observations
    env_kwargs: str = "{}"  # keyword arguments for the environment, as a JSON object
    vectorization: Literal["auto", "sync", "async"] = "auto"  # async: one process per environment
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
    resume: str | None = None  # run folder or checkpoint to resume from; omitted flags come from it

    def __post_init__(self) -> None:
        check_flags(self)
        if self.elite_share and self.baseline != "none":
            raise InputError("--elite-share requires --baseline none")


# --- Equations
def discounted_returns(rewards: np.ndarray, gamma: float) -> np.ndarray:
    """G[t] = r[t+1] + gamma G[t+1]; rewards[t] is r[t+1], 0 after the end: (T, N) -> (T, N)."""
    returns = 1.0 * rewards  # a copy, in floating point
    for t in reversed(range(len(rewards) - 1)):
        returns[t] += gamma * returns[t + 1]
    return returns


def reinforce_loss(log_probs: Tensor, advantages: Tensor, num_episodes: int) -> Tensor:
    """-1/N sum of (G - b) log pi over N episodes, with G - b held constant; (B,), (B,) -> ()."""
    assert log_probs.shape == advantages.shape  # (B,) times (B, 1) would broadcast to (B, B)
    return -(advantages.detach() * log_probs).sum() / num_episodes


# --- Networks
def mlp(sizes: tuple[int, ...], activation: str, gain: float) -> nn.Sequential:
    """Linear layers and activations; `gain` scales the initial weights of the last layer."""
    layers: list[nn.Module] = []
    gains = [2**0.5] * (len(sizes) - 2) + [gain]  # sqrt(2), as in OpenAI Baselines
    for n_in, n_out, layer_gain in zip(sizes, sizes[1:], gains):
        linear = nn.Linear(n_in, n_out)
        nn.init.orthogonal_(linear.weight, layer_gain)
        nn.init.zeros_(linear.bias)
        layers += [linear, {"tanh": nn.Tanh, "relu": nn.ReLU}[activation]()]
    return nn.Sequential(*layers[:-1])  # no activation after the last layer


class Agent(nn.Module):
    """The baselines and the policy pi(a|s), a categorical distribution given by its logits."""

    def __init__(self, obs_size: int, act_size: int, args: Args) -> None:
        super().__init__()
        # A small gain in the last layer makes the initial policy almost independent of the state.
        self.actor = mlp((obs_size, *args.hidden_sizes, act_size), args.activation, gain=0.01)
        self.critic = mlp((obs_size, *args.hidden_sizes, 1), args.activation, gain=1.0)
        self.register_buffer("mean_return", torch.zeros(()))

    def value(self, obs: Tensor) -> Tensor:
        """V(s): (..., obs_size) -> (...)."""
        return self.critic(obs).squeeze(-1)

    def baseline(self, obs: Tensor, kind: str) -> Tensor:
        """b(s): (B, obs_size) -> (B,)."""
        if kind == "value":
            return self.value(obs)
        if kind == "mean":
            return self.mean_return.expand(len(obs))
        return torch.zeros_like(self.mean_return).expand(len(obs))

    @torch.no_grad()
    def act(self, obs: Tensor, greedy: bool = False) -> Tensor:
        """Sample from pi, or take the most likely action: (..., obs_size) -> (...)."""
        logits = self.actor(obs)
        if not greedy:  # Gumbel-max trick; torch.multinomial would add 5% to the run time
            logits = logits - torch.empty_like(logits).exponential_().log()
        return logits.argmax(-1)

    def log_prob_and_entropy(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """log pi(a|s) and H(pi(.|s)): (B, obs_size), (B,) -> (B,), (B,)."""
        log_pi = self.actor(obs).log_softmax(-1)
        entropy = -(log_pi.exp() * log_pi).sum(-1)
        return log_pi.gather(-1, actions.unsqueeze(-1)).squeeze(-1), entropy


# --- Collect
class Episodes(NamedTuple):
    """N whole episodes, the longest with T steps; row t holds the step from s[t] to s[t+1]."""

    obs: np.ndarray  # (T+1, N, obs_size); includes each episode's true final state
    actions: np.ndarray  # (T, N)
    rewards: np.ndarray  # (T, N); row t is r[t+1], or 0 after the episode ends
    terminated: np.ndarray  # (T, N); True if s[t+1] is terminal
    live: np.ndarray  # (T, N); False (masked out) after the episode ends


def play(agent: Agent, envs: gym.vector.VectorEnv, seed: int | None = None) -> Episodes:
    """Play one episode in each environment; steps after its end are masked out and not counted."""
    obs, _ = envs.reset(seed=seed)
    all_obs, rows, live = [obs.astype(np.float32)], [], np.ones(len(obs), bool)
    device = next(agent.parameters()).device
    while live.any():
        actions = agent.act(torch.from_numpy(all_obs[-1]).to(device)).cpu().numpy()
        step = envs.step(to_env(actions, envs.single_action_space))
        obs, rewards, terminated, truncated, _ = step
        all_obs.append(obs.astype(np.float32))
        rewards = np.where(live, rewards, 0).astype(np.float32)
        rows.append((actions, rewards, terminated, live))
        live = live & ~(terminated | truncated)
    return Episodes(np.stack(all_obs), *(np.stack(column) for column in zip(*rows)))


# --- Learn
class EpisodeBatch(NamedTuple):
    """The B live steps of N episodes."""

    obs: Tensor  # (B, obs_size)
    actions: Tensor  # (B,)
    returns: Tensor  # (B,), G[t]
    advantages: Tensor  # (B,), the weight of log pi in L_actor: G[t] - b(s[t]) by default
    episode: Tensor  # (B,), index of each step's episode


@torch.no_grad()
def make_batch(agent: Agent, episodes: Episodes, args: Args) -> EpisodeBatch:
    """Compute returns and advantages with the current baseline."""
    device, live = next(agent.parameters()).device, episodes.live
    rewards = episodes.rewards.copy()
    if args.baseline == "value" and args.bootstrap:
        last, n = live.sum(0) - 1, np.arange(args.num_envs)  # the last step of each episode n
        tail = agent.value(torch.from_numpy(episodes.obs[last + 1, n]).to(device)).cpu().numpy()
        rewards[last, n] += args.gamma * ~episodes.terminated[last, n] * tail
    t, episode = live.nonzero()  # (B,), (B,)
    returns = discounted_returns(rewards, args.gamma)[live]
    arrays = episodes.obs[:-1][live], episodes.actions[live], returns, episode
    obs, actions, returns, episode = (torch.from_numpy(array).to(device) for array in arrays)
    advantages = returns - agent.baseline(obs, args.baseline)
    if args.elite_share:
        totals = episodes.rewards.sum(0, dtype=np.float64)  # float32 could miss ties
        num_elite = max(1, round(args.elite_share * args.num_envs))
        elite = (totals >= np.sort(totals)[-num_elite]).astype(np.float32)
        advantages = torch.from_numpy(elite).to(device)[episode]
    if args.discount_policy_gradient:
        advantages *= torch.from_numpy((args.gamma**t).astype(np.float32)).to(device)
    return EpisodeBatch(obs, actions, returns, advantages, episode)


def descend(network: nn.Module, optimizer, loss: Tensor, max_grad_norm: float) -> Tensor:
    """Take one gradient step; return the norm of the gradient before it is clipped."""
    optimizer.zero_grad()  # sets gradients to None, so that step() skips the other network
    loss.backward()
    norm = nn.utils.clip_grad_norm_(network.parameters(), max_grad_norm)
    optimizer.step()
    return norm


def update(agent: Agent, optimizer, batch: EpisodeBatch, args: Args) -> dict[str, float]:
    """Take one gradient step on the policy, then train the baselines; return the losses."""
    log_probs, entropies = agent.log_prob_and_entropy(batch.obs, batch.actions)
    policy_loss = reinforce_loss(log_probs, batch.advantages, args.num_envs)
    loss = policy_loss - args.ent_coef * entropies.sum() / args.num_envs
    norms = [descend(agent.actor, optimizer, loss, args.max_grad_norm)]
    losses = {"policy_loss": policy_loss, "entropy": entropies.mean()}
    # make_batch used the old baseline, which is independent of these actions.
    agent.mean_return.lerp_(batch.returns.mean(), 1 - args.mean_decay)
    if args.baseline == "value":
        for _ in range(args.critic_updates):
            losses["value_loss"] = F.mse_loss(agent.value(batch.obs), batch.returns)
            norm = descend(agent.critic, optimizer, losses["value_loss"], args.max_grad_norm)
        norms.append(norm)
    losses["grad_norm"] = torch.stack(norms).norm()
    return {name: loss.item() for name, loss in losses.items()}


def gradient_variance(agent: Agent, batch: EpisodeBatch, num_episodes: int) -> float:
    """Estimated variance of the mean of N unclipped episode gradients, summed over weights."""
    gradients = []
    for n in range(num_episodes):
        rows = batch.episode == n
        log_probs, _ = agent.log_prob_and_entropy(batch.obs[rows], batch.actions[rows])
        loss = reinforce_loss(log_probs, batch.advantages[rows], 1)
        gradient = torch.autograd.grad(loss, agent.actor.parameters())
        gradients.append(nn.utils.parameters_to_vector(gradient))
    return torch.stack(gradients).var(0).sum().item() / num_episodes


def diagnostics(agent: Agent, batch: EpisodeBatch, args: Args) -> dict[str, float]:
    """Fraction of the returns' variance that the baseline explains; variance of the gradient."""
    errors = batch.returns - agent.baseline(batch.obs, args.baseline).detach()
    ratio = errors.var(correction=0) / batch.returns.var(correction=0)
    found = {"explained_variance": 1 - ratio.item()}
    if args.num_envs > 1:
        found["policy_gradient_variance"] = gradient_variance(agent, batch, args.num_envs)
    return found


# --- Train
def train(args: Args) -> tuple[Agent, list[tuple[int, float, int]]]:
    """Train and evaluate; return the agent and the episodes as (step, return, length)."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.torch_threads)
    device = pick_device(args.device)
    envs, eval_env = make_envs(args)
    sizes = eval_env.observation_space.shape[0], gym.spaces.flatdim(eval_env.action_space)
    agent = Agent(*sizes, args).to(device).float()  # the default dtype may be float64
    groups = [{"params": network.parameters()} for network in (agent.actor, agent.critic)]
    optimizer = torch.optim.Adam(groups, fused=True)
    # Report only once a second, because gradient_variance can take longer than an update.
    with Run(args, envs, eval_env, report_interval=1.0, agent=agent, optimizer=optimizer) as run:
        while not run.finished:
            remaining = 1 - run.step / args.total_timesteps if args.anneal_lr else 1
            for group, rate in zip(optimizer.param_groups, (args.actor_lr, args.critic_lr)):
                group["lr"] = rate * remaining
            episodes = play(agent, envs, seed=run.reset_seed)  # only the first reset is seeded
            totals, lengths = episodes.rewards.sum(0, dtype=np.float64), episodes.live.sum(0)
            run.add_step(episodes.obs, totals, done=np.ones(args.num_envs, bool), steps=lengths)
            batch = make_batch(agent, episodes, args)
            metrics = diagnostics(agent, batch, args) if run.due else {}
            losses = update(agent, optimizer, batch, args)
            run.check(**losses)
            if run.due:
                run.report(losses | metrics)
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
    if not isinstance(space, gym.spaces.Discrete):
        box = isinstance(space, gym.spaces.Box) and space.is_bounded() and len(space.shape) == 1
        floats = box and np.issubdtype(space.dtype, np.floating)
        hint = "use a2c_continuous.py or ddpg.py" if floats else "no script supports these"
        raise InputError(f"{task}: actions are {space}; {hint}")
    image = re.search(r"\(\d+, \d+, \d+\), uint8", str(env.observation_space))  # also inside a Dict
    if image or len(flat.observation_space.shape or ()) != 1:
        raise InputError(f"{task}: observations must be vectors, because the networks are MLPs")
    return flat


def make_envs(args: Args) -> tuple[gym.vector.VectorEnv, gym.Env]:
    """Make N training environments and one for evaluation, all with flat observations."""
    env = make_env(args, film=args.capture_video)
    mode, wrappers, options = args.vectorization, [PlainEnv], json.loads(args.env_kwargs)
    if mode == "auto":  # a vector_entry_point might not accept the options
        native = env.unwrapped.spec.vector_entry_point and not options
        mode, wrappers = ("vector_entry_point", []) if native else ("sync", [PlainEnv])
    if env.spec.max_episode_steps is None:
        print(f"warning: {args.env_id} has no time limit; episodes may never end", file=sys.stderr)
    try:
        with ExitStack() as stack:
            if mode == "async" and threading.current_thread() is threading.main_thread():
                handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # workers inherit this
                stack.callback(signal.signal, signal.SIGINT, handler)
            envs = gym.make_vec(args.env_id, args.num_envs, mode, wrappers=wrappers, **options)
        spaces = envs.single_observation_space, envs.single_action_space
        same = spaces == (env.env.observation_space, env.action_space)  # env.env is not yet flat
        if not same or envs.metadata.get("autoreset_mode") != gym.vector.AutoresetMode.NEXT_STEP:
            raise ValueError("the vector version differs in spaces or autoreset mode")
    except Exception as error:
        reason = repr(error) if mode == "sync" else f"{error!r}; use --vectorization sync"
        raise InputError(f"--env-id {args.env_id}: cannot be vectorised: {reason}") from error
    if env.observation_space != spaces[0]:
        envs = gym.wrappers.vector.FlattenObservation(envs)
    return envs, env


def to_env(actions: np.ndarray, space: gym.spaces.Discrete) -> np.ndarray:
    """Shift actions 0, 1, ... so that they begin at the start of the space."""
    return actions + space.start


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

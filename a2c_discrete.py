"""Advantage actor-critic (A2C) for discrete actions.

Each iteration runs N parallel environments for T steps with the policy pi(a|s). The critic V(s),
with weights w, then takes K gradient steps towards the returns G. On the last one, the actor also
takes a step, which makes actions with a high advantage A more likely and those with a low advantage
less likely. The rollout is then discarded.

    delta[t] = r[t+1] + gamma V(s[t+1]) - V(s[t])             TD error; V = 0 in a terminal state
    A[t]     = delta[t] + gamma lambda A[t+1]                 GAE (Schulman et al. 2016, section 3)
    G[t]     = A[t] + V(s[t])                                 lambda-return; A, G are detached
    L_critic = vf_coef mean[(G[t] - V(s[t]))^2] + kappa |w - w_old|^2
    L_actor  = -mean[A[t] log pi(a[t]|s[t])] - beta mean[H(pi(.|s[t]))]    (Mnih et al. 2016)

H is the entropy; kappa and beta are coefficients. A[t+1] is treated as 0 if the episode or the
rollout ends at step t. At a time limit, or if only the rollout ends, s[t+1] is not terminal, so
delta bootstraps from it. A is the TD error if lambda = 0 and A3C's n-step advantage if lambda = 1.
Notes and differences from the sources:
- The K critic steps follow SLM-Lab's "Simple Actor Critic". A and G are recomputed before each of
  them. The actor's A thus comes from the critic after K - 1 steps; in SLM-Lab, after all K.
- w_old is w before the K steps. The kappa term is from Zemann's blog post "Actor-Critics" (2022).
- If K > 1, V is first fitted to the same rollout, so V(s[t]) depends on a[t]. This biases the
  policy gradient. Schulman et al. (2016, section 6.1) therefore update V after the policy.
- With --actor-updates E > 1, the last E steps also update the actor, with PPO's loss (Schulman et
  al. 2017, eq. 7), -mean[min(ratio A, clip(ratio, 1 - c, 1 + c) A)], c = --clip-coef. The ratio is
  pi(a|s) / pi_old(a|s), where pi_old collected the rollout. It starts at 1, where the gradient is
  A2C's. A and G are computed once, which avoids the bias of K > 1. There are no minibatches.
- The environments run in lockstep, not in A3C's asynchronous threads.
- The actor and the critic share no weights, unless --shared-body is set.
- In L_actor, A is normalised over the batch. Each network's gradient is clipped. Adam is used.
- The factor gamma^t of Sutton and Barto (2018, section 13.5) is omitted, as is common.

    python a2c_discrete.py           solves CartPole-v1 in seconds; the last line looks like
                                     `evaluation: return 500.00 +- 0.00 over 10 episodes`
    python a2c_discrete.py --help    lists the flags
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
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

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
    total_timesteps: Count = 250_000  # environment steps, summed over all environments
    num_envs: Count = 32  # N, parallel environments; larger N gives more diverse batches
    num_steps: Annotated[int, (2, np.inf)] = 16  # T, steps per rollout; >= 2, as one may be a reset
    gamma: Fraction = 0.99  # discount factor; closer to 1 for long-delayed rewards
    gae_lambda: Fraction = 0.95  # 0: one-step TD error (low variance, biased); 1: n-step advantage
    optimizer: Literal["adam", "rmsprop"] = "adam"  # the A3C paper uses rmsprop
    actor_lr: Finite = 2e-3  # learning rate of the actor, or of both networks with --shared-body
    critic_lr: Finite = 5e-3  # learning rate of the critic
    anneal_lr: bool = True  # decay both learning rates linearly to 0 at total_timesteps
    critic_updates: Count = 3  # K, critic steps per rollout
    actor_updates: Count = 1  # E, how many of the K steps also update the actor; >1: PPO's loss
    clip_coef: Fraction = 0.2  # c, PPO's clipping range for the probability ratio
    critic_loss: Literal["mse", "huber"] = "mse"  # huber: e^2 / 2 for errors |e| <= 1, else linear
    proximal_coef: NonNegative = 0.0  # kappa, penalises changes in the critic; no effect if K = 1
    vf_coef: NonNegative = 0.5  # loss weight; only matters with grad clipping, kappa or shared body
    ent_coef: NonNegative = 0.01  # beta, weight of the entropy; discourages premature convergence
    norm_adv: bool = True  # normalise advantages; ent_coef is then independent of the reward scale
    max_grad_norm: NonNegative = 0.5  # clip each network's gradient to this norm; inf: no clipping
    hidden_sizes: Annotated[tuple[int, ...], (1, np.inf)] = (64, 64)  # units in each hidden layer
    activation: Literal["tanh", "relu"] = "tanh"  # activation function of the hidden layers
    shared_body: bool = False  # one body with two heads, clipped as one network; requires K = 1
    # Environment
    env_id: str = "CartPole-v1"  # Gymnasium id; needs Discrete actions and vector observations
    env_kwargs: str = "{}"  # keyword arguments for the environment, as a JSON object
    vectorization: Literal["auto", "sync", "async"] = "auto"  # async: one process per environment
    randomize_domain: bool = False  # LunarLander: random gravity and wind in training
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
        if self.shared_body and self.critic_updates > 1:
            raise InputError("--shared-body needs --critic-updates 1: critic-only steps change pi")
        if self.actor_updates > self.critic_updates:
            raise InputError(f"--actor-updates must be <= --critic-updates {self.critic_updates}")


# --- Equations
def compute_gae(rewards, values, terminated, done, gamma: float, gae_lambda: float):
    """Generalised advantage estimation: A[t] = sum over l of (gamma lambda)^l delta[t+l].

    `terminated` removes the bootstrap. `done` (terminated or truncated) ends the sum. A truncated
    episode still bootstraps from its last state.
    Arrays or tensors: rewards, terminated and done (T, N), values (T+1, N) -> (T, N).
    """
    assert rewards.shape == values[1:].shape == terminated.shape == done.shape  # no broadcasting
    advantages = rewards + gamma * values[1:] * (terminated == 0) - values[:-1]  # delta[t]
    decay = gamma * gae_lambda * (done == 0)
    for t in reversed(range(len(rewards) - 1)):  # A[T-1] = delta[T-1]
        advantages[t] += decay[t] * advantages[t + 1]
    return advantages


def policy_gradient_loss(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """-mean[A log pi(a|s)], with A constant; (B,), (B,) -> ()."""
    assert log_probs.shape == advantages.shape  # (B,) times (B, 1) would broadcast to (B, B)
    return -(advantages.detach() * log_probs).mean()


def clipped_loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, c: float) -> Tensor:
    """PPO: -mean[min(ratio A, clip(ratio, 1 - c, 1 + c) A)], with A constant; (B,) each -> ()."""
    assert log_probs.shape == old_log_probs.shape == advantages.shape  # avoids (B,) times (B, 1)
    ratios, advantages = (log_probs - old_log_probs).exp(), advantages.detach()
    return -torch.min(ratios * advantages, ratios.clamp(1 - c, 1 + c) * advantages).mean()


def policy_change(log_probs: Tensor, old_log_probs: Tensor, c: float) -> dict[str, Tensor]:
    """Estimate of KL(pi_old || pi), and the fraction of ratios outside [1 - c, 1 + c]."""
    log_ratios = log_probs - old_log_probs
    ratios = log_ratios.exp()
    outside = ((ratios - 1).abs() > c).float()
    return {"approx_kl": (ratios - 1 - log_ratios).mean(), "clip_fraction": outside.mean()}


def normalise(x: Tensor) -> Tensor:
    """Shift and scale to mean 0 and standard deviation 1; (B,) -> (B,)."""
    return (x - x.mean()) / (x.std(correction=0) + 1e-8)  # a batch of one gives 0, not NaN


def value_loss(values: Tensor, returns: Tensor, kind: str) -> Tensor:
    """Mean squared error or Huber loss, with the returns constant; (B,), (B,) -> ()."""
    assert values.shape == returns.shape  # (B,) minus (B, 1) would broadcast to (B, B)
    loss = F.huber_loss if kind == "huber" else F.mse_loss
    return loss(values, returns.detach())


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
    """Actor pi(a|s), a categorical distribution given by its logits, and critic V(s)."""

    def __init__(self, obs_size: int, act_size: int, args: Args) -> None:
        super().__init__()
        sizes = (obs_size, *args.hidden_sizes)
        # A small gain in the last layer makes the initial policy almost independent of the state.
        self.actor = mlp((*sizes, act_size), args.activation, gain=0.01)
        self.critic = mlp((*sizes, 1), args.activation, gain=1.0)
        if args.shared_body:
            self.critic = nn.Sequential(*self.actor[:-1], self.critic[-1])

    def value(self, obs: Tensor) -> Tensor:
        """V(s): (..., obs_size) -> (...)."""
        return self.critic(obs).squeeze(-1)

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
class Rollout:
    """T steps of N environments; row t holds the transition from s[t] to s[t+1].

    When an episode ends, the environment returns the final observation. It resets on the next step
    and ignores the action (Gymnasium's AutoresetMode.NEXT_STEP). For one environment:

        t    obs[t]   actions[t]   rewards[t]   done[t]   live[t]
        0    s0       a0           r1           False     True
        1    s1       a1           r2           True      True      obs[2] = s2, the true successor
        2    s2       ignored      0            False     False     reset row: not used
        3    s0'      a0'          r1'          False     True      next episode
    """

    def __init__(self, envs: gym.vector.VectorEnv, device: torch.device, args: Args) -> None:
        T, N, obs_size = args.num_steps, args.num_envs, envs.single_observation_space.shape[0]
        self.envs, self.device, self.args = envs, device, args
        self.obs = np.zeros((T + 1, N, obs_size), np.float32)
        self.actions = np.zeros((T, N), np.int64)
        self.rewards = np.zeros((T, N), np.float32)  # rewards[t] is r[t+1]
        self.terminated = np.zeros((T, N), bool)  # s[t+1] is terminal
        self.done = np.zeros((T, N), bool)  # the episode ends: terminated or truncated
        self.live = np.zeros((T, N), bool)  # False in reset rows

    def collect(self, agent: Agent, run: "Run") -> None:
        """Step each environment T times, from obs[-1], where the previous rollout ended."""
        self.obs[0] = self.obs[-1]
        for t in range(self.args.num_steps):
            obs = torch.from_numpy(self.obs[t]).to(self.device)
            self.actions[t] = agent.act(obs).cpu()
            step = self.envs.step(to_env(self.actions[t], self.envs.single_action_space))
            self.obs[t + 1], self.rewards[t], self.terminated[t], truncated, _ = step
            self.live[t] = ~self.done[t - 1]  # at t = 0, done[-1] is from the previous rollout
            self.done[t] = self.terminated[t] | truncated
            self.rewards[t] = np.where(self.live[t], self.rewards[t], 0)  # ignore a reset's reward
            run.add_step(self.obs[t + 1], self.rewards[t], self.done[t], steps=self.live[t])

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """obs (T+1, N, obs_size), live (T, N), and the actions of the B live rows, as tensors."""
        obs, live, actions = self.obs, self.live, self.actions[self.live]
        return tuple(torch.from_numpy(array).to(self.device) for array in (obs, live, actions))


# --- Learn
def make_optimizer(agent: Agent, args: Args) -> torch.optim.Optimizer:
    """One parameter group per network, or a single one if they share a body."""
    networks = [agent] if args.shared_body else [agent.actor, agent.critic]
    groups = [{"params": list(network.parameters())} for network in networks]
    if args.optimizer == "adam":
        return torch.optim.Adam(groups, fused=True)
    return torch.optim.RMSprop(groups, foreach=True)  # first step: 10 lr, because alpha is 0.99


def advantages_and_returns(rollout: Rollout, values: Tensor, args: Args) -> tuple[Tensor, Tensor]:
    """A[t] and G[t] of the B live transitions, held constant: values (T+1, N) -> (B,), (B,)."""
    v, live = values.detach().cpu().numpy(), rollout.live  # short loops are faster in NumPy
    ends = rollout.terminated, rollout.done  # sums stop at `done`, before reset rows
    advantages = compute_gae(rollout.rewards, v, *ends, args.gamma, args.gae_lambda)
    arrays = advantages[live], (advantages + v[:-1])[live]
    return tuple(torch.from_numpy(array).to(values.device) for array in arrays)


def update(agent: Agent, optimizer, rollout: Rollout, args: Args) -> dict[str, float]:
    """Take K critic steps, the last E of which also update the actor; return the last losses."""
    obs, live, actions = rollout.tensors()
    w_old = nn.utils.parameters_to_vector(agent.critic.parameters()).detach()
    groups = [group["params"] for group in optimizer.param_groups]  # the networks' weights
    is_ppo, actor_start = args.actor_updates > 1, args.critic_updates - args.actor_updates
    for k in range(args.critic_updates):
        values = agent.value(obs)  # (T+1, N)
        if k == 0 or not is_ppo:  # PPO computes A and G once
            advantages, returns = advantages_and_returns(rollout, values, args)  # (B,), (B,)
        critic_loss = value_loss(values[:-1][live], returns, args.critic_loss)
        loss = args.vf_coef * critic_loss
        if args.proximal_coef:
            w = nn.utils.parameters_to_vector(agent.critic.parameters())
            loss = loss + args.proximal_coef * (w - w_old).pow(2).sum()
        if k >= actor_start:
            scaled = normalise(advantages) if args.norm_adv else advantages
            log_probs, entropies = agent.log_prob_and_entropy(obs[:-1][live], actions)
            if k == actor_start:  # the actor is still the policy that collected the rollout
                old_log_probs = log_probs.detach()
            if is_ppo:
                actor_loss = clipped_loss(log_probs, old_log_probs, scaled, args.clip_coef)
            else:
                actor_loss = policy_gradient_loss(log_probs, scaled)
            loss = loss + actor_loss - args.ent_coef * entropies.mean()
        optimizer.zero_grad()  # sets gradients to None, so that critic-only steps skip the actor
        loss.backward()
        norms = [nn.utils.clip_grad_norm_(group, args.max_grad_norm) for group in groups]
        optimizer.step()
    losses = {"policy_loss": actor_loss, "value_loss": critic_loss, "entropy": entropies.mean()}
    if is_ppo:  # measured before the last actor step
        losses |= policy_change(log_probs.detach(), old_log_probs, args.clip_coef)
    losses["grad_norm"] = torch.stack(norms).norm()  # of both networks, before clipping
    return {name: value.item() for name, value in losses.items()}


@torch.no_grad()
def diagnostics(agent: Agent, rollout: Rollout, args: Args) -> dict[str, float]:
    """Explained variance of the critic before the update: 1 - Var[A] / Var[G], where A = G - V."""
    obs, _, _ = rollout.tensors()
    advantages, returns = advantages_and_returns(rollout, agent.value(obs), args)
    ratio = advantages.var(correction=0) / returns.var(correction=0)
    return {"explained_variance": 1 - ratio.item()}


# --- Train
def train(args: Args) -> tuple[Agent, list[tuple[int, float, int]]]:
    """Train and evaluate; return the agent and the episodes as (step, return, length)."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.torch_threads)
    device = pick_device(args.device)
    envs, eval_env = make_envs(args)
    sizes = eval_env.observation_space.shape[0], gym.spaces.flatdim(eval_env.action_space)
    agent = Agent(*sizes, args).to(device).float()  # the default dtype may be float64
    optimizer = make_optimizer(agent, args)
    with Run(args, envs, eval_env, agent=agent, optimizer=optimizer) as run:
        rollout = Rollout(envs, device, args)
        rollout.obs[-1], _ = envs.reset(seed=run.reset_seed)  # where collect() begins
        run.check(observation=rollout.obs[-1])
        while not run.finished:
            remaining = 1 - run.step / args.total_timesteps if args.anneal_lr else 1
            for group, rate in zip(optimizer.param_groups, (args.actor_lr, args.critic_lr)):
                group["lr"] = rate * remaining
            rollout.collect(agent, run)
            metrics = diagnostics(agent, rollout, args) if run.due else {}
            losses = update(agent, optimizer, rollout, args)
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


class DomainRandomization(gym.Wrapper):
    """Sample LunarLander's gravity, wind and turbulence at each reset."""

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        if seed is not None:
            self.env.reset(seed=seed)  # seeds np_random, which samples the physics
        lander, normal = self.env.unwrapped, self.np_random.normal
        lander.gravity = float(np.clip(normal(-10.0, 2.0), -11.99, -0.01))
        lander.enable_wind = bool(self.np_random.integers(2))
        lander.wind_power = float(np.clip(normal(15.0, 2.0), 0.01, 19.99))
        lander.turbulence_power = float(np.clip(normal(1.5, 1.0), 0.01, 1.99))
        return self.env.reset(options=options)


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
    if args.randomize_domain:
        if not hasattr(env.unwrapped, "turbulence_power"):
            raise InputError(f"--randomize-domain is for LunarLander-v3, not for {args.env_id}")
        wrappers = [DomainRandomization, PlainEnv]
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

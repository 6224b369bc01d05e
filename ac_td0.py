"""One-step actor-critic: one environment, one update of each network after every step.

This is the episodic "one-step actor-critic" of Sutton and Barto (2018, section 13.5). theta and w
are the weights of pi and V, alpha_theta and alpha_w are learning rates, and I is gamma^t at step t:

    Loop for each episode:
        S <- env.reset(), I <- 1
        While S is not terminal:
            A ~ pi(.|S, theta); S', R <- env.step(A)
            delta <- R + gamma V(S', w) - V(S, w)                        V = 0 in a terminal state
            w     <- w + alpha_w delta grad V(S, w)
            theta <- theta + alpha_theta I delta grad log pi(A|S, theta)
            I <- gamma I; S <- S'

--critic v is this algorithm, with the differences below. If V is exact, delta is an unbiased
estimate of the advantage of taking A in S.
--critic q is the Q actor-critic (QAC; Silver 2015, lecture 7; Yoon 2019). The next action A' is
sampled before the update. Unless the episode ends, it is executed after the update, although pi
has then changed slightly. The critic learns by SARSA:
    delta <- R + gamma Q(S', A', w) - Q(S, A, w)                         Q = 0 in a terminal state
    w     <- w + alpha_w delta grad Q(S, A, w)
    theta <- theta + alpha_theta I Q(S, A, w) grad log pi(A|S, theta)

delta and Q(S, A, w) are computed once, before both updates. As in the book, no gradient flows
through the target, R + gamma V(S', w). The update of w is thus a semi-gradient step. Differences:
- At a time limit the episode ends, but S' is not terminal, so the target still bootstraps from it.
- The optimizer is Adam. --optimizer sgd uses the book's updates; try it with --actor-lr 1e-4.
- I stays 1, as is common. --discount-policy-gradient restores I <- gamma I. With sgd, an exact
  critic and low learning rates, the expected update over an episode then ascends the discounted
  value of the start state. Late time steps, however, have little weight.

    python ac_td0.py --target-return 475    solves CartPole-v1 in 1 to 3 minutes and prints
                                            `evaluation: return 500.00 +- 0.00 over 10 episodes`
    python ac_td0.py --help                 lists the flags
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
from functools import partial
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
    total_timesteps: Count = 200_000  # environment steps, each followed by one update
    critic: Literal["v", "q"] = "v"  # v: state values, TD error; q: action values (QAC)
    discount_policy_gradient: bool = False  # weight step t by I = gamma^t, as Sutton and Barto do
    gamma: Fraction = 0.99  # discount factor; closer to 1 for long-delayed rewards
    optimizer: Literal["sgd", "adam"] = "adam"  # sgd learns more slowly
    actor_lr: Finite = 3e-4  # alpha_theta, learning rate of the actor
    critic_lr: Finite = 1e-3  # alpha_w, learning rate of the critic
    hidden_sizes: Annotated[tuple[int, ...], (1, np.inf)] = (64, 64)  # units in each hidden layer
    activation: Literal["tanh", "relu"] = "tanh"  # activation function of the hidden layers
    # Environment
    env_id: str = "CartPole-v1"  # Gymnasium id; needs Discrete actions and vector observations
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
    resume: str | None = None  # run folder or checkpoint to resume from; omitted flags come from it

    def __post_init__(self) -> None:
        check_flags(self)


# --- Equations
def td_error(reward: float, value: float, next_value: float, terminated, gamma: float) -> float:
    """delta = R + gamma V(S') - V(S), with V(S') = 0 if S' is terminal; likewise for Q."""
    return reward + gamma * (1 - terminated) * next_value - value


def sample(logits: Tensor) -> Tensor:
    """Sample from softmax(logits): (..., act_size) -> (...)."""
    # Gumbel-max trick; torch.multinomial would add 5% to the run time.
    return (logits - torch.empty_like(logits).exponential_().log()).argmax(-1)


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
    """Actor pi(a|s), a categorical distribution given by its logits; critic V(s) or Q(s, .)."""

    def __init__(self, obs_size: int, act_size: int, args: Args) -> None:
        super().__init__()
        outputs = act_size if args.critic == "q" else 1
        # A small gain in the last layer makes the initial policy almost independent of the state.
        self.actor = mlp((obs_size, *args.hidden_sizes, act_size), args.activation, gain=0.01)
        self.critic = mlp((obs_size, *args.hidden_sizes, outputs), args.activation, gain=1.0)

    @torch.no_grad()
    def act(self, obs: Tensor, greedy: bool = False) -> Tensor:
        """Sample from pi, or take the most likely action: (..., obs_size) -> (...)."""
        logits = self.actor(obs)
        return logits.argmax(-1) if greedy else sample(logits)


# --- Learn
class Transition(NamedTuple):
    """One step; gradients flow through log_pi and values."""

    log_pi: Tensor  # log pi(.|S), (1, act_size)
    values: Tensor  # V(S) of shape (1, 1), or Q(S, .) of shape (1, act_size)
    action: int  # A
    reward: float  # R
    next_obs: Tensor  # S', (1, obs_size)
    next_action: int | None  # A', only for --critic q
    terminated: bool  # S' is terminal


def two_rate_optimizer(agent: Agent, args: Args) -> torch.optim.Optimizer:
    """SGD or Adam, with a parameter group and a learning rate for each network."""
    groups = [{"params": agent.actor.parameters(), "lr": args.actor_lr}]
    groups += [{"params": agent.critic.parameters(), "lr": args.critic_lr}]
    kind = torch.optim.SGD if args.optimizer == "sgd" else torch.optim.Adam
    return kind(groups, fused=True)


def update(agent: Agent, optimizer, step: Transition, gamma_t: float, args: Args) -> dict:
    """Update both networks; return delta, value and log pi(A|S) before the update. gamma_t is I."""
    is_q = args.critic == "q"
    value, log_prob = step.values[:, step.action if is_q else 0], step.log_pi[:, step.action]
    with torch.no_grad():
        next_value = agent.critic(step.next_obs)[:, step.next_action if is_q else 0].item()
    delta = td_error(step.reward, value.item(), next_value, step.terminated, args.gamma)
    weight = value.item() if is_q else delta
    # Optimizers descend, so negate: the gradient is -delta * grad V - I * weight * grad log pi.
    loss = -delta * value - gamma_t * weight * log_prob
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None  # same as zero_grad(), but faster
    loss.backward()
    optimizer.step()
    return {"delta": delta, "value": value.item(), "log_prob": log_prob.item()}


def diagnostics(agent: Agent, window: list[dict], args: Args) -> dict[str, float]:
    """Statistics of the steps since the last report, and the norm of the latest gradients."""
    names = "delta", "value", "log_prob", "gamma_t"
    delta, value, log_prob, gamma_t = torch.tensor([[s[name] for s in window] for name in names])
    log_pi = torch.cat([s["log_pi"] for s in window])
    weight = value if args.critic == "q" else delta
    unexplained = delta.var(correction=0) / (value + delta).var(correction=0)
    found = {
        "policy_loss": -(gamma_t * weight * log_prob).mean(),
        "value_loss": delta.pow(2).mean(),
        "entropy": -(log_pi.exp() * log_pi).sum(-1).mean(),
        "explained_variance": 1 - unexplained,
        "grad_norm": nn.utils.get_total_norm([w.grad for w in agent.parameters()]),
    }
    return {name: number.item() for name, number in found.items()}


# --- Train
def train(args: Args) -> tuple[Agent, list[tuple[int, float, int]]]:
    """Train and evaluate; return the agent and the episodes as (step, return, length)."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.torch_threads)
    device = pick_device(args.device)
    env, eval_env = make_env(args), make_env(args, film=args.capture_video)
    obs_size, act_size = env.observation_space.shape[0], int(env.action_space.n)
    agent = Agent(obs_size, act_size, args).to(device).float()  # the default dtype may be float64
    optimizer = two_rate_optimizer(agent, args)
    tensor = partial(torch.as_tensor, dtype=torch.float32, device=device)
    with Run(args, env, eval_env, agent=agent, optimizer=optimizer) as run:
        window, done = [], True
        while not run.finished:
            if done:
                obs, _ = env.reset(seed=run.reset_seed)  # only the first reset is seeded
                run.check(observation=obs)
                obs, action, gamma_t = tensor(obs)[None], None, 1.0  # gamma_t is I in the book
            log_pi, values = agent.actor(obs).log_softmax(-1), agent.critic(obs)
            if action is None:  # --critic v, or the first step of an episode
                action = sample(log_pi.detach()).item()
            next_obs, reward, terminated, truncated, _ = env.step(to_env(action, env.action_space))
            done = terminated or truncated
            run.add_step(next_obs, reward, done)
            next_obs = tensor(next_obs)[None]
            next_action = agent.act(next_obs).item() if args.critic == "q" else None  # A' of QAC
            step = Transition(log_pi, values, action, reward, next_obs, next_action, terminated)
            found = update(agent, optimizer, step, gamma_t, args)
            run.check(delta=found["delta"], log_prob=found["log_prob"])
            window.append(found | {"gamma_t": gamma_t, "log_pi": log_pi.detach()})
            if run.due:
                run.report(diagnostics(agent, window, args))
                window.clear()
            if args.discount_policy_gradient:
                gamma_t *= args.gamma
            obs, action = next_obs, next_action
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

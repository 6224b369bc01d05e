"""Advantage actor-critic (A2C) for continuous actions.

The algorithm is that of a2c_discrete.py: "just plug in a different formula for pi(a|s)" (YSDA's
Practical RL, week 6). Here it is a Gaussian: its mean is a network's output, its standard deviation
exp(log sigma) a free weight for each dimension i, the same in all states. (PI is the number.)

    pi(a|s)  = N(a; mu(s), diag sigma^2)                       the bounds of each action: -1 and 1
    log pi   = -sum_i [(a_i - mu_i)^2 / (2 sigma_i^2) + log sigma_i + log(2 PI) / 2]
    H(pi)    = sum_i [log sigma_i + log(2 PI e) / 2]           its entropy
    delta_t  = r_t+1 + gamma V(s_t+1) - V(s_t)                 TD error; V = 0 in a terminal state
    A_t      = delta_t + gamma lambda A_t+1                    GAE (Schulman et al. 2016, section 3)
    G_t      = A_t + V(s_t)                                    the return; a constant, like A_t
    L_critic = vf_coef mean[(G_t - V(s_t))^2] + kappa |w - w_old|^2
    L_actor  = -mean[A_t log pi(a_t|s_t)] - beta mean[H(pi)]   A3C (Mnih et al. 2016, section 4)

What practice adds is care for scale. Actions: a sample beyond the bounds is clipped for the
environment only; log pi is that of the sample, not of its copy. Observations: shifted and scaled to
mean 0 and standard deviation 1. Rewards: divided by that of R_t = r_t+1 + gamma R_t-1, with their
mean kept. These statistics run along with training and stand still in evaluation; what lies beyond
10 deviations is clipped. log sigma is kept within -5 and 2. All else is as in a2c_discrete.py: T
steps of N environments, then K steps of the critic with new targets in each, and in the last of
them the one of the actor; w_old are the weights before the first. lambda = 0 is the one-step TD
error; with lambda = 1, G_t is the n-step return. A_t is brought to mean 0 and standard deviation 1;
gradients are clipped; RMSprop is PyTorch's, with epsilon outside the root; the gamma^t of Sutton
and Barto's box is dropped.

    python a2c_continuous.py         learns Pendulum-v1 in a minute or two and ends with a line like
                                     `evaluation: return -135.00 +- 80.00 over 10 episodes`
    python a2c_continuous.py --help  lists the flags
"""

# /// script
# requires-python = ">=3.10"
# dependencies = ["torch>=2.7", "gymnasium[classic-control,box2d,mujoco]>=1.1", "tyro>=0.9",
#   "numpy>=1.26", "tensorboard>=2.16", "tqdm>=4.66", "moviepy>=2.0"]
# ///
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


@dataclass(frozen=True)
class Args:
    # Run
    seed: int = 0  # the same seed, machine and versions give the same result, bit for bit
    total_timesteps: int = 400_000  # environment steps, counted over all environments
    device: Literal["cpu", "cuda", "mps", "auto"] = "cpu"  # cpu is fastest for small networks
    torch_threads: int = 1  # for networks this small, more threads are slower
    log_dir: str = "runs"  # every run makes a new folder in it
    eval_episodes: int = 10  # complete episodes of the greedy policy, played after training
    capture_video: bool = False  # film the evaluation
    target_return: float = np.inf  # stop once the last 100 episodes average this or more
    checkpoint_interval: float = 60.0  # seconds between two checkpoints
    resume: str | None = None  # continue a checkpoint.pt; its flags are the command line's defaults
    # Environment
    env_id: str = "Pendulum-v1"  # any Gymnasium id with bounded Box actions, no image observation
    num_envs: int = 16  # N; the more, the less the batch depends on one episode
    vectorization: Literal["auto", "sync", "async"] = "auto"  # sync: in one process; async: in N
    norm_obs: bool = True  # shift and scale observations to mean 0, standard deviation 1
    norm_reward: bool = True  # divide rewards by the standard deviation of the discounted return
    # Algorithm
    num_steps: int = 16  # T, steps of each environment per update; 2 or more: one may be a reset
    gamma: float = 0.99  # discount; nearer to 1 where the reward comes hundreds of steps late
    gae_lambda: float = 0.95  # 0: least variance, most bias; 1: the reverse
    optimizer: Literal["adam", "rmsprop"] = "rmsprop"  # rmsprop is the A3C paper's
    actor_lr: float = 1e-3  # learning rate of the actor, or of everything with --shared-body
    critic_lr: float = 1e-3  # learning rate of the critic; K steps keep it ahead of the actor
    anneal_lr: bool = True  # lower both rates linearly, to 0 at total_timesteps
    critic_updates: int = 10  # K, gradient steps of the critic for one of the actor
    critic_loss: Literal["mse", "huber"] = "mse"  # huber gives less weight to outliers
    proximal_coef: float = 0.0  # kappa, weight of |w - w_old|^2; acts only if critic_updates > 1
    vf_coef: float = 0.5  # weight of the critic's loss; matters most beside kappa or if shared_body
    ent_coef: float = 0.0  # beta, weight of the entropy: keeps the policy from deciding too early
    norm_adv: bool = True  # advantages to mean 0, standard deviation 1: ent_coef suits any reward
    max_grad_norm: float = 0.5  # each network's gradient is clipped to this norm; inf: never
    hidden_sizes: tuple[int, ...] = (64, 64)  # units of each hidden layer
    activation: Literal["tanh", "relu"] = "relu"  # after each hidden layer
    log_std_init: float = -0.5  # log sigma at first; at 0 a third of the samples are out of bounds
    shared_body: bool = False  # one body with two heads, trained by the joint loss

    def __post_init__(self) -> None:
        low = {"seed": 0, "target_return": -np.inf, "num_steps": 2, "log_std_init": -5}
        high = {"seed": 2**64 - 1, "gamma": 1, "gae_lambda": 1, "log_std_init": 2}
        for name, value in asdict(self).items():
            if isinstance(value, np.generic | list):  # a checkpoint has plain numbers and tuples
                value = tuple(value) if isinstance(value, list) else value.item()
                object.__setattr__(self, name, value)
            counts = type(getattr(Args, name)) in (int, tuple)  # whole numbers: from 1
            least, most = low.get(name, int(counts)), high.get(name, np.inf)
            for x in value if isinstance(value, tuple) else (value,):
                if isinstance(x, int | float) and not least <= x <= most:
                    flag = "--" + name.replace("_", "-")
                    raise ValueError(f"{flag} must lie in [{least}, {most}], got {value}")


# THE EQUATIONS
def compute_gae(rewards, values, terminated, done, gamma: float, gae_lambda: float):
    """Generalised advantage estimation: A_t = sum over l of (gamma lambda)^l delta_t+l.

    `terminated` removes the bootstrap, `done` (terminated or truncated) ends the lambda-trace: at a
    time limit the episode is over, but the value of its last state has not become 0.
    Arrays or tensors alike: rewards, terminated, done (T, N) and values (T+1, N) -> (T, N).
    """
    advantages = rewards + gamma * values[1:] * ~terminated - values[:-1]  # delta_t, to begin with
    decay = gamma * gae_lambda * ~done
    for t in reversed(range(len(rewards) - 1)):  # the last row is complete
        advantages[t] += decay[t] * advantages[t + 1]
    return advantages


def policy_gradient_loss(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """Its gradient is -mean[A grad log pi(a|s)], the advantage being constant; (B,), (B,) -> ()."""
    assert log_probs.shape == advantages.shape  # (B,) times (B, 1) would be (B, B)
    return -(advantages.detach() * log_probs).mean()


def value_loss(values: Tensor, returns: Tensor, kind: str) -> Tensor:
    """Mean squared or Huber distance to the returns, which are constant; (B,), (B,) -> ()."""
    assert values.shape == returns.shape  # (B,) minus (B, 1) would be (B, B)
    return (F.huber_loss if kind == "huber" else F.mse_loss)(values, returns.detach())


def rescale(actions: np.ndarray, space: gym.spaces.Box) -> np.ndarray:
    """The environment's copy of the actions, clipped: -1 becomes low, 1 high."""
    share = (actions + 1) / 2
    return ((1 - share) * space.low + share * space.high).clip(space.low, space.high)


# THE NETWORKS
def mlp(sizes: tuple[int, ...], activation: str) -> nn.Sequential:
    """Linear layers with orthogonal weights, and an activation after each but the last."""
    layers: list[nn.Module] = []
    for n_in, n_out in zip(sizes, sizes[1:]):
        layers += [nn.Linear(n_in, n_out), {"tanh": nn.Tanh, "relu": nn.ReLU}[activation]()]
        nn.init.orthogonal_(layers[-2].weight, 2**0.5)
        nn.init.zeros_(layers[-2].bias)
    return nn.Sequential(*layers[:-1])


class RunningStatistics(nn.Module):
    """Mean and variance of all that was seen, batch by batch (Chan et al. 1983); in float64."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(shape, dtype=torch.float64))

    def _apply(self, fn, recurse=True):
        return self  # stays on the CPU, where the data are, and in float64, which mps has not

    def update(self, batch: np.ndarray) -> None:
        """Take in a batch (B, *shape)."""
        batch, share = torch.from_numpy(batch).double(), len(batch) / (self.count + len(batch))
        delta = batch.mean(0) - self.mean
        self.count += len(batch)
        self.var.lerp_(batch.var(0, correction=0), share).add_(share * (1 - share) * delta**2)
        self.mean += share * delta

    def forward(self, x: Tensor) -> Tensor:
        """(x - mean) / deviation, within 10 deviations."""
        mean, deviation = self.mean.to(x), (self.var + 1e-8).sqrt().to(x)
        return ((x - mean) / deviation).clamp(-10, 10)


class Agent(nn.Module):
    """Actor pi(a|s), a Gaussian with a network's mean and free deviations, and critic V(s)."""

    def __init__(self, obs_size: int, act_size: int, args: Args) -> None:
        super().__init__()
        self.actor = mlp((obs_size, *args.hidden_sizes, act_size), args.activation)
        self.critic = mlp((obs_size, *args.hidden_sizes, 1), args.activation)
        # Other gains for the last layers: the first policy is about the same in all states.
        nn.init.orthogonal_(self.actor[-1].weight, 0.01)
        nn.init.orthogonal_(self.critic[-1].weight, 1.0)
        if args.shared_body:
            self.critic = nn.Sequential(*self.actor[:-1], self.critic[-1])
        self.actor.log_std = nn.Parameter(torch.ones(act_size) * args.log_std_init)
        self.obs_statistics = RunningStatistics(obs_size) if args.norm_obs else nn.Identity()
        self.return_statistics = RunningStatistics()

    def value(self, obs: Tensor) -> Tensor:
        """V(s): (..., obs_size) -> (...)."""
        return self.critic(self.obs_statistics(obs)).squeeze(-1)

    def mean_and_log_std(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """mu(s) and log sigma: (..., obs_size) -> two of (..., act_size)."""
        mean = self.actor(self.obs_statistics(obs))
        return mean, self.actor.log_std.expand_as(mean)

    @torch.inference_mode()
    def act(self, obs: Tensor, greedy: bool = False) -> Tensor:
        """Actions drawn from pi, or its mean: (..., obs_size) -> (..., act_size)."""
        mean, log_std = self.mean_and_log_std(obs)
        return mean if greedy else mean + log_std.exp() * torch.randn_like(mean)

    def log_prob_and_entropy(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """log pi(a|s) and H(pi(.|s)): (B, obs_size), (B, act_size) -> (B,), (B,)."""
        mean, log_std = self.mean_and_log_std(obs)
        log_norm = log_std + 0.5 * np.log(2 * np.pi)
        log_pi = -0.5 * ((actions - mean) / log_std.exp()).pow(2) - log_norm
        return log_pi.sum(-1), (log_norm + 0.5).sum(-1)


def make_optimizer(agent: Agent, args: Args) -> torch.optim.Optimizer:
    """A group of weights for each network, or one if they share; `train` sets the rates."""
    networks = [agent] if args.shared_body else [agent.actor, agent.critic]
    groups = [{"params": list(network.parameters())} for network in networks]
    if args.optimizer == "adam":
        return torch.optim.Adam(groups, eps=1e-5, fused=True)
    return torch.optim.RMSprop(groups, eps=1e-5, foreach=True)


# THE ENVIRONMENTS
class InputError(ValueError):
    """What the user can mend: one line on stderr and exit status 2, no traceback."""


def make_envs(args: Args) -> tuple[gym.vector.VectorEnv, gym.Env]:
    """N environments to train in and one, as it is, to evaluate in; with flat observations."""
    try:
        env = gym.make(args.env_id)
    except (gym.error.Error, ImportError, TypeError, ValueError) as error:
        raise InputError(f"--env-id {args.env_id}: {error}") from error
    space = env.action_space
    vector = isinstance(space, gym.spaces.Box) and len(space.shape) == 1
    if not (vector and space.is_bounded() and np.issubdtype(space.dtype, np.floating)):
        hint = "no bounded vector of floats; for Discrete there is a2c_discrete.py"
        raise InputError(f"--env-id {args.env_id}: {env.action_space} is {hint}")
    if not env.observation_space.is_np_flattenable or len(env.observation_space.shape or ()) > 1:
        raise InputError(f"--env-id {args.env_id}: observes no vector, and these networks are MLPs")
    if args.capture_video:
        if "rgb_array" not in env.metadata.get("render_modes", ()):
            raise InputError(f"--capture-video: {args.env_id} draws no pictures")
        env = gym.make(args.env_id, render_mode="rgb_array")
    mode = None if args.vectorization == "auto" else args.vectorization
    envs = gym.make_vec(args.env_id, args.num_envs, vectorization_mode=mode)
    if envs.metadata.get("autoreset_mode") != gym.vector.AutoresetMode.NEXT_STEP:
        raise InputError(f"--vectorization: {args.env_id} resets within a step, use sync")
    flat = gym.wrappers.FlattenObservation(env)
    if flat.observation_space != env.observation_space:
        envs = gym.wrappers.vector.FlattenObservation(envs)
    return envs, flat


# EVALUATE, SAVE, LOAD
def evaluate(agent: Agent, env: gym.Env, num_episodes: int) -> list[float]:
    """Returns of complete episodes of the greedy policy; the seeds are the same in every run."""
    # A greedy policy may walk in circles: where the environment sets no limit to that, this does.
    env = gym.wrappers.TimeLimit(env, env.unwrapped.spec.max_episode_steps or 10_000)
    returns, device = [0.0] * num_episodes, next(agent.parameters()).device
    for episode in range(num_episodes):
        (obs, _), done = env.reset(seed=episode), False
        while not done:
            obs = torch.as_tensor(obs, dtype=torch.float32, device=device)
            action = rescale(agent.act(obs, greedy=True).cpu().numpy(), env.action_space)
            obs, reward, terminated, truncated, _ = env.step(action)
            returns[episode] += float(reward)
            done = terminated or truncated
    return returns


def load(path: str, **expected) -> dict:
    """Read a checkpoint of this script whose args are as expected."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = state["args"] | {"script": state["script"]}
    except Exception as error:  # which one depends on what the foreign file holds
        reason = "no such file" if isinstance(error, FileNotFoundError) else "not a checkpoint"
        raise InputError(f"--resume {path}: {reason}") from error
    for name, value in {"script": Path(__file__).stem, **expected}.items():
        if found.get(name) != value:
            raise InputError(f"--resume {path}: made with {name} {found.get(name)}, not {value}")
    if state["args"].keys() != asdict(Args()).keys():
        raise InputError(f"--resume {path}: made by another version of this script")
    return state


def start_run(args: Args) -> tuple[Path, SummaryWriter]:
    """Make the folder <log_dir>/<env_id>__<script>__<seed>__<unix time>, new and writable."""
    name = f"{args.env_id}__{Path(__file__).stem}__{args.seed}__{time.time():.6f}"
    folder = Path(args.log_dir, name.replace("/", "_").replace(":", "_"))
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"--log-dir: cannot make {folder}: {error.strerror}") from error
    print(f"run folder: {folder}\nto watch it: tensorboard --logdir {args.log_dir}", flush=True)
    writer = SummaryWriter(folder, flush_secs=10)  # and so long close() may take after a Ctrl-C
    rows = "\n".join(f"|{name}|{value}|" for name, value in asdict(args).items())
    writer.add_text("hyperparameters", f"|flag|value|\n|-|-|\n{rows}")
    return folder, writer


# LEARN
def update(agent: Agent, optimizer: torch.optim.Optimizer, rollout: tuple, args: Args) -> dict:
    """K steps for the critic, the last of them also the actor's; returns what to log of it.

    The rollout: obs (T+1, N, obs_size), then actions, rewards, terminated, done, live (T, N, ...).
    """
    obs, actions, rewards, terminated, done, live = rollout
    device = next(agent.parameters()).device
    if args.norm_reward:
        rewards = (rewards / (agent.return_statistics.var.item() + 1e-8) ** 0.5).clip(-10, 10)
    obs, mask = torch.from_numpy(obs).to(device), torch.from_numpy(live).to(device)
    batch_obs, batch_actions = obs[:-1][mask], torch.from_numpy(actions[live]).to(device)
    w_old = nn.utils.parameters_to_vector(agent.critic.parameters()).detach()
    for k in range(1, args.critic_updates + 1):
        all_values = agent.value(obs)  # (T+1, N)
        v = all_values.detach().cpu().numpy()  # short loops are faster in NumPy
        gae = compute_gae(rewards, v, terminated, done, args.gamma, args.gae_lambda)
        advantages = torch.from_numpy(gae[live]).to(device)  # (T, N) -> (B,), without the resets
        values = all_values[:-1][mask]
        returns = advantages + values.detach()
        critic_loss = value_loss(values, returns, args.critic_loss)
        loss = args.vf_coef * critic_loss
        if args.proximal_coef:
            w = nn.utils.parameters_to_vector(agent.critic.parameters())
            loss = loss + args.proximal_coef * (w - w_old).pow(2).sum()
        if k == args.critic_updates:  # the actor joins in
            if args.norm_adv:  # by the population's deviation: a batch of one gives 0, not NaN
                deviation = advantages.std(correction=0) + 1e-8
                advantages = (advantages - advantages.mean()) / deviation
            log_probs, entropies = agent.log_prob_and_entropy(batch_obs, batch_actions)
            actor_loss, entropy = policy_gradient_loss(log_probs, advantages), entropies.mean()
            loss = loss + actor_loss - args.ent_coef * entropy
        optimizer.zero_grad()  # to None: the optimizer skips the actor until it joins in
        loss.backward()
        groups = [group["params"] for group in optimizer.param_groups]
        norms = [nn.utils.clip_grad_norm_(group, args.max_grad_norm) for group in groups]
        optimizer.step()
    agent.actor.log_std.data.clamp_(-5, 2)  # where exp is harmless
    losses = {"policy_loss": actor_loss, "value_loss": critic_loss, "entropy": entropy}
    unexplained = (returns - values).var(correction=0) / returns.var(correction=0)
    return losses | {"grad_norm": torch.stack(norms).norm(), "explained_variance": 1 - unexplained}


def train(args: Args) -> tuple[Agent, list[tuple[int, float, int]]]:
    """Train, save, evaluate. Returns the agent and its episodes: (global step, return, length)."""
    torch.set_num_threads(args.torch_threads)
    torch.manual_seed(args.seed)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if args.device not in ("auto", "cpu", device.type):
        raise InputError(f"--device {args.device}: not on this machine, use {device.type}")
    device = device if args.device == "auto" else torch.device(args.device)
    if args.shared_body and args.critic_updates > 1:
        raise InputError("--shared-body has one joint loss: it needs --critic-updates 1")
    envs, eval_env = make_envs(args)
    obs_size, act_size = eval_env.observation_space.shape[0], eval_env.action_space.shape[0]
    agent = Agent(obs_size, act_size, args).to(device)
    optimizer = make_optimizer(agent, args)
    global_step, episodes = 0, []
    if args.resume:
        same = ("env_id", "hidden_sizes", "activation", "shared_body", "optimizer", "norm_obs")
        state = load(args.resume, **{name: getattr(args, name) for name in same})
        try:
            agent.load_state_dict(state["agent"])
            optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["rng"])
            global_step, episodes = state["global_step"], state["episodes"]
        except (KeyError, RuntimeError, ValueError) as error:  # sizes that have changed since
            reason = f"holds no agent for {args.env_id} as it is now"
            raise InputError(f"--resume {args.resume}: {reason}") from error
    folder, writer = start_run(args)
    if args.capture_video:
        eval_env = gym.wrappers.RecordVideo(eval_env, str(folder / "videos"), lambda episode: True)

    def save() -> None:
        state = {"script": Path(__file__).stem, "args": asdict(args), "global_step": global_step}
        state |= {"agent": agent.state_dict(), "optimizer": optimizer.state_dict()}
        state |= {"rng": torch.get_rng_state(), "episodes": episodes[-100:]}
        torch.save(state, folder / "checkpoint.tmp")
        (folder / "checkpoint.tmp").replace(folder / "checkpoint.pt")  # a kill leaves a whole one

    # A rollout. Row t is the transition that leaves s_t: rewards[t] is r_t+1, and obs[t + 1] is the
    # true successor also where an episode ends. The step after an end goes into the reset: it is no
    # transition, its row is not `live`, and it is neither counted nor learned from.
    T, N = args.num_steps, args.num_envs
    obs = np.zeros((T + 1, N, obs_size), np.float32)
    actions, rewards = np.zeros((T, N, act_size), np.float32), np.zeros((T, N), np.float32)
    terminated, done, live = np.zeros((3, T, N), bool)
    rollout = (obs, actions, rewards, terminated, done, live)
    discounted = np.zeros((T, N))  # R_t = r_t+1 + gamma R_t-1: what came so far, not what will come
    episode_return, episode_length = np.zeros(N), np.zeros(N, int)
    # A seed made of seed and step: neighbouring runs share no episodes, resumed ones repeat none.
    seed = int(np.random.SeedSequence([args.seed, global_step]).generate_state(1)[0])
    obs[T], _ = envs.reset(seed=seed)
    if device.type != "cpu":  # the checkpoint holds the CPU's generator only
        torch.manual_seed(seed)

    def solved() -> bool:
        recent = [r for _, r, _ in episodes[-100:]]
        return len(recent) == 100 and np.mean(recent) >= args.target_return

    start_step, num_logged, log_time = global_step, len(episodes), 0.0
    start_time = save_time = time.time()
    bar = tqdm(total=args.total_timesteps, initial=global_step, unit="step", mininterval=0.5)
    finished = solved() or global_step >= args.total_timesteps
    try:
        while not finished:
            # COLLECT T steps of N environments.
            obs[0] = obs[T]
            for t in range(T):
                actions[t] = agent.act(torch.from_numpy(obs[t]).to(device)).cpu()
                step = envs.step(rescale(actions[t], envs.single_action_space))
                obs[t + 1], rewards[t], terminated[t], truncated, _ = step
                live[t] = ~done[t - 1]  # for t = 0, the last row of the rollout before
                done[t] = terminated[t] | truncated
                discounted[t] = (rewards[t] + args.gamma * discounted[t - 1]) * live[t]
                global_step += int(live[t].sum())
                if not np.isfinite(obs[t + 1]).all():
                    raise FloatingPointError(f"step {global_step}: NaN or inf in observation")
                episode_return += rewards[t] * live[t]
                episode_length += live[t]
                for i in np.flatnonzero(done[t]):
                    episodes.append((global_step, float(episode_return[i]), int(episode_length[i])))
                    episode_return[i] = episode_length[i] = 0

            # LEARN from the B live transitions.
            remaining = max(0, 1 - global_step / args.total_timesteps) if args.anneal_lr else 1
            rates = (args.actor_lr, args.critic_lr)  # a shared body has one group: actor_lr
            for group, rate in zip(optimizer.param_groups, rates):
                group["lr"] = rate * remaining
            if args.norm_reward:
                agent.return_statistics.update(discounted[live])
            losses = update(agent, optimizer, rollout, args)
            if not losses["grad_norm"].isfinite():
                raise FloatingPointError(f"step {global_step}: NaN or inf in reward or gradient")
            if args.norm_obs:  # only now: update() has to see the policy as it acted
                agent.obs_statistics.update(obs[:-1][live])

            # REPORT
            finished = solved() or global_step >= args.total_timesteps
            bar.update(global_step - bar.n)
            if finished or time.time() >= log_time + 0.25:  # oftener, it costs a tenth of the run
                log_time = time.time()
                scalars = {f"losses/{name}": value for name, value in losses.items()}
                scalars["charts/SPS"] = (global_step - start_step) / (log_time - start_time)
                if new := episodes[num_logged:]:
                    num_logged = len(episodes)
                    means = np.mean(new, axis=0)
                    _, scalars["charts/episodic_return"], scalars["charts/episodic_length"] = means
                    last_100 = np.mean(episodes[-100:], axis=0)[1]
                    bar.set_postfix_str(f"return {last_100:.1f}", refresh=False)
                for tag, value in scalars.items():
                    writer.add_scalar(tag, value, global_step)
            if time.time() >= save_time + args.checkpoint_interval:
                save_time = time.time()
                save()
    except KeyboardInterrupt:
        save()
        bar.write(f"stopped at step {global_step}: go on with --resume {folder / 'checkpoint.pt'}")
        if args.vectorization == "async":  # half an answer may be in a pipe: no more talk with them
            for worker in envs.unwrapped.processes:
                worker.terminate()
            envs.unwrapped.closed = True
        raise
    finally:
        bar.close()
        writer.close()
        envs.close()
    seconds = f"{time.time() - start_time:.2f} s"
    print(f"trained: {global_step - start_step} steps in {seconds}")
    if solved():
        print(f"target return {args.target_return} reached at step {global_step} after {seconds}")
    save()
    returns = evaluate(agent, eval_env, args.eval_episodes)
    eval_env.close()
    score = f"{np.mean(returns):.2f} +- {np.std(returns):.2f}"
    print(f"evaluation: return {score} over {len(returns)} episodes")
    return agent, episodes


def ignore_interrupts() -> None:
    """In a worker: an interrupt is for the parent to handle, which then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


if __name__ == "__main__":
    try:
        args = tyro.cli(Args, description=__doc__.split("\n\n")[0])
        if args.resume:  # once more, now with the checkpoint's flags for those not given
            args = tyro.cli(Args, default=Args(**load(args.resume)["args"]))
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the run as Ctrl-C does
        if hasattr(os, "register_at_fork"):  # not on Windows; for --vectorization async
            os.register_at_fork(after_in_child=ignore_interrupts)
        train(args)
    except (InputError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)

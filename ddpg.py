"""Deep deterministic policy gradient (DDPG): an actor climbs its critic, off-policy, from a buffer.

After Lillicrap et al. 2015, algorithm 1. The policy is deterministic: it gives an action pi(s), not
a distribution. Each step: act with noise, store the transition, learn from B stored ones.

    y        = r + gamma Q'(s', pi'(s'))                       Q' = 0 in a terminal state
    L_critic = mean[(y - Q(s, a))^2]
    L_actor  = -mean[Q(s, pi(s))]                              for the weights of pi only
    w'       = tau w + (1 - tau) w'                            the targets Q', pi': slow copies

Why this improves the policy: the best action is hard to find, so take one gradient step towards it,
a+ = pi(s) + grad_a Q(s, a) at a = pi(s), and learn it by regression. With a+ held fixed,
(pi(s) - a+)^2 / 2 has the gradient -grad_a Q grad_theta pi, which is that of L_actor; minus, as
optimizers descend. The step is only as right as Q. And Q is that of the policy as it is now, or
nearly: the target takes pi' in s', whatever was done at the time, so old transitions can be used,
without importance weights.

At a time limit the episode is over, but s' is not terminal: it is bootstrapped. Actions are kept in
half-ranges, so that -1 and 1 are the bounds of a dimension, and mapped to them for the environment;
the noise has the same unit.

Differences from the paper: Gaussian noise (--noise ou --exploration-noise 0.2 is the paper's),
uniformly random actions at first, actions that enter the critic with its first layer, no batch
normalisation, no weight decay, other sizes and rates (--hidden-sizes 400 300 --actor-lr 1e-4
--tau 0.001 are the paper's). Two ideas of TD3 (Fujimoto et al. 2018) are there, but off:
--policy-frequency 2, an actor that moves at every second update only (in TD3 so do the targets),
and --twin-critics, two critics that learn from the smaller one of their target values.

    python ddpg.py           learns Pendulum-v1 in about a minute and ends with a line like
                             `evaluation: return -132.00 +- 82.00 over 10 episodes`
    python ddpg.py --help    lists the flags
"""

# /// script
# requires-python = ">=3.10"
# dependencies = ["torch>=2.7", "gymnasium[classic-control,box2d,mujoco]>=1.1", "tyro>=0.9",
#   "numpy>=1.26", "tensorboard>=2.16", "tqdm>=4.66", "moviepy>=2.0"]
# ///
import copy
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


@dataclass(frozen=True)
class Args:
    # Run
    seed: int = 0  # the same seed, machine and versions give the same result, bit for bit
    total_timesteps: int = 10_000  # environment steps; from learning_starts on, an update each
    device: Literal["cpu", "cuda", "mps", "auto"] = "cpu"  # cpu is fastest for small networks
    torch_threads: int = 1  # for networks this small, more threads are slower
    log_dir: str = "runs"  # every run makes a new folder in it
    eval_episodes: int = 10  # complete episodes of the greedy policy, played after training
    capture_video: bool = False  # film the evaluation
    target_return: float = np.inf  # stop once the last 100 episodes average this or more
    checkpoint_interval: float = 60.0  # seconds between two checkpoints
    save_buffer: bool = False  # save the transitions, too; else a resumed run collects them anew
    resume: str | None = None  # continue a checkpoint.pt; its flags are the command line's defaults
    # Environment
    env_id: str = "Pendulum-v1"  # a Gymnasium id: bounded Box actions, no image, episodes that end
    # Algorithm
    gamma: float = 0.99  # discount; nearer to 1 where the reward comes hundreds of steps late
    buffer_size: int = 1_000_000  # transitions kept; the oldest go first
    batch_size: int = 64  # B, transitions for one update; 256 where there is time
    learning_starts: int = 1_000  # transitions, of random actions, before the first update
    actor_lr: float = 1e-3  # learning rate of the actor (Adam)
    critic_lr: float = 1e-3  # learning rate of the critic (Adam)
    tau: float = 0.005  # share of the new weights that enters the targets in each update
    noise: Literal["gaussian", "ou"] = "gaussian"  # ou: Ornstein-Uhlenbeck, correlated in time
    exploration_noise: float = 0.1  # standard deviation (of ou: of its steps), in half-ranges
    policy_frequency: int = 1  # updates of the critic for one of the actor; TD3 has 2
    twin_critics: bool = False  # learn from the smaller of two values, against overestimation
    hidden_sizes: tuple[int, ...] = (256, 256)  # units of each hidden layer
    activation: Literal["tanh", "relu"] = "relu"  # after each hidden layer

    def __post_init__(self) -> None:
        low = {"seed": 0, "target_return": -np.inf}
        high = {"seed": 2**64 - 1, "gamma": 1, "tau": 1}
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
def td_target(rewards: Tensor, next_q: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    """y = r + gamma Q'(s', pi'(s')), Q' = 0 in a terminal state; (B,) each -> (B,)."""
    return rewards + gamma * (1 - terminated) * next_q


def critic_loss(q: Tensor, y: Tensor) -> Tensor:
    """Mean squared distance to the target, summed over C critics; (C, B), (B,) -> ()."""
    assert q.shape[1:] == y.shape  # (B,) minus (B, 1) would be (B, B)
    return (y.detach() - q).pow(2).mean(-1).sum()


def actor_loss(q: Tensor) -> Tensor:
    """-mean Q(s, pi(s)): its gradient in pi's weights is -mean[grad_a Q grad_theta pi]."""
    return -q.mean()


@torch.no_grad()
def polyak_update(source: nn.Module, target: nn.Module, tau: float) -> None:
    """target <- tau source + (1 - tau) target, weight by weight."""
    for w, w_target in zip(source.parameters(), target.parameters()):
        w_target.lerp_(w, tau)


def rescale(actions: np.ndarray, space: gym.spaces.Box) -> np.ndarray:
    """The environment's copy of the actions, clipped: -1 becomes low, 1 high."""
    share = (actions + 1) / 2
    return ((1 - share) * space.low + share * space.high).clip(space.low, space.high)


# THE NETWORKS
def mlp(sizes: tuple[int, ...], activation: str) -> nn.Sequential:
    """Linear layers, with an activation after each but the last.

    As in the paper the last layer starts within 3e-3, so that the first actions and values are near
    0, where tanh has a slope; the other layers start as torch has it, which is the paper's way too.
    """
    layers: list[nn.Module] = []
    for n_in, n_out in zip(sizes, sizes[1:]):
        hidden = nn.Tanh() if activation == "tanh" else nn.ReLU(inplace=True)  # spares a copy
        layers += [nn.Linear(n_in, n_out), hidden]
    for parameter in layers[-2].parameters():  # weights and biases of the last Linear
        nn.init.uniform_(parameter, -3e-3, 3e-3)
    return nn.Sequential(*layers[:-1])


class Agent(nn.Module):
    """Actor pi(s), with actions from -1 to 1, and C critics Q(s, a); the target is its copy."""

    def __init__(self, obs_size: int, act_size: int, args: Args) -> None:
        super().__init__()
        self.noise, self.exploration_noise = torch.zeros(act_size), args.exploration_noise
        # Ornstein-Uhlenbeck noise keeps 85 % of what it was: theta is the paper's 0.15, dt is 1.
        self.noise_kept = 0.85 if args.noise == "ou" else 0.0
        self.actor = mlp((obs_size, *args.hidden_sizes, act_size), args.activation)
        sizes = (obs_size + act_size, *args.hidden_sizes, 1)
        critics = [mlp(sizes, args.activation) for _ in range(1 + args.twin_critics)]
        self.critics = nn.ModuleList(critics)

    def pi(self, obs: Tensor) -> Tensor:
        """pi(s), within -1 and 1: (..., obs_size) -> (..., act_size)."""
        return self.actor(obs).tanh()

    def q(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Q(s, a) of each critic: (B, obs_size), (B, act_size) -> (C, B)."""
        both = torch.cat((obs, actions), -1)
        return torch.stack([critic(both).squeeze(-1) for critic in self.critics])

    @torch.inference_mode()
    def act(self, obs: Tensor, greedy: bool = False) -> Tensor:
        """pi(s), with noise unless greedy: (..., obs_size) -> (..., act_size)."""
        mean = self.pi(obs)
        if greedy:
            return mean
        noise = self.exploration_noise * torch.randn_like(mean)
        if self.noise_kept and self.noise.shape == noise.shape:  # else it starts from 0
            noise += self.noise_kept * self.noise.to(mean)
        self.noise = noise
        return (mean + noise).clamp(-1, 1)


# THE REPLAY BUFFER
class ReplayBuffer:
    """The last `capacity` transitions, each a row of one float32 tensor; the oldest go first."""

    def __init__(self, capacity: int, obs_size: int, act_size: int, device="cpu") -> None:
        self.sizes = (obs_size, act_size, 1, obs_size, 1)
        try:
            # Not torch.empty, which would take the memory page by page in the hours to come.
            self.rows = torch.zeros(capacity, sum(self.sizes), device=device)
        except (RuntimeError, TypeError) as error:
            gib = capacity * sum(self.sizes) * 4 / 2**30
            raise InputError(f"--buffer-size {capacity}: {gib:,.1f} GiB are too many") from error
        self.num_added = 0

    def __len__(self) -> int:
        return min(self.num_added, len(self.rows))

    def add(self, obs, action, reward: float, next_obs, terminated: bool) -> bool:
        """Take in a transition, if it is finite; next_obs is the true successor, never a reset."""
        row = np.concatenate((obs, action, [reward], next_obs, [terminated]), dtype=np.float32)
        if finite := bool(np.isfinite(row).all()):
            self.rows[self.num_added % len(self.rows)] = torch.from_numpy(row)
            self.num_added += 1
        return finite

    def oldest_first(self) -> Tensor:
        """A copy of what is in it, (len, row), on the CPU."""
        oldest = self.num_added % len(self.rows)  # not full yet: len, and the roll changes nothing
        return self.rows[: len(self)].cpu().roll(-oldest, 0)

    def fill(self, rows: Tensor) -> None:
        """Start from what `oldest_first` gave, or as much of it as there is room for."""
        rows = rows[-len(self.rows) :]
        self.rows[: len(rows)] = rows
        self.num_added = len(rows)

    def sample(self, batch_size: int) -> tuple[Tensor, ...]:
        """B of them, drawn with replacement: obs, actions, rewards, next_obs, terminated."""
        index = torch.randint(len(self), (batch_size,), device=self.rows.device)
        obs, actions, rewards, next_obs, terminated = self.rows[index].split(self.sizes, 1)
        return obs, actions, rewards.squeeze(1), next_obs, terminated.squeeze(1)


# THE ENVIRONMENT
class InputError(ValueError):
    """What the user can mend: one line on stderr and exit status 2, no traceback."""


def make_env(args: Args, render_mode: str | None = None) -> gym.Env:
    """One environment, with flat observations."""
    try:
        env = gym.make(args.env_id, **({"render_mode": render_mode} if render_mode else {}))
    except (gym.error.Error, ImportError, TypeError, ValueError) as error:
        raise InputError(f"--env-id {args.env_id}: {error}") from error
    space = env.action_space
    vector = isinstance(space, gym.spaces.Box) and len(space.shape) == 1
    if not (vector and space.is_bounded() and np.issubdtype(space.dtype, np.floating)):
        hint = "no bounded vector of floats; for Discrete there is a2c_discrete.py"
        raise InputError(f"--env-id {args.env_id}: {env.action_space} is {hint}")
    if not env.observation_space.is_np_flattenable or len(env.observation_space.shape or ()) > 1:
        raise InputError(f"--env-id {args.env_id}: observes no vector, and these networks are MLPs")
    if args.capture_video and "rgb_array" not in env.metadata.get("render_modes", ()):
        raise InputError(f"--capture-video: {args.env_id} draws no pictures")
    return gym.wrappers.FlattenObservation(env)


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
def update(
    agent: Agent, target: Agent, optimizer, batch: tuple, args: Args, improve: bool, report: bool
) -> dict:
    """A step of the critic, one of the actor if `improve`, and the targets follow.

    The batch: obs, actions, rewards, next_obs, terminated. The optimizer has both networks, the
    actor's weights first. Returns what to log, more if `report`.
    """
    obs, actions, rewards, next_obs, terminated = batch
    actor_weights, critic_weights = (group["params"] for group in optimizer.param_groups)
    with torch.no_grad():
        next_q = target.q(next_obs, target.pi(next_obs)).amin(0)  # (C, B) -> (B,)
        y = td_target(rewards, next_q, terminated, args.gamma)
    q = agent.q(obs, actions)  # (C, B)
    loss = critic_loss(q, y)
    optimizer.zero_grad()  # to None: the optimizer skips the network that the loss is not about
    loss.backward()
    optimizer.step()
    losses = {"value_loss": loss.detach()}
    if report:
        unexplained = (y - q).var(correction=0) / y.var(correction=0)
        losses |= {"q_values": q.mean(), "explained_variance": 1 - unexplained}
        losses["grad_norm"] = nn.utils.get_total_norm([w.grad for w in critic_weights])
    if improve:
        pi = agent.pi(obs)
        loss = actor_loss(agent.q(obs, pi)[0])  # of twins, the first
        optimizer.zero_grad()
        loss.backward(inputs=actor_weights)  # the critic's weights need none
        optimizer.step()
        losses["policy_loss"] = loss.detach()
        if report:
            losses["saturated_actions"] = (pi.abs() > 0.99).float().mean()
            norm = nn.utils.get_total_norm([w.grad for w in actor_weights])
            losses["grad_norm"] = losses["grad_norm"].hypot(norm)
    polyak_update(agent, target, args.tau)
    return losses


@torch.no_grad()
def overestimation(agent: Agent, episode: list, last_obs, terminated: bool, gamma: float) -> float:
    """Mean of Q(s_t, a_t) - G_t over an episode of (obs, action, reward): expected less actual.

    Q is that at the end of the episode. After a time limit Q(s', pi(s')) stands in for the rest. Q
    is about the return without noise, which is mostly higher than G_t, whose actions had it.
    """
    device = next(agent.parameters()).device
    obs, actions, rewards = (np.array(column, np.float32) for column in zip(*episode))
    last = torch.as_tensor(last_obs, dtype=torch.float32, device=device).unsqueeze(0)
    returns = np.append(rewards, 0 if terminated else agent.q(last, agent.pi(last)).amin().item())
    for t in reversed(range(len(rewards))):
        returns[t] += gamma * returns[t + 1]
    q = agent.q(torch.from_numpy(obs).to(device), torch.from_numpy(actions).to(device)).amin(0)
    return q.mean().item() - returns[:-1].mean()


def train(args: Args) -> tuple[Agent, list[tuple[int, float, int]]]:
    """Train, save, evaluate. Returns the agent and its episodes: (global step, return, length)."""
    torch.set_num_threads(args.torch_threads)
    torch.manual_seed(args.seed)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if args.device not in ("auto", "cpu", device.type):
        raise InputError(f"--device {args.device}: not on this machine, use {device.type}")
    device = device if args.device == "auto" else torch.device(args.device)
    env, eval_env = make_env(args), make_env(args, "rgb_array" if args.capture_video else None)
    obs_size, act_size = eval_env.observation_space.shape[0], eval_env.action_space.shape[0]
    agent = Agent(obs_size, act_size, args).to(device)
    target = copy.deepcopy(agent).requires_grad_(False)
    groups = [{"params": agent.actor.parameters(), "lr": args.actor_lr}]
    groups += [{"params": agent.critics.parameters(), "lr": args.critic_lr}]
    optimizer = torch.optim.Adam(groups, fused=True)
    # Adam's memory of a dead unit halves every 7 steps, and below 1e-38 a CPU is slow: make it 0.
    torch.set_flush_denormal(True)
    if args.learning_starts > args.buffer_size:
        raise InputError(f"--learning-starts must be at most --buffer-size, {args.buffer_size}")
    buffer = ReplayBuffer(args.buffer_size, obs_size, act_size, device)
    global_step, episodes = 0, []
    if args.resume:
        same = ("env_id", "hidden_sizes", "activation", "twin_critics")
        state = load(args.resume, **{name: getattr(args, name) for name in same})
        try:
            agent.load_state_dict(state["agent"])
            target.load_state_dict(state["target"])
            moments = {"state": state["optimizer"]["state"]}  # the rates are those of the flags
            optimizer.load_state_dict(optimizer.state_dict() | moments)
            if "buffer" in state:  # without it the steps up to --learning-starts fill a new one
                buffer.fill(state.pop("buffer"))
            torch.set_rng_state(state["rng"])
            global_step, episodes = state["global_step"], state["episodes"]
        except (KeyError, RuntimeError, ValueError) as error:  # sizes that have changed since
            reason = f"holds no agent for {args.env_id} as it is now"
            raise InputError(f"--resume {args.resume}: {reason}") from error
    folder, writer = start_run(args)
    print(f"replay buffer: {args.buffer_size:,} transitions, {buffer.rows.nbytes / 2**30:.2f} GiB")
    if args.capture_video:
        eval_env = gym.wrappers.RecordVideo(eval_env, str(folder / "videos"), lambda episode: True)

    def save() -> None:
        state = {"script": Path(__file__).stem, "args": asdict(args), "global_step": global_step}
        state |= {"agent": agent.state_dict(), "optimizer": optimizer.state_dict()}
        state |= {"target": target.state_dict()}
        if args.save_buffer:
            state |= {"buffer": buffer.oldest_first()}
        state |= {"rng": torch.get_rng_state(), "episodes": episodes[-100:]}
        torch.save(state, folder / "checkpoint.tmp")
        (folder / "checkpoint.tmp").replace(folder / "checkpoint.pt")  # a kill leaves a whole one

    # A seed made of seed and step: neighbouring runs share no episodes, resumed ones repeat none.
    seed = int(np.random.SeedSequence([args.seed, global_step]).generate_state(1)[0])
    reset_seed, episode_over, overestimated = seed, True, []
    if device.type != "cpu":  # the checkpoint holds the CPU's generator only
        torch.manual_seed(seed)

    def solved() -> bool:
        recent = [r for _, r, _ in episodes[-100:]]
        return len(recent) == 100 and np.mean(recent) >= args.target_return

    start_step, num_logged = global_step, len(episodes)
    start_time = save_time = log_time = time.time()
    bar = tqdm(total=args.total_timesteps, initial=global_step, unit="step", mininterval=0.5)
    finished = solved() or global_step >= args.total_timesteps
    try:
        while not finished:
            # COLLECT one step, with uniformly random actions until the first update.
            if episode_over:
                obs, _ = env.reset(seed=reset_seed)
                reset_seed, episode = None, []
                agent.noise = torch.zeros(act_size)
            if not optimizer.state:  # no update yet, not even before a resume
                action = (2 * torch.rand(act_size) - 1).numpy()
            else:
                action = agent.act(torch.as_tensor(obs, dtype=torch.float32, device=device))
                action = action.cpu().numpy()
                if not np.isfinite(action).all():
                    where = "first observation or weights"
                    raise FloatingPointError(f"step {global_step + 1}: NaN or inf in {where}")
            next_obs, reward, terminated, truncated, _ = env.step(rescale(action, env.action_space))
            global_step, episode_over = global_step + 1, terminated or truncated
            if not buffer.add(obs, action, reward, next_obs, terminated):
                raise FloatingPointError(f"step {global_step}: NaN or inf in the transition")
            episode.append((obs, action, float(reward)))
            obs = next_obs
            if episode_over:
                episodes.append((global_step, sum(r for _, _, r in episode), len(episode)))
                if optimizer.state:
                    error = overestimation(agent, episode, next_obs, terminated, args.gamma)
                    overestimated.append(error)

            # LEARN from B random stored transitions.
            losses, improve = {}, global_step % args.policy_frequency == 0
            finished = global_step >= args.total_timesteps or (episode_over and solved())
            now = time.time()
            save_due = now >= save_time + args.checkpoint_interval
            # Only where both networks are updated, or at the end.
            report = finished or (improve and (save_due or now >= log_time + 0.25))
            if len(buffer) >= args.learning_starts:
                batch = buffer.sample(args.batch_size)
                losses = update(agent, target, optimizer, batch, args, improve, report)
                vital = {"value_loss", "policy_loss", "grad_norm"} & losses.keys()
                if not all(losses[name].isfinite() for name in vital):
                    raise FloatingPointError(f"step {global_step}: NaN or inf in loss or gradient")

            # REPORT
            if report:
                bar.update(global_step - bar.n)
                log_time = time.time()
                scalars = {f"losses/{name}": value for name, value in losses.items()}
                scalars["charts/SPS"] = (global_step - start_step) / (log_time - start_time)
                if new := episodes[num_logged:]:
                    num_logged = len(episodes)
                    means = np.mean(new, axis=0)
                    _, scalars["charts/episodic_return"], scalars["charts/episodic_length"] = means
                    last_100 = np.mean(episodes[-100:], axis=0)[1]
                    bar.set_postfix_str(f"return {last_100:.1f}", refresh=False)
                if overestimated:
                    scalars["losses/overestimation"] = np.mean(overestimated)
                    overestimated.clear()
                for tag, value in scalars.items():
                    writer.add_scalar(tag, value, global_step)
                if save_due:  # only where the gradients, if any, were found to be finite
                    save_time = time.time()
                    save()
    except KeyboardInterrupt:
        save()
        bar.write(f"stopped at step {global_step}: go on with --resume {folder / 'checkpoint.pt'}")
        raise
    finally:
        bar.close()
        writer.close()
        env.close()
    seconds = f"{time.time() - start_time:.2f} s"
    print(f"trained: {global_step - start_step} steps in {seconds}")
    if start_step < global_step and len(buffer) < args.learning_starts:
        print(f"nothing learned: {len(buffer)} steps of --learning-starts {args.learning_starts}")
    if solved():
        print(f"target return {args.target_return} reached at step {global_step} after {seconds}")
    save()
    returns = evaluate(agent, eval_env, args.eval_episodes)
    eval_env.close()
    score = f"{np.mean(returns):.2f} +- {np.std(returns):.2f}"
    print(f"evaluation: return {score} over {len(returns)} episodes")
    return agent, episodes


if __name__ == "__main__":
    try:
        args = tyro.cli(Args, description=__doc__.split("\n\n")[0])
        if args.resume:  # once more, now with the checkpoint's flags for those not given
            args = tyro.cli(Args, default=Args(**load(args.resume)["args"]))
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the run as Ctrl-C does
        train(args)
    except (InputError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)

"""REINFORCE, the Monte-Carlo policy gradient, with a choice of baselines.

N whole sessions (episodes) are played with the policy pi(a|s, theta). Then each action is made more
likely, or less, by how much better than a baseline b(s) the rest of its session went.

    G_t      = r_t+1 + gamma G_t+1                             the return, to the end of the session
    L_actor  = -mean over sessions of sum over t of (G_t - b(s_t)) log pi(a_t|s_t)
    L_V      = mean[(G_t - V(s_t))^2]                          K steps; only for b = V

    --baseline none     b = 0 (Sutton and Barto 2018, section 13.3)
    --baseline mean     b = moving average of the G_t of earlier sessions
    --baseline value    b = V(s_t), learned (section 13.4)

As long as the baseline does not depend on the action, the expected gradient stays the same and only
its variance changes (TensorBoard: losses/policy_gradient_variance, of the gradient before it is
clipped). So V is trained only after it has been used: fitted to these very returns first, it would
depend on the actions behind them. It is a baseline and no critic, although its flags are named as
in the other scripts: it never stands in for rewards, nothing is bootstrapped. The one
exception is a session that a time limit ended, whose lost rest V can estimate (--bootstrap).

The gamma^t in Sutton and Barto's box, with which the late steps of a session count for less, is
left out, as practice does; --discount-policy-gradient puts it back.

    python reinforce_baseline.py          solves CartPole-v1 in seconds and ends with a line like
                                          `evaluation: return 500.00 +- 0.00 over 10 episodes`
    python reinforce_baseline.py --help   lists the flags
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
    total_timesteps: int = 300_000  # environment steps, of all sessions together
    device: Literal["cpu", "cuda", "mps", "auto"] = "cpu"  # cpu is fastest for small networks
    torch_threads: int = 1  # for networks this small, more threads are slower
    log_dir: str = "runs"  # every run makes a new folder in it
    eval_episodes: int = 10  # complete episodes of the greedy policy, played after training
    capture_video: bool = False  # film the evaluation
    target_return: float = np.inf  # stop once the last 100 episodes average this or more
    checkpoint_interval: float = 60.0  # seconds between two checkpoints
    resume: str | None = None  # continue a checkpoint.pt; its flags are the command line's defaults
    # Environment
    env_id: str = "CartPole-v1"  # a Gymnasium id: Discrete actions, no image, episodes that end
    num_envs: int = 16  # N, sessions played side by side between two updates
    vectorization: Literal["auto", "sync", "async"] = "auto"  # sync: in one process; async: in N
    # Algorithm
    baseline: Literal["none", "mean", "value"] = "value"  # b: 0, a moving average of returns, V(s)
    bootstrap: bool = True  # for value: add gamma V(s) where a time limit ended a session
    discount_policy_gradient: bool = False  # weight step t by gamma^t, as in the book's box
    gamma: float = 0.99  # discount; nearer to 1 where the reward comes hundreds of steps late
    mean_decay: float = 0.9  # what each update keeps of the moving average; it starts at 0
    actor_lr: float = 3e-3  # learning rate of the policy
    critic_lr: float = 5e-3  # learning rate of the value baseline
    anneal_lr: bool = True  # lower both rates linearly, to 0 at total_timesteps
    critic_updates: int = 10  # K, gradient steps of the value baseline for one of the policy
    ent_coef: float = 0.0  # weight of the entropy in the loss, summed over a session like the rest
    max_grad_norm: float = 0.5  # each network's gradient is clipped to this norm; inf: never
    hidden_sizes: tuple[int, ...] = (64, 64)  # units of each hidden layer
    activation: Literal["tanh", "relu"] = "tanh"  # after each hidden layer

    def __post_init__(self) -> None:
        low = {"seed": 0, "target_return": -np.inf}
        high = {"seed": 2**64 - 1, "gamma": 1, "mean_decay": 1}
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
def discounted_returns(rewards: np.ndarray, gamma: float) -> np.ndarray:
    """G_t = r_t+1 + gamma G_t+1, in linear time; rewards (T, N), 0 after the end -> (T, N)."""
    returns = 1.0 * rewards  # a copy, with room for fractions
    for t in reversed(range(len(rewards) - 1)):
        returns[t] += gamma * returns[t + 1]
    return returns


def reinforce_loss(log_probs: Tensor, advantages: Tensor, num_sessions: int) -> Tensor:
    """Its gradient is -1/N sum of (G - b) grad log pi over all steps of N sessions; (B,) -> ()."""
    assert log_probs.shape == advantages.shape  # (B,) times (B, 1) would be (B, B)
    return -(advantages.detach() * log_probs).sum() / num_sessions


# THE NETWORKS
def mlp(sizes: tuple[int, ...], activation: str) -> nn.Sequential:
    """Linear layers with orthogonal weights, and an activation after each but the last."""
    layers: list[nn.Module] = []
    for n_in, n_out in zip(sizes, sizes[1:]):
        layers += [nn.Linear(n_in, n_out), {"tanh": nn.Tanh, "relu": nn.ReLU}[activation]()]
        nn.init.orthogonal_(layers[-2].weight, 2**0.5)
        nn.init.zeros_(layers[-2].bias)
    return nn.Sequential(*layers[:-1])


class Agent(nn.Module):
    """Policy pi(a|s), a categorical distribution given by its logits, and the baselines."""

    def __init__(self, obs_size: int, act_size: int, args: Args) -> None:
        super().__init__()
        self.actor = mlp((obs_size, *args.hidden_sizes, act_size), args.activation)
        self.critic = mlp((obs_size, *args.hidden_sizes, 1), args.activation)
        # Other gains for the last layers: the first policy is about the same in all states.
        nn.init.orthogonal_(self.actor[-1].weight, 0.01)
        nn.init.orthogonal_(self.critic[-1].weight, 1.0)
        self.register_buffer("mean_return", torch.zeros(()))

    def value(self, obs: Tensor) -> Tensor:
        """V(s): (..., obs_size) -> (...)."""
        return self.critic(obs).squeeze(-1)

    def baseline(self, obs: Tensor, kind: str) -> Tensor:
        """b(s): (B, obs_size) -> (B,)."""
        if kind == "value":
            return self.value(obs)
        b = self.mean_return if kind == "mean" else torch.zeros_like(self.mean_return)
        return b.expand(len(obs))

    @torch.inference_mode()
    def act(self, obs: Tensor, greedy: bool = False) -> Tensor:
        """Actions drawn from pi, or the likeliest: (..., obs_size) -> (...)."""
        logits = self.actor(obs)
        if not greedy:  # -log of an exponential draw is Gumbel noise; its argmax draws from pi
            logits -= torch.empty_like(logits).exponential_().log()
        return logits.argmax(-1)

    def log_prob_and_entropy(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """log pi(a|s) and H(pi(.|s)): (B, obs_size), (B,) -> (B,), (B,)."""
        log_pi = self.actor(obs).log_softmax(-1)
        entropy = -(log_pi.exp() * log_pi).sum(-1)
        return log_pi.gather(-1, actions.unsqueeze(-1)).squeeze(-1), entropy


# THE ENVIRONMENTS
class InputError(ValueError):
    """What the user can mend: one line on stderr and exit status 2, no traceback."""


def make_envs(args: Args) -> tuple[gym.vector.VectorEnv, gym.Env]:
    """N environments to train in and one, as it is, to evaluate in; with flat observations."""
    try:
        env = gym.make(args.env_id)
    except (gym.error.Error, ImportError, TypeError, ValueError) as error:
        raise InputError(f"--env-id {args.env_id}: {error}") from error
    if not isinstance(env.action_space, gym.spaces.Discrete):
        hint = "not Discrete; for Box there is a2c_continuous.py"
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
            action = env.action_space.start + agent.act(obs, greedy=True).item()
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


# COLLECT
def play(agent: Agent, envs: gym.vector.VectorEnv) -> tuple:
    """Play one whole session in each of N environments.

    An environment that is through plays on until all are, but those rows are not `live`. Returns
    obs (T, N, obs_size), actions, rewards and live (T, N), then last_obs (N, obs_size), the states
    after the last steps, and cut (N,), whether it was a time limit that ended the session.
    """
    obs, _ = envs.reset()
    rows, live = [], np.ones(len(obs), bool)
    last_obs, cut = np.zeros_like(obs, np.float32), np.zeros(len(obs), bool)
    device = next(agent.parameters()).device
    while live.any():
        obs = obs.astype(np.float32)
        actions = agent.act(torch.from_numpy(obs).to(device)).cpu().numpy()
        step = envs.step(actions + envs.single_action_space.start)
        next_obs, rewards, terminated, truncated, _ = step
        rows.append((obs, actions, np.where(live, rewards, 0).astype(np.float32), live))
        ended = live & (terminated | truncated)
        last_obs[ended], cut[ended] = next_obs[ended], ~terminated[ended]
        obs, live = next_obs, live & ~ended
    return *(np.stack(column) for column in zip(*rows)), last_obs, cut


# LEARN
def gradient_variance(agent: Agent, obs, actions, advantages, sessions: list[Tensor]) -> Tensor:
    """Variance of the policy gradient: that of one session's, over N, summed over all weights.

    Each session is given by the mask of its rows among the B: obs (B, obs_size), all else (B,).
    """
    gradients = []
    for rows in sessions:
        log_probs, _ = agent.log_prob_and_entropy(obs[rows], actions[rows])
        loss = reinforce_loss(log_probs, advantages[rows], 1)
        gradient = torch.autograd.grad(loss, agent.actor.parameters())
        gradients.append(nn.utils.parameters_to_vector(gradient))
    return torch.stack(gradients).var(0).sum() / len(sessions)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, max_grad_norm: float) -> Tensor:
    """One gradient step; returns the norm of the gradient before it is clipped."""
    optimizer.zero_grad()  # to None: the optimizer skips the network that the loss is not about
    loss.backward()
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    norm = nn.utils.clip_grad_norm_(weights, max_grad_norm)
    optimizer.step()
    return norm


def update(agent: Agent, optimizer, sessions: tuple, args: Args, report: bool) -> dict:
    """One step for the policy, then K for the value baseline; returns what to log of them."""
    obs, actions, rewards, live, last_obs, cut = sessions
    device, N = next(agent.parameters()).device, len(cut)
    if args.baseline == "value" and args.bootstrap:
        rest = agent.value(torch.from_numpy(last_obs).to(device)).detach().cpu().numpy()
        rewards = rewards.copy()
        rewards[live.sum(0) - 1, range(N)] += args.gamma * cut * rest
    t, session = live.nonzero()  # (B,) each
    weights = (args.gamma ** (t * args.discount_policy_gradient)).astype(np.float32)  # or 1
    arrays = obs[live], actions[live], discounted_returns(rewards, args.gamma)[live], weights
    obs, actions, returns, weights = (torch.from_numpy(array).to(device) for array in arrays)

    baseline = agent.baseline(obs, args.baseline).detach()
    advantages = weights * (returns - baseline)
    log_probs, entropies = agent.log_prob_and_entropy(obs, actions)
    policy_loss = reinforce_loss(log_probs, advantages, N)
    loss = policy_loss - args.ent_coef * entropies.sum() / N
    logs = {"policy_loss": policy_loss, "entropy": entropies.mean()}
    unexplained = (returns - baseline).var(correction=0) / returns.var(correction=0)
    logs["explained_variance"] = 1 - unexplained
    if report and N > 1:
        rows = [torch.from_numpy(session == n) for n in range(N)]
        logs["policy_gradient_variance"] = gradient_variance(agent, obs, actions, advantages, rows)
    logs["grad_norm"] = descend(optimizer, loss, args.max_grad_norm)
    # Only now the baselines, so that they did not depend on the actions they were used for.
    agent.mean_return.lerp_(returns.mean(), 1 - args.mean_decay)
    for _ in range(args.critic_updates * (args.baseline == "value")):
        logs["value_loss"] = F.mse_loss(agent.value(obs), returns)
        descend(optimizer, logs["value_loss"], args.max_grad_norm)
    return logs


def train(args: Args) -> tuple[Agent, list[tuple[int, float, int]]]:
    """Train, save, evaluate. Returns the agent and its episodes: (global step, return, length)."""
    torch.set_num_threads(args.torch_threads)
    torch.manual_seed(args.seed)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if args.device not in ("auto", "cpu", device.type):
        raise InputError(f"--device {args.device}: not on this machine, use {device.type}")
    device = device if args.device == "auto" else torch.device(args.device)
    envs, eval_env = make_envs(args)
    obs_size, act_size = eval_env.observation_space.shape[0], int(eval_env.action_space.n)
    agent = Agent(obs_size, act_size, args).to(device)
    groups = [{"params": list(part.parameters())} for part in (agent.actor, agent.critic)]
    optimizer = torch.optim.Adam(groups, eps=1e-5, fused=True)
    global_step, episodes = 0, []
    if args.resume:
        same = ("env_id", "hidden_sizes", "activation")
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

    # A seed made of seed and step: neighbouring runs share no episodes, resumed ones repeat none.
    seed = int(np.random.SeedSequence([args.seed, global_step]).generate_state(1)[0])
    envs.reset(seed=seed)
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
            # COLLECT N whole sessions.
            remaining = 1 - global_step / args.total_timesteps if args.anneal_lr else 1
            sessions = obs, _, rewards, live, last_obs, _ = play(agent, envs)
            global_step += int(live.sum())
            if not (np.isfinite(obs[live]).all() and np.isfinite(last_obs).all()):
                raise FloatingPointError(f"step {global_step}: NaN or inf in observation")
            for session_return, length in zip(rewards.sum(0), live.sum(0)):
                episodes.append((global_step, float(session_return), int(length)))

            # LEARN from them.
            for group, rate in zip(optimizer.param_groups, (args.actor_lr, args.critic_lr)):
                group["lr"] = rate * remaining
            finished = solved() or global_step >= args.total_timesteps
            report = finished or time.time() >= log_time + 1.0  # the variance costs half an update
            losses = update(agent, optimizer, sessions, args, report)
            if not losses["grad_norm"].isfinite():
                raise FloatingPointError(f"step {global_step}: NaN or inf in reward or gradient")

            # REPORT
            bar.update(global_step - bar.n)
            if report:
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

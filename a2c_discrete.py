"""Advantage actor-critic (A2C) for discrete actions.

N parallel environments are played for T steps with the policy pi(a|s, theta). Then the critic
V(s, w) makes K gradient steps towards the returns; in the last of them the actor makes its one step
towards the actions that did better than V expected. The rollout is thrown away, the next begins.

    delta_t  = r_t+1 + gamma V(s_t+1) - V(s_t)                 TD error; V = 0 in a terminal state
    A_t      = delta_t + gamma lambda A_t+1                    GAE (Schulman et al. 2016, section 3)
    G_t      = A_t + V(s_t)                                    the return; a constant, like A_t
    L_critic = vf_coef mean[(G_t - V(s_t))^2] + kappa |w - w_old|^2
    L_actor  = -mean[A_t log pi(a_t|s_t)] - beta mean[H(pi)]   A3C (Mnih et al. 2016, section 4)

lambda = 0 is the one-step TD error; with lambda = 1, G_t is the n-step return: rewards to the end
of the rollout, then the bootstrap. The K steps are the inner loop of SLM-Lab's "Simple Actor
Critic", each with new targets; w_old are the weights before the first, so that kappa acts from the
second on. K = 1 is the textbook's case: one estimate, used by both. With K > 1, V is fitted to the
rollout before the actor uses it, and a little of each action's own luck is in its baseline: a small
bias is the price of a critic that keeps up. Differences from the sources: A_t is that of before the
last of the K steps, not after it; the environments run in step, not in A3C's threads; actor and
critic share no weights, unless --shared-body; A_t is brought to mean 0 and standard deviation 1;
gradients are clipped; the optimizer is Adam, or RMSprop as PyTorch has it, with epsilon outside the
root; practice drops the gamma^t of Sutton and Barto's box, with which the late steps of an episode
count for less.

    python a2c_discrete.py           solves CartPole-v1 in seconds and ends with a line like
                                     `evaluation: return 500.00 +- 0.00 over 10 episodes`
    python a2c_discrete.py --help    lists the flags
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
    total_timesteps: int = 150_000  # environment steps, counted over all environments
    device: Literal["cpu", "cuda", "mps", "auto"] = "cpu"  # cpu is fastest for small networks
    torch_threads: int = 1  # for networks this small, more threads are slower
    log_dir: str = "runs"  # every run makes a new folder in it
    eval_episodes: int = 10  # complete episodes of the greedy policy, played after training
    capture_video: bool = False  # film the evaluation
    target_return: float = np.inf  # stop once the last 100 episodes average this or more
    checkpoint_interval: float = 60.0  # seconds between two checkpoints
    resume: str | None = None  # continue a checkpoint.pt; its flags are the command line's defaults
    # Environment
    env_id: str = "CartPole-v1"  # any Gymnasium id with Discrete actions and no image observation
    num_envs: int = 32  # N; the more, the less the batch depends on one episode
    vectorization: Literal["auto", "sync", "async"] = "auto"  # sync: in one process; async: in N
    randomize_domain: bool = False  # LunarLander: draw gravity and wind anew at every episode
    # Algorithm
    num_steps: int = 16  # T, steps of each environment per update; 2 or more: one may be a reset
    gamma: float = 0.99  # discount; nearer to 1 where the reward comes hundreds of steps late
    gae_lambda: float = 0.95  # 0: least variance, most bias; 1: the reverse
    optimizer: Literal["adam", "rmsprop"] = "adam"  # rmsprop is the A3C paper's
    actor_lr: float = 2e-3  # learning rate of the actor, or of everything with --shared-body
    critic_lr: float = 5e-3  # learning rate of the critic, which should be ahead of the actor
    anneal_lr: bool = True  # lower both rates linearly, to 0 at total_timesteps
    critic_updates: int = 3  # K, gradient steps of the critic for one of the actor
    critic_loss: Literal["mse", "huber"] = "mse"  # huber gives less weight to outliers
    proximal_coef: float = 0.0  # kappa, weight of |w - w_old|^2; acts only if critic_updates > 1
    vf_coef: float = 0.5  # weight of the critic's loss; matters most beside kappa or if shared_body
    ent_coef: float = 0.01  # beta, weight of the entropy: keeps the policy from deciding too early
    norm_adv: bool = True  # advantages to mean 0, standard deviation 1: ent_coef suits any reward
    max_grad_norm: float = 0.5  # each network's gradient is clipped to this norm; inf: never
    hidden_sizes: tuple[int, ...] = (64, 64)  # units of each hidden layer
    activation: Literal["tanh", "relu"] = "tanh"  # after each hidden layer
    shared_body: bool = False  # one body with two heads, trained by the joint loss

    def __post_init__(self) -> None:
        low = {"seed": 0, "target_return": -np.inf, "num_steps": 2}
        high = {"seed": 2**64 - 1, "gamma": 1, "gae_lambda": 1}
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
    """Actor pi(a|s), a categorical distribution given by its logits, and critic V(s)."""

    def __init__(self, obs_size: int, act_size: int, args: Args) -> None:
        super().__init__()
        self.actor = mlp((obs_size, *args.hidden_sizes, act_size), args.activation)
        self.critic = mlp((obs_size, *args.hidden_sizes, 1), args.activation)
        # Other gains for the last layers: the first policy is about the same in all states.
        nn.init.orthogonal_(self.actor[-1].weight, 0.01)
        nn.init.orthogonal_(self.critic[-1].weight, 1.0)
        if args.shared_body:
            self.critic = nn.Sequential(*self.actor[:-1], self.critic[-1])

    def value(self, obs: Tensor) -> Tensor:
        """V(s): (..., obs_size) -> (...)."""
        return self.critic(obs).squeeze(-1)

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


class DomainRandomization(gym.Wrapper):
    """LunarLander, new physics at each reset: clipped Gaussians about the defaults; maybe wind."""

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        if seed is not None:
            self.env.reset(seed=seed)  # seeds np_random, from which the physics is drawn
        lander, normal = self.env.unwrapped, self.np_random.normal
        lander.gravity = float(np.clip(normal(-10.0, 2.0), -11.99, -0.01))
        lander.enable_wind = bool(self.np_random.integers(2))
        lander.wind_power = float(np.clip(normal(15.0, 2.0), 0.01, 19.99))
        lander.turbulence_power = float(np.clip(normal(1.5, 1.0), 0.01, 1.99))
        return self.env.reset(options=options)


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
    if args.randomize_domain and not hasattr(env.unwrapped, "turbulence_power"):  # no LunarLander
        raise InputError(f"--randomize-domain: for LunarLander-v3, not for {args.env_id}")
    if args.capture_video:
        if "rgb_array" not in env.metadata.get("render_modes", ()):
            raise InputError(f"--capture-video: {args.env_id} draws no pictures")
        env = gym.make(args.env_id, render_mode="rgb_array")
    mode = None if args.vectorization == "auto" else args.vectorization
    wrappers = [DomainRandomization] if args.randomize_domain else []
    envs = gym.make_vec(args.env_id, args.num_envs, vectorization_mode=mode, wrappers=wrappers)
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


# LEARN
def update(agent: Agent, optimizer: torch.optim.Optimizer, rollout: tuple, args: Args) -> dict:
    """K steps for the critic, the last of them also the actor's; returns what to log of it.

    The rollout: obs (T+1, N, obs_size), then actions, rewards, terminated, done, live (T, N, ...).
    """
    obs, actions, rewards, terminated, done, live = rollout
    device = next(agent.parameters()).device
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
    obs_size, act_size = eval_env.observation_space.shape[0], int(eval_env.action_space.n)
    agent = Agent(obs_size, act_size, args).to(device)
    optimizer = make_optimizer(agent, args)
    global_step, episodes = 0, []
    if args.resume:
        same = ("env_id", "hidden_sizes", "activation", "shared_body", "optimizer")
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
    actions, rewards = np.zeros((T, N), np.int64), np.zeros((T, N), np.float32)
    terminated, done, live = np.zeros((3, T, N), bool)
    rollout = (obs, actions, rewards, terminated, done, live)
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
                step = envs.step(actions[t] + envs.single_action_space.start)
                obs[t + 1], rewards[t], terminated[t], truncated, _ = step
                live[t] = ~done[t - 1]  # for t = 0, the last row of the rollout before
                done[t] = terminated[t] | truncated
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
            losses = update(agent, optimizer, rollout, args)
            if not losses["grad_norm"].isfinite():
                raise FloatingPointError(f"step {global_step}: NaN or inf in reward or gradient")

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

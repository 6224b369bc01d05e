"""One-step actor-critic, online: one environment, one update per step, as in the book's box.

    Loop for each episode:                                     Sutton and Barto 2018, section 13.5,
        S <- env.reset(), I <- 1                               one-step actor-critic (episodic)
        While S is not terminal:
            A ~ pi(.|S, theta); S', R <- env.step(A)
            delta <- R + gamma V(S', w) - V(S, w)              V = 0 in a terminal state
            w     <- w + alpha_w delta grad V(S, w)
            theta <- theta + alpha_theta I delta grad log pi(A|S, theta)
            I <- gamma I; S <- S'

    --critic v    the box; delta estimates the advantage from one sample, without bias if V is exact
    --critic q    Q actor-critic (QAC; Yoon 2019): A', the next action, is drawn before the update;
                  delta <- R + gamma Q(S', A', w) - Q(S, A, w), and in the actor's update Q(S, A, w)
                  takes the place of delta

delta is computed once, from the weights before either update, and drives both. The critic's step is
a semi-gradient: none flows through the target. At a time limit the episode is over, but S' is not
terminal: it is bootstrapped. Differences from the box: Adam, and I stays 1. With I = gamma^t it is
the discounted value of the start state that is climbed, but late steps count for little. The box
itself, but for time limits, is --optimizer sgd --discount-policy-gradient; try --actor-lr 1e-4.

    python ac_td0.py --target-return 475    solves CartPole-v1 in 1 to 3 minutes and ends with
                                            `evaluation: return 500.00 +- 0.00 over 10 episodes`
    python ac_td0.py --help                 lists the flags
"""

# /// script
# requires-python = ">=3.10"
# dependencies = ["torch>=2.7", "gymnasium[classic-control,box2d,mujoco]>=1.1", "tyro>=0.9",
#   "numpy>=1.26", "tensorboard>=2.16", "tqdm>=4.66", "moviepy>=2.0"]
# ///
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
    total_timesteps: int = 200_000  # environment steps, one update each
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
    # Algorithm
    critic: Literal["v", "q"] = "v"  # state values and their TD error, or action values (QAC)
    discount_policy_gradient: bool = False  # weight step t by I = gamma^t, as in the book's box
    gamma: float = 0.99  # discount; nearer to 1 where the reward comes hundreds of steps late
    optimizer: Literal["sgd", "adam"] = "adam"  # sgd is the book's, and slower
    actor_lr: float = 3e-4  # learning rate of the actor, alpha_theta
    critic_lr: float = 1e-3  # learning rate of the critic, alpha_w
    hidden_sizes: tuple[int, ...] = (64, 64)  # units of each hidden layer
    activation: Literal["tanh", "relu"] = "tanh"  # after each hidden layer

    def __post_init__(self) -> None:
        low = {"seed": 0, "target_return": -np.inf}
        high = {"seed": 2**64 - 1, "gamma": 1}
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
def td_error(reward, value: float, next_value: float, terminated, gamma: float) -> float:
    """delta = R + gamma V(S') - V(S), V(S') = 0 if terminal: a number, without a gradient."""
    return reward + gamma * (1 - terminated) * next_value - value


def sample(logits: Tensor) -> Tensor:
    """Draw from softmax(logits): -log of an exponential draw is Gumbel noise; (..., A) -> (...)."""
    return (logits - torch.empty_like(logits).exponential_().log()).argmax(-1)


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
    """Actor pi(a|s), a categorical distribution given by its logits; critic V(s) or Q(s, .)."""

    def __init__(self, obs_size: int, act_size: int, args: Args) -> None:
        super().__init__()
        outputs = act_size if args.critic == "q" else 1
        self.actor = mlp((obs_size, *args.hidden_sizes, act_size), args.activation)
        self.critic = mlp((obs_size, *args.hidden_sizes, outputs), args.activation)
        # Other gains for the last layers: the first policy is about the same in all states.
        nn.init.orthogonal_(self.actor[-1].weight, 0.01)
        nn.init.orthogonal_(self.critic[-1].weight, 1.0)

    @torch.inference_mode()
    def act(self, obs: Tensor, greedy: bool = False) -> Tensor:
        """Actions drawn from pi, or the likeliest: (..., obs_size) -> (...)."""
        logits = self.actor(obs)
        return logits.argmax(-1) if greedy else sample(logits)


# THE ENVIRONMENT
class InputError(ValueError):
    """What the user can mend: one line on stderr and exit status 2, no traceback."""


def make_env(args: Args, render_mode: str | None = None) -> gym.Env:
    """One environment, with flat observations."""
    try:
        env = gym.make(args.env_id, **({"render_mode": render_mode} if render_mode else {}))
    except (gym.error.Error, ImportError, TypeError, ValueError) as error:
        raise InputError(f"--env-id {args.env_id}: {error}") from error
    if not isinstance(env.action_space, gym.spaces.Discrete):
        hint = "not Discrete; for Box there is a2c_continuous.py"
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
def update(agent: Agent, optimizer, log_prob: Tensor, step: tuple, gamma_t: float, args: Args):
    """Both updates of the box, from one delta; log_prob is log pi(A|S) with its graph.

    The step: obs (obs_size), action, reward, next_obs, next_action (None for V) and terminated.
    Returns delta and V(S), or Q(S, A), from before the update.
    """
    obs, action, reward, next_obs, next_action, terminated = step
    column, next_column = (action, next_action) if args.critic == "q" else (0, 0)  # V has one
    values = agent.critic(torch.stack((obs, next_obs)))
    row, next_row = values.tolist()
    value, next_value = row[column], next_row[next_column]
    delta = td_error(reward, value, next_value, terminated, args.gamma)
    weight = value if args.critic == "q" else delta
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None  # as zero_grad() does, whose bookkeeping is 5 % of a step
    # delta grad V(S), S alone, and I delta (or I Q) grad log pi; minus, as optimizers descend.
    factors = values.new_tensor((-delta, -gamma_t * weight)).unbind()
    torch.autograd.backward((values[0, column], log_prob), factors)
    optimizer.step()
    return delta, value


def train(args: Args) -> tuple[Agent, list[tuple[int, float, int]]]:
    """Train, save, evaluate. Returns the agent and its episodes: (global step, return, length)."""
    torch.set_num_threads(args.torch_threads)
    torch.manual_seed(args.seed)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if args.device not in ("auto", "cpu", device.type):
        raise InputError(f"--device {args.device}: not on this machine, use {device.type}")
    device = device if args.device == "auto" else torch.device(args.device)
    env, eval_env = make_env(args), make_env(args, "rgb_array" if args.capture_video else None)
    obs_size, act_size = eval_env.observation_space.shape[0], int(eval_env.action_space.n)
    agent = Agent(obs_size, act_size, args).to(device)
    groups = [{"params": agent.actor.parameters(), "lr": args.actor_lr}]
    groups += [{"params": agent.critic.parameters(), "lr": args.critic_lr}]
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[args.optimizer]
    optimizer = kind(groups, fused=True)
    global_step, episodes = 0, []
    if args.resume:
        same = ("env_id", "hidden_sizes", "activation", "critic", "optimizer")
        state = load(args.resume, **{name: getattr(args, name) for name in same})
        try:
            agent.load_state_dict(state["agent"])
            moments = {"state": state["optimizer"]["state"]}  # the rates are those of the flags
            optimizer.load_state_dict(optimizer.state_dict() | moments)
            torch.set_rng_state(state["rng"])
            global_step, episodes = state["global_step"], state["episodes"]
        except (KeyError, RuntimeError, ValueError) as error:  # sizes that have changed since
            reason = f"holds no agent for {args.env_id} as it is now"
            raise InputError(f"--resume {args.resume}: {reason}") from error
    folder, writer = start_run(args)
    if args.capture_video:
        eval_env = gym.wrappers.RecordVideo(eval_env, str(folder / "videos"), lambda episode: True)

    def save() -> None:
        if not all(weight.isfinite().all() for weight in agent.parameters()):  # too large a step
            raise FloatingPointError(f"step {global_step}: NaN or inf in weights")
        state = {"script": Path(__file__).stem, "args": asdict(args), "global_step": global_step}
        state |= {"agent": agent.state_dict(), "optimizer": optimizer.state_dict()}
        state |= {"rng": torch.get_rng_state(), "episodes": episodes[-100:]}
        torch.save(state, folder / "checkpoint.tmp")
        (folder / "checkpoint.tmp").replace(folder / "checkpoint.pt")  # a kill leaves a whole one

    # A seed made of seed and step: neighbouring runs share no episodes, resumed ones repeat none.
    seed = int(np.random.SeedSequence([args.seed, global_step]).generate_state(1)[0])
    reset_seed, episode_over, window = seed, True, []
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
            # COLLECT one step.
            if episode_over:
                obs, _ = env.reset(seed=reset_seed)
                obs = torch.as_tensor(obs, dtype=torch.float32, device=device)
                next_action, reset_seed, episode_return, episode_length = None, None, 0.0, 0
                gamma_t = 1.0  # I in the book
            log_pi = agent.actor(obs[None])[0].log_softmax(-1)  # faster as a batch of one
            action = sample(log_pi.detach()).item() if next_action is None else next_action
            next_obs, reward, terminated, truncated, _ = env.step(env.action_space.start + action)
            episode_over, episode_return = terminated or truncated, episode_return + float(reward)
            global_step, episode_length = global_step + 1, episode_length + 1
            if not np.isfinite(next_obs).all():
                raise FloatingPointError(f"step {global_step}: NaN or inf in observation")
            next_obs = torch.as_tensor(next_obs, dtype=torch.float32, device=device)
            if args.critic == "q":  # A', drawn before the update
                next_action = agent.act(next_obs).item()

            # LEARN from it.
            step = (obs, action, float(reward), next_obs, next_action, terminated)
            log_prob = log_pi[action]
            delta, value = update(agent, optimizer, log_prob, step, gamma_t, args)
            if not np.isfinite(delta * log_prob.item()):
                where = "reward, first observation or weights"
                raise FloatingPointError(f"step {global_step}: NaN or inf in {where}")
            window.append((log_pi.detach(), log_prob.item(), delta, value, gamma_t))
            gamma_t *= args.gamma if args.discount_policy_gradient else 1.0
            obs = next_obs
            if episode_over:
                episodes.append((global_step, episode_return, episode_length))

            # REPORT
            finished = global_step >= args.total_timesteps or (episode_over and solved())
            if finished or time.time() >= log_time + 0.25:  # oftener, it costs a tenth of the run
                bar.update(global_step - bar.n)
                log_time = time.time()
                log_pis, *numbers = zip(*window)
                log_pis, numbers = torch.stack(log_pis), torch.tensor(numbers)
                chosen, deltas, values, gammas = numbers
                weights = deltas if args.critic == "v" else values
                gradients = [weight.grad for weight in agent.parameters()]
                unexplained = deltas.var(correction=0) / (values + deltas).var(correction=0)
                scalars = {
                    "losses/policy_loss": -(gammas * weights * chosen).mean(),
                    "losses/value_loss": deltas.pow(2).mean(),
                    "losses/entropy": -(log_pis.exp() * log_pis).sum(-1).mean(),
                    "losses/explained_variance": 1 - unexplained,
                    "losses/grad_norm": nn.utils.get_total_norm(gradients),
                    "charts/SPS": (global_step - start_step) / (log_time - start_time),
                }
                window.clear()
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
        raise
    finally:
        bar.close()
        writer.close()
        env.close()
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

"""What all scripts promise alike: flags, output, checkpoints, resuming, errors."""

import importlib
import itertools
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from tests import toys
from tests.conftest import ROOT, assert_refused, checkpoint_of, distance


@dataclass(frozen=True)
class Case:
    """What a test has to know of a script."""

    name: str
    toy: str  # an Identity environment with actions of its kind
    # A training return that it reaches on the toy, in 5,500 steps at most (seeds 0 to 9), and an
    # untrained one does not.
    target: float
    small: dict  # flags for a short run
    steps: int  # of each environment between two updates in this run
    other_task: str  # an environment like the default one, for the refusal of its checkpoint
    other_kind: tuple[str, str]  # an environment that it cannot play, and the script that can
    entropy: bool = True  # whether its policy is a distribution

    @property
    def module(self):
        return importlib.import_module(self.name)

    @property
    def file(self):
        return f"{self.name}.py"

    @property
    def default_task(self):
        return self.module.Args.env_id

    @property
    def flags(self):
        words = ["--env-id", self.toy, "--eval-episodes", 1]
        for name, value in self.small.items():
            words += ["--" + name.replace("_", "-"), *np.atleast_1d(value).tolist()]
        return words

    def args(self, folder, **changes):
        changes = {"env_id": self.toy, "total_timesteps": 1000, "eval_episodes": 1} | changes
        return self.module.Args(log_dir=str(folder), **(self.small | changes))


CASES = [
    Case(
        "a2c_discrete",
        toy="Identity-v0",
        target=9.0,
        small={"num_envs": 4, "num_steps": 8},
        steps=8,
        other_task="Acrobot-v1",
        other_kind=("Pendulum-v1", "a2c_continuous.py"),
    ),
    Case(
        "a2c_continuous",
        toy="IdentityBox-v0",
        target=9.0,
        small={"num_envs": 4, "num_steps": 8, "critic_updates": 2},
        steps=8,
        other_task="MountainCarContinuous-v0",
        other_kind=("CartPole-v1", "a2c_discrete.py"),
    ),
    Case(
        "reinforce_baseline",
        toy="Identity-v0",
        target=9.0,
        small={"num_envs": 4, "critic_updates": 2},
        steps=25,
        other_task="Acrobot-v1",
        other_kind=("Pendulum-v1", "a2c_continuous.py"),
    ),
    Case(
        "ac_td0",
        toy="Identity-v0",
        target=9.0,
        small={},
        steps=1,
        other_task="Acrobot-v1",
        other_kind=("Pendulum-v1", "a2c_continuous.py"),
    ),
    Case(
        "ddpg",
        toy="IdentityBox-v0",
        target=9.0,
        small={"learning_starts": 25, "batch_size": 16, "hidden_sizes": (32, 32)},
        steps=1,
        other_task="MountainCarContinuous-v0",
        other_kind=("CartPole-v1", "a2c_discrete.py"),
        entropy=False,
    ),
]


def test_every_script_is_tested():
    assert {case.file for case in CASES} == {path.name for path in ROOT.glob("*.py")}


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request):
    return request.param


def test_same_seed_same_result_bit_for_bit(case, tmp_path):
    train = case.module.train
    flags = {"total_timesteps": 500}
    runs = [train(case.args(tmp_path / str(i), seed=i // 2, **flags)) for i in range(3)]
    assert distance(runs[0][0], runs[1][0]) == 0.0
    assert runs[0][1] == runs[1][1]
    assert distance(runs[0][0], runs[2][0]) > 0.0


def test_flags_that_may_be_zero_may_be_the_integer_zero(case, tmp_path):
    args = case.module.Args(gamma=0, checkpoint_interval=0, actor_lr=0)
    assert args.gamma == 0
    with pytest.raises(ValueError, match="--eval-episodes must lie in"):
        case.module.Args(eval_episodes=0)


def test_output_and_tensorboard(case, cli):
    flags = [*case.flags, "--total-timesteps", 50_000, "--target-return", case.target]
    outcome = cli(case.file, *flags, "--eval-episodes", 2, "--seed", 3)
    lines = outcome.out.splitlines()
    folder = lines[0].removeprefix("run folder: ")
    assert f"/{case.toy}__{case.name}__3__" in folder
    assert lines[1].startswith("to watch it: tensorboard --logdir ")
    assert re.fullmatch(r"trained: \d+ steps in \d+\.\d\d s", lines[-3])
    pattern = rf"target return {case.target} reached at step (\d+) after \d+\.\d\d s"
    reached = re.fullmatch(pattern, lines[-2])
    assert lines[-1].startswith("evaluation: return ")
    assert lines[-1].endswith(" over 2 episodes")
    assert "step" in outcome.err  # the progress bar
    events = EventAccumulator(folder).Reload()
    tags = ["policy_loss", "value_loss", "grad_norm", "explained_variance"]
    tags += ["entropy"] if case.entropy else []
    want = {f"losses/{tag}" for tag in tags}
    want |= {"charts/SPS", "charts/episodic_return", "charts/episodic_length"}
    assert want <= set(events.Tags()["scalars"])
    last = events.Scalars("charts/episodic_return")[-1]  # four points a second, and one at the end
    assert last.step == int(reached[1])
    assert {e.value for e in events.Scalars("charts/episodic_length")} == {25.0}
    assert "hyperparameters/text_summary" in events.Tags()["tensors"]


def test_logged_return_is_the_mean_since_the_last_point(case, tmp_path, monkeypatch):
    points, calls = [], itertools.count()

    def spy(writer, tag, value, step):
        if tag == "charts/episodic_return":
            points.append((step, float(value)))

    monkeypatch.setattr(SummaryWriter, "add_scalar", spy)
    # A clock that gives each point several episodes, on slow machines too.
    monkeypatch.setattr(time, "time", lambda: 0.002 * next(calls))
    _, episodes = case.module.train(case.args(tmp_path, total_timesteps=1000))
    start = 0
    for step, value in points:
        new = [r for at, r, _ in episodes if start < at <= step]
        assert value == pytest.approx(np.mean(new))
        start = step
    assert [at for at, _, _ in episodes if at > start] == []
    assert len(episodes) > 30
    assert len({r for _, r, _ in episodes}) > 1  # else any of them would do


def test_target_return_stops_at_the_mean_of_100(case, tmp_path, capsys):
    train = case.module.train
    args = case.args(tmp_path / "a", target_return=case.target, total_timesteps=50_000)
    _, episodes = train(args)
    assert len(episodes) >= 100
    assert np.mean([r for _, r, _ in episodes[-100:]]) >= case.target
    assert episodes[-1][0] < 50_000
    # Resumed, it has reached the target already and is evaluated at once.
    path = checkpoint_of(capsys.readouterr().out)
    _, episodes = train(replace(args, resume=path, log_dir=str(tmp_path / "b")))
    assert len(episodes) == 100
    # However low the target is, it takes 100 episodes.
    _, episodes = train(case.args(tmp_path, target_return=-1.0, total_timesteps=50_000))
    assert 100 <= len(episodes) < 100 + case.small.get("num_envs", 1)


def test_checkpoint_gives_the_same_actions(case, tmp_path, capsys):
    agent, _ = case.module.train(case.args(tmp_path))
    state = torch.load(checkpoint_of(capsys.readouterr().out), weights_only=True)
    sizes = [module.in_features for module in agent.actor[:1]], agent.actor[-1].out_features
    loaded = case.module.Agent(*sizes[0], sizes[1], case.module.Args(**state["args"]))
    loaded.load_state_dict(state["agent"])
    obs = torch.eye(sizes[0][0])
    assert torch.equal(loaded.act(obs, greedy=True), agent.act(obs, greedy=True))
    assert distance(loaded, agent) == 0.0


def test_runs_that_follow_at_once_have_folders_of_their_own(case, tmp_path):
    runs = [case.module.start_run(case.args(tmp_path)) for _ in range(5)]
    for _, writer in runs:
        writer.close()
    assert len({folder for folder, _ in runs}) == 5


def test_resume_continues_and_overwrites_nothing(case, cli):
    first = cli(case.file, *case.flags, "--total-timesteps", 1000, "--actor-lr", 0.003)
    path = checkpoint_of(first.out)
    content = Path(path).read_bytes()
    # Finished: straight to the evaluation, with the very agent that was saved.
    done = cli(case.file, "--resume", path)
    assert done.out.splitlines()[-1] == first.out.splitlines()[-1]
    old = torch.load(path, weights_only=True)
    same = torch.load(checkpoint_of(done.out), weights_only=True)
    assert same["global_step"] == old["global_step"]
    assert all(torch.equal(same["agent"][key], old["agent"][key]) for key in old["agent"])
    # Prolonged: the flags that are not given come from the checkpoint, the count goes on.
    more = cli(case.file, "--resume", path, "--total-timesteps", 3000)
    new = torch.load(checkpoint_of(more.out), weights_only=True)
    assert new["args"]["actor_lr"] == 0.003
    assert new["args"]["env_id"] == case.toy
    assert new["global_step"] >= 3000
    ratio = new["global_step"] / old["global_step"]
    for key, state in new["optimizer"]["state"].items():
        before = float(old["optimizer"]["state"][key]["step"])
        assert float(state["step"]) == pytest.approx(ratio * before, rel=0.05)
    assert Path(path).read_bytes() == content


def test_resume_with_a_new_rate(case, tmp_path, capsys):
    """The optimizer's state brings its rates along; a flag that is given now wins."""
    constant = {"anneal_lr": False} if "anneal_lr" in case.module.Args.__annotations__ else {}
    args = case.args(tmp_path, total_timesteps=200, **constant)
    case.module.train(args)
    path = checkpoint_of(capsys.readouterr().out)
    case.module.train(replace(args, total_timesteps=400, actor_lr=2 * args.actor_lr, resume=path))
    state = torch.load(checkpoint_of(capsys.readouterr().out), weights_only=True)
    rates = [group["lr"] for group in state["optimizer"]["param_groups"]]
    assert rates == [2 * args.actor_lr, args.critic_lr]


def test_each_network_has_its_own_rate(case, tmp_path):
    agents = {}
    for rates in ((0.0, 0.0), (0.0, 1e-3), (1e-3, 0.0)):
        flags = {"actor_lr": rates[0], "critic_lr": rates[1], "total_timesteps": 200}
        agents[rates], _ = case.module.train(case.args(tmp_path, **flags))
    first = agents[0.0, 0.0]
    for rates, agent in agents.items():
        critics = [getattr(a, "critics", getattr(a, "critic", None)) for a in (agent, first)]
        assert (distance(agent.actor, first.actor) > 0) == (rates[0] > 0)
        assert (distance(*critics) > 0) == (rates[1] > 0)


def test_seeds(case, tmp_path, monkeypatch, capsys):
    """Only the first reset is seeded; neighbours share no seed, and a resumed run repeats none."""
    seeds, states, original = [], [], toys.Identity.reset

    def reset(self, *, seed=None, options=None):
        seeds.append(seed)
        states.append(torch.get_rng_state())
        return original(self, seed=seed, options=options)

    def run(**changes):
        seeds.clear()
        states.clear()
        case.module.train(case.args(tmp_path, **{"total_timesteps": 400} | changes))
        assert seeds.pop() == 0  # of the evaluation
        path = checkpoint_of(capsys.readouterr().out)
        assert len([seed for seed in seeds if seed is None]) > 2
        return [seed for seed in seeds if seed is not None], path

    monkeypatch.setattr(toys.Identity, "reset", reset)
    one, path = run(seed=1)
    two, _ = run(seed=2)
    more, _ = run(seed=1, resume=path, total_timesteps=800)
    # And the generator goes on from where it was.
    assert torch.equal(states[0], torch.load(path, weights_only=True)["rng"])
    assert [len(found) for found in (one, two, more)] == [case.small.get("num_envs", 1)] * 3
    assert len({*one, *two, *more}) == 3 * len(one)


def test_evaluation_is_greedy(case):
    box = "Box" in case.toy
    agent = case.module.Agent(2, 2 if box else 3, case.args("nowhere"))
    for weight in agent.actor.parameters():
        weight.data.zero_()
    agent.actor[-1].bias.data = torch.tensor([0.5, -0.5] if box else [0.0, 0.5, 0.0])
    env = gym.make("ScriptedBox-v0" if box else "Scripted-v0")
    returns = case.module.evaluate(agent, gym.wrappers.FlattenObservation(env), 3)
    assert returns == [6.0, 3.0, 10.0]
    actions = env.unwrapped.actions
    assert len(actions) == 9
    assert all(np.array_equal(action, actions[0]) for action in actions)
    assert box or actions[0] == 6  # the second of those that start with 5


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_activation(case, activation):
    agent = case.module.Agent(2, 2, case.args("nowhere", activation=activation))
    assert type(agent.actor[1]).__name__.lower() == activation


def test_a_save_that_fails_spares_the_checkpoint(case, tmp_path, monkeypatch):
    saves, original = [], torch.save

    def save(state, path):
        saves.append(path)
        if len(saves) > 2:
            Path(path).write_bytes(b"half of it")
            raise OSError("disk full")
        original(state, path)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OSError, match="disk full"):
        case.module.train(case.args(tmp_path, checkpoint_interval=0))
    (path,) = tmp_path.glob("*/checkpoint.pt")
    assert torch.load(path, weights_only=True)["global_step"] > 0


def test_rates_fall_linearly_over_all_steps(case, tmp_path, monkeypatch, capsys):
    if "anneal_lr" not in case.args(tmp_path).__dataclass_fields__:
        pytest.skip("has no --anneal-lr")

    def rates_of(**changes):
        rates, update = [], case.module.update

        def spy(agent, optimizer, *rest):
            rates.append([group["lr"] for group in optimizer.param_groups])
            return update(agent, optimizer, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(case.module, "update", spy)
            case.module.train(case.args(tmp_path, actor_lr=1e-3, critic_lr=4e-3, **changes))
        return np.array(rates)

    rates = rates_of(total_timesteps=4000)
    path = checkpoint_of(capsys.readouterr().out)
    assert np.allclose(rates[:, 1], 4 * rates[:, 0])
    line = np.linspace(1e-3, 0, len(rates) + 1)  # before the first update, and after the last
    assert ((line[1:] - 4e-5 <= rates[:, 0]) & (rates[:, 0] <= line[:-1] + 4e-5)).all()
    # Resumed with twice the steps, it is half-way.
    rates = rates_of(total_timesteps=8000, resume=path)
    assert 4.5e-4 < rates[0, 0] <= 5.1e-4
    assert (rates_of(anneal_lr=False) == [1e-3, 4e-3]).all()


def test_video(case, cli, tmp_path):
    flags = ["--total-timesteps", 600, "--capture-video", "--eval-episodes", 2]
    outcome = cli(case.file, *flags)
    assert outcome.status == 0, outcome.err
    videos = list(tmp_path.glob("*/videos/*.mp4"))
    assert len(videos) == 2
    assert min(video.stat().st_size for video in videos) > 1000


LONG = ["--total-timesteps", "100000000", "--checkpoint-interval", "0.05"]


def wait_for_checkpoint(process, folder):
    deadline = time.time() + 300
    while not list(folder.glob("*/checkpoint.pt")):
        assert process.poll() is None
        assert time.time() < deadline
        time.sleep(0.1)


@pytest.fixture
def process(case, tmp_path):
    """A run of the script that has saved its first checkpoint; it does not outlive the test."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / case.file), "--log-dir", str(tmp_path), *LONG],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # A shell that runs the tests in the background has them, and their children, ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        wait_for_checkpoint(process, tmp_path)
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_kill_leaves_a_checkpoint_to_go_on_from(case, process, tmp_path, cli):
    time.sleep(0.5)
    process.kill()
    process.communicate()
    (path,) = tmp_path.glob("*/checkpoint.pt")
    step = torch.load(path, weights_only=True)["global_step"]
    assert step > 0
    flags = ["--resume", path, "--total-timesteps", step + 1000, "--eval-episodes", 1]
    outcome = cli(case.file, *flags)
    assert outcome.status == 0, outcome.err
    assert torch.load(checkpoint_of(outcome.out), weights_only=True)["global_step"] >= step + 1000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_saves(process, tmp_path, number):
    process.send_signal(number)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 130
    step = int(out.splitlines()[-1].removeprefix("stopped at step ").split(":")[0])
    (path,) = tmp_path.glob("*/checkpoint.pt")
    assert torch.load(path, weights_only=True)["global_step"] == step


def test_runs_alone_in_an_empty_folder(case, tmp_path):
    shutil.copy(ROOT / case.file, tmp_path)
    command = [sys.executable, case.file, "--total-timesteps", "600", "--eval-episodes", "1"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("evaluation: return ")
    assert sorted(p.name for p in tmp_path.iterdir()) == [case.file, "runs"]


@pytest.mark.parametrize("space", ["discrete", "multidiscrete", "dict", "box", "number"])
def test_observations_are_flattened(case, tmp_path, register, space):
    register("IdentityOf-v0", "tests.toys:Identity", **gym.spec(case.toy).kwargs, space=space)
    agent, _ = case.module.train(case.args(tmp_path, env_id="IdentityOf-v0", total_timesteps=100))
    size = {"discrete": 3, "multidiscrete": 5, "dict": 5, "box": 3, "number": 1}[space]
    assert agent.actor[0].in_features == size


@pytest.mark.filterwarnings("ignore:.*render_modes")
def test_evaluation_ends_even_if_the_environment_does_not(case, tmp_path):
    agent, _ = case.module.train(case.args(tmp_path, total_timesteps=100))
    env = gym.make(case.toy.replace("Identity", "Endless"))
    (score,) = case.module.evaluate(agent, gym.wrappers.FlattenObservation(env), 1)
    assert (env.unwrapped.t, 0 <= score <= 10_000) == (10_000, True)


def test_numpy_numbers_become_plain_ones(case, tmp_path, capsys):
    """A checkpoint with NumPy's could not be loaded: torch.load(weights_only=True) refuses them."""
    numbers = {"seed": np.int64(3), "actor_lr": np.float64(1e-3), "torch_threads": np.int32(1)}
    case.module.train(case.args(tmp_path, total_timesteps=100, **numbers))
    saved = case.module.load(checkpoint_of(capsys.readouterr().out))["args"]
    assert {name: (type(saved[name]), saved[name]) for name in numbers} == {
        "seed": (int, 3),
        "actor_lr": (float, 1e-3),
        "torch_threads": (int, 1),
    }
    with pytest.raises(ValueError, match="--seed must lie in"):
        case.module.Args(seed=np.int64(-1))


def test_a_list_of_sizes_becomes_a_tuple(case, tmp_path, capsys):
    """Else the run could not be resumed, as the command line gives a tuple; nor is it checked."""
    case.module.train(case.args(tmp_path, total_timesteps=100, hidden_sizes=[8, 8]))
    path = checkpoint_of(capsys.readouterr().out)
    assert case.module.load(path, hidden_sizes=(8, 8))["args"]["hidden_sizes"] == (8, 8)
    with pytest.raises(ValueError, match="--hidden-sizes must lie in"):
        case.module.Args(hidden_sizes=[8, 0])


@pytest.mark.parametrize("name", ["a2c_discrete", "a2c_continuous", "reinforce_baseline"])
def test_environments_in_processes_of_their_own_end_quietly(name, tmp_path):
    flags = "--vectorization async --num-envs 2 --total-timesteps 100 --eval-episodes 1"
    command = [sys.executable, ROOT / f"{name}.py", *flags.split(), "--log-dir", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    done = subprocess.run([*command[:-1], "/dev/null"], capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    ("number", "send"),
    [(signal.SIGINT, os.killpg), (signal.SIGTERM, os.killpg), (signal.SIGTERM, os.kill)],
)
@pytest.mark.parametrize("name", ["a2c_discrete", "a2c_continuous", "reinforce_baseline"])
def test_environments_in_processes_of_their_own_are_interrupted(name, tmp_path, number, send):
    """By Ctrl-C in a terminal or a scheduler's SIGTERM, which reach the workers too, or alone."""
    flags = ["--vectorization", "async", "--num-envs", "2", *LONG, "--log-dir", tmp_path]
    process = subprocess.Popen(
        [sys.executable, ROOT / f"{name}.py", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        wait_for_checkpoint(process, tmp_path)
        send(process.pid, number)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "Traceback" not in err
    (path,) = tmp_path.glob("*/checkpoint.pt")
    step = int(out.splitlines()[-1].removeprefix("stopped at step ").split(":")[0])
    assert torch.load(path, weights_only=True)["global_step"] == step


@pytest.mark.parametrize("name", ["a2c_discrete", "a2c_continuous", "reinforce_baseline"])
def test_interrupt_in_the_middle_of_an_answer(name, tmp_path, monkeypatch, capsys):
    """Of a worker's answer, and the 4 bytes before it that tell its length, only those are read."""
    script, pipes = importlib.import_module(name), []
    pid, receive = os.getpid(), Connection._recv

    def interrupted(self, size, *rest):
        answer = receive(self, size, *rest)
        if os.getpid() == pid and size == 4:
            pipes.append(self)
        if len(pipes) > 50 and self is pipes[0]:
            pipes.clear()
            time.sleep(0.5)  # by then the other worker has answered, too
            raise KeyboardInterrupt
        return answer

    args = script.Args(num_envs=2, vectorization="async", log_dir=str(tmp_path))
    monkeypatch.setattr(Connection, "_recv", interrupted)
    with pytest.raises(KeyboardInterrupt):
        script.train(args)
    assert "stopped at step" in capsys.readouterr().out
    assert list(tmp_path.glob("*/checkpoint.pt"))
    deadline = time.time() + 30
    while multiprocessing.active_children() and time.time() < deadline:
        time.sleep(0.1)
    assert not multiprocessing.active_children()


# Bad input: one line that names the flag, exit status 2, no traceback, nothing made


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--env-id", "CartPole-v7"], ["--env-id", "CartPole"]),
        (["--env-id", "CatPole-v1"], ["--env-id", "CartPole"]),
        (["--env-id", "nowhere:CartPole-v1"], ["--env-id", "nowhere"]),
        (["--env-id", "Picture"], ["--env-id Picture", "no vector", "MLP"]),
        (["--env-id", "Sentence"], ["--env-id Sentence", "no vector", "MLP"]),
        (["--env-id", "Needy"], ["--env-id Needy", "argument"]),
        (["--seed", "18446744073709551616"], ["--seed must lie in", "got 18446744073709551616"]),
        (["--gamma", "1.5"], ["--gamma must lie in [0, 1], got 1.5"]),
        (["--gamma", "nan"], ["--gamma must lie in [0, 1], got nan"]),
        (["--actor-lr", "-1"], ["--actor-lr", "got -1"]),
        (["--hidden-sizes", "64", "0"], ["--hidden-sizes"]),
        (["--eval-episodes", "0"], ["--eval-episodes", "got 0"]),
        (["--capture-video"], ["--capture-video", "no pictures"]),
        (["--resume", "nowhere.pt"], ["--resume nowhere.pt", "no such file"]),
        (["--resume", "README.md"], ["--resume README.md", "not a checkpoint"]),
        (["--log-dir", "/dev/null"], ["--log-dir", "/dev/null"]),
        (["--device", "cuda"], ["--device cuda", "cpu"]),
        (["--gama", "1"], ["--gama", "--gamma"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
@pytest.mark.filterwarnings("ignore:.*render_modes")  # Gymnasium's word on Endless
def test_bad_input(case, cli, tmp_path, monkeypatch, flags, words):
    if flags == ["--device", "cuda"] and torch.cuda.is_available():
        pytest.skip("this machine has cuda")
    if flags[-1] in ("Picture", "Sentence", "Needy"):  # with actions of the script's kind
        flags = ["--env-id", case.toy.replace("Identity", flags[-1])]
    if flags == ["--capture-video"]:
        flags = ["--env-id", case.toy.replace("Identity", "Endless"), *flags]
    monkeypatch.chdir(ROOT)
    assert_refused(cli(case.file, *flags), tmp_path, words)


def test_an_environment_for_another_script(case, cli, tmp_path):
    env_id, script = case.other_kind
    assert_refused(cli(case.file, "--env-id", env_id), tmp_path, ["--env-id", script])


def test_foreign_checkpoints_are_refused(case, cli, tmp_path):
    first = cli(case.file, "--total-timesteps", 600, "--eval-episodes", 1)
    path = checkpoint_of(first.out)
    folders = len(list(tmp_path.iterdir()))
    for flags, words in (
        (["--env-id", case.other_task], f", not {case.other_task}"),
        (["--hidden-sizes", "16", "16"], f"sizes {case.module.Args().hidden_sizes}, not (16,"),
        (["--activation", "relu"], "activation tanh, not relu"),
        (["--activation", "tanh"], "activation relu, not tanh"),
    ):
        if f"activation {flags[-1]}" == f"activation {case.module.Args().activation}":
            continue
        outcome = cli(case.file, "--resume", path, *flags)
        assert outcome.status == 2
        assert words in outcome.err
        assert len(outcome.err.strip().splitlines()) == 1
    state = torch.load(path, weights_only=True)
    torch.save(state | {"script": "foreign"}, tmp_path / "foreign.pt")
    outcome = cli(case.file, "--resume", tmp_path / "foreign.pt")
    assert (outcome.status, "script foreign" in outcome.err) == (2, True)
    torch.save(state | {"args": state["args"] | {"old_flag": 1}}, tmp_path / "old.pt")
    outcome = cli(case.file, "--resume", tmp_path / "old.pt")
    assert (outcome.status, "another version" in outcome.err) == (2, True)
    missing = {name: value for name, value in state["args"].items() if name != "activation"}
    torch.save(state | {"args": missing}, tmp_path / "older.pt")
    with pytest.raises(ValueError, match="activation None"):
        case.module.train(case.module.Args(resume=str(tmp_path / "older.pt")))
    assert len(outcome.err.strip().splitlines()) == 1
    damaged = {name: value for name, value in state.items() if name != "agent"}
    sizes = state | {"agent": {name: w.unsqueeze(0) for name, w in state["agent"].items()}}
    for content in (damaged, sizes):  # the environment may have changed, too
        torch.save(content, tmp_path / "damaged.pt")
        outcome = cli(case.file, "--resume", tmp_path / "damaged.pt")
        assert (outcome.status, f"no agent for {case.default_task}" in outcome.err) == (2, True)
        assert len(outcome.err.strip().splitlines()) == 1
    assert len(list(tmp_path.iterdir())) == folders + 4


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("reward", np.nan),
        ("reward", -np.inf),
        ("obs", np.nan),
        ("obs", np.inf),
        ("last obs", np.nan),
        ("first obs", np.nan),
    ],
)
def test_nan_stops_the_run_and_spares_the_checkpoint(case, cli, tmp_path, register, where, value):
    kwargs = gym.spec(case.toy).kwargs | {"where": where, "value": value}
    register("Poison-v0", "tests.toys:Poisoned", **kwargs)
    flags = [*case.flags, "--env-id", "Poison-v0", "--checkpoint-interval", 0]
    with np.errstate(invalid="ignore"):
        outcome = cli(case.file, *flags)
    assert outcome.status == 2
    assert "Traceback" not in outcome.err
    message = outcome.err.strip().splitlines()[-1]
    step = int(message.removeprefix("error: step ").split(":")[0])
    assert where == "reward" or "observation" in message or "transition" in message
    envs, when = case.small.get("num_envs", 1), 25 + {"last obs": 25, "first obs": 0}.get(where, 12)
    assert envs * when <= step <= envs * (when + case.steps)
    (path,) = tmp_path.glob("*/checkpoint.pt")
    state = torch.load(path, weights_only=True)
    assert state["global_step"] < step
    assert all(w.isfinite().all() for w in state["agent"].values())

"""Helpers for all tests: the scripts, their command line, and an exactly solvable MDP."""

import contextlib
import importlib
import itertools
import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch

import tests.toys  # noqa: F401  registers the toy environments

ROOT = Path(__file__).parent.parent
Outcome = namedtuple("Outcome", "status out err")
torch.set_num_threads(1)


@dataclass(frozen=True)
class Case:
    """What a test needs to know about a script."""

    name: str
    toy: str  # an Identity environment with actions of the right kind
    # A training return that the script reaches on the toy within 5,500 steps (seeds 0 to 9). With
    # Discrete actions, a random policy averages 8.3.
    target: float
    small: dict  # flags for a short run
    steps: int  # of each environment between two updates in this run
    other_task: str  # an environment like the default one, to test that its checkpoint is refused
    other_kind: tuple[str, str]  # an environment with unsuitable actions, and the script for it
    parts: set[str]  # the entries of a checkpoint that hold weights, optimizers and buffers
    losses: tuple[str, ...]  # what update() returns and the script checks
    entropy: bool = True  # whether the policy is a distribution
    idle: dict = field(default_factory=dict)  # flags for a long run that does not need to learn

    @property
    def module(self):
        return importlib.import_module(self.name)

    @property
    def file(self):
        return f"{self.name}.py"

    @property
    def is_box(self):
        return "Box" in self.toy

    @property
    def num_envs(self):
        return self.small.get("num_envs", 1)

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

    def agent(self, obs_size, act_size, **changes):
        return self.module.Agent(obs_size, act_size, self.args("nowhere", **changes))

    def optimizer_states(self, checkpoint):
        return [checkpoint[name] for name in sorted(self.parts) if name.endswith("optimizer")]


DISCRETE = {"other_task": "Acrobot-v1", "other_kind": ("Pendulum-v1", "a2c_continuous.py")}
CONTINUOUS = {
    "other_task": "MountainCarContinuous-v0",
    "other_kind": ("CartPole-v1", "a2c_discrete.py"),
}
CASES = [
    Case(
        "a2c_discrete",
        toy="Identity-v0",
        target=9.0,
        small={"num_envs": 4, "num_steps": 8},
        steps=8,
        parts={"agent", "optimizer"},
        losses=("policy_loss", "value_loss", "grad_norm"),
        **DISCRETE,
    ),
    Case(
        "a2c_continuous",
        toy="IdentityBox-v0",
        target=9.0,
        small={"num_envs": 4, "num_steps": 8, "critic_updates": 2},
        steps=8,
        parts={"agent", "optimizer"},
        losses=("policy_loss", "value_loss", "grad_norm"),
        **CONTINUOUS,
    ),
    Case(
        "reinforce_baseline",
        toy="Identity-v0",
        target=9.0,
        small={"num_envs": 4, "critic_updates": 2},
        steps=25,
        parts={"agent", "optimizer"},
        losses=("policy_loss", "value_loss", "grad_norm"),
        **DISCRETE,
    ),
    Case(
        "ac_td0",
        toy="Identity-v0",
        target=9.0,
        small={},
        steps=1,
        parts={"agent", "optimizer"},
        losses=("delta", "log_prob"),
        **DISCRETE,
    ),
    Case(
        "ddpg",
        toy="IdentityBox-v0",
        target=9.0,
        small={"learning_starts": 25, "batch_size": 16, "hidden_sizes": (32, 32)},
        steps=1,
        parts={"agent", "target", "actor_optimizer", "critic_optimizer", "buffer"},
        losses=("policy_loss", "value_loss"),
        entropy=False,
        idle={"learning_starts": 100_000},
        **CONTINUOUS,
    ),
]
VECTOR_CASES = [case for case in CASES if case.num_envs > 1]


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request):
    """Each of the five scripts."""
    return request.param


@pytest.fixture(params=VECTOR_CASES, ids=lambda case: case.name)
def vector_case(request):
    """Each of the three scripts with parallel environments."""
    return request.param


@pytest.fixture(autouse=True)
def restore_process_settings():
    """Restore what a script sets for the whole process, and start each test from the same seed."""
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    threads, hook = torch.get_num_threads(), threading.excepthook
    torch.manual_seed(0)
    yield
    for number, handler in handlers:
        signal.signal(number, handler)
    threading.excepthook = hook
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path):
    """Run a script as if from the command line, with its runs in tmp_path; returns an Outcome."""

    def run(script, *flags):
        argv = [script, *map(str, flags)]
        if "--log-dir" not in argv:
            argv += ["--log-dir", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", argv)
        capsys.readouterr()
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
            status = 0
        except SystemExit as exit:
            status = exit.code
        return Outcome(status, *capsys.readouterr())

    return run


@pytest.fixture
def register(monkeypatch):
    """Register a toy environment with other keyword arguments, for one test."""

    def register(name, entry_point, max_episode_steps=None, vector_entry_point=None, **kwargs):
        spec = gym.envs.registration.EnvSpec(
            name,
            entry_point,
            max_episode_steps=max_episode_steps,
            vector_entry_point=vector_entry_point,
            kwargs=kwargs,
        )
        monkeypatch.setitem(gym.registry, name, spec)

    return register


@pytest.fixture
def played(monkeypatch):
    """A list of the actions that a vector environment receives, (N, ...) for each step."""
    actions_of_each_step, step = [], gym.vector.SyncVectorEnv.step

    def record(envs, actions):
        actions_of_each_step.append(np.array(actions))
        return step(envs, actions)

    monkeypatch.setattr(gym.vector.SyncVectorEnv, "step", record)
    return actions_of_each_step


@pytest.fixture
def set_clock(monkeypatch):
    """Replace a script's clock by one that advances by `tick` seconds at each reading.

    Scripts report every quarter of a second (reinforce_baseline.py every second) and at the end.
    """

    def set_clock(module, tick):
        ticks = itertools.count(time.time(), tick)
        clock = SimpleNamespace(time=lambda: next(ticks), perf_counter=lambda: next(ticks))
        monkeypatch.setattr(module, "time", clock)

    return set_clock


@pytest.fixture
def report_every_update(monkeypatch):
    """A clock that advances by two seconds per reading, so every update is reported."""
    clock = itertools.count(0.0, 2.0)
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))


@pytest.fixture
def time_limit():
    """Fail a test that hangs for a minute."""

    def expire(*_):
        raise TimeoutError("the test hangs")

    handler = signal.signal(signal.SIGALRM, expire)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, handler)


def serve():
    """Serve requests on stdin: fork a process that runs a script, or report its exit status.

    Torch is imported only once.
    """
    # The first optimizer imports torch._dynamo.
    for name in ("tyro", "torch.utils.tensorboard", "torch._dynamo", "gymnasium"):
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        if pid := request.get("poll"):
            ended, status = os.waitpid(pid, os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if ended else None), flush=True)
        elif pid := os.fork():
            with contextlib.suppress(PermissionError):  # the child may have done it already
                os.setpgid(pid, pid)
            print(pid, flush=True)
        else:
            os.setpgid(0, 0)
            # A shell that runs the tests in the background makes its children ignore Ctrl-C.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            names = os.devnull, request["out"], request["err"]
            for number, name in enumerate(names):
                os.dup2(os.open(name, os.O_RDWR | os.O_CREAT, 0o600), number)
            sys.argv = request["argv"]
            if request["method"]:
                multiprocessing.set_start_method(request["method"])
            runpy.run_path(sys.argv[0], run_name="__main__")
            return


class Job:
    """A script that runs in a process of its own, which leads a process group."""

    def __init__(self, server, output, argv, method):
        self.server, self.status = server, None
        self.out_file, self.err_file = output.with_suffix(".out"), output.with_suffix(".err")
        files = {"out": str(self.out_file), "err": str(self.err_file)}
        self.pid = self.ask({"argv": argv, "method": method, **files})

    def ask(self, request):
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def poll(self):
        """The exit status, or None while the process runs."""
        if self.status is None:
            self.status = self.ask({"poll": self.pid})
        return self.status

    def wait(self, timeout=60):
        """Wait for the end; return status, stdout and stderr."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < deadline, f"still running after {timeout} s"
            time.sleep(0.02)
        return Outcome(self.status, self.out_file.read_text(), self.err_file.read_text())

    def wait_for_checkpoint(self, folder):
        """Wait until the run has saved its first checkpoint; return its path."""
        deadline = time.monotonic() + 120
        while not (paths := list(folder.glob("*/checkpoint.pt"))):
            assert self.poll() is None, self.err_file.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return paths[0]

    def group_is_empty(self):
        """Wait up to 30 seconds for the process group to become empty; return whether it did."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                os.killpg(self.pid, 0)
            except ProcessLookupError:
                return True
            time.sleep(0.02)
        return False

    def kill(self):
        """End the whole group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()


@pytest.fixture(scope="session")
def server():
    """A process that starts scripts for `launch`."""
    command = [sys.executable, "-c", "from tests.conftest import serve; serve()"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, start_new_session=True, **pipes) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def launch(server, tmp_path):
    """Start a script in a process of its own, with its runs in tmp_path; returns a Job."""
    jobs = []

    def launch(script, *flags, method=None, log_dir=tmp_path):
        argv = [str(ROOT / script), *map(str, flags), "--log-dir", str(log_dir)]
        jobs.append(Job(server, tmp_path / f"job{len(jobs)}", argv, method))
        return jobs[-1]

    yield launch
    for job in jobs:
        job.kill()


def checkpoint_of(out):
    """Path of the checkpoint of a run, from its standard output."""
    return out.splitlines()[0].removeprefix("run folder: ") + "/checkpoint.pt"


def distance(one, other):
    """Squared distance between two networks' weights."""
    pairs = zip(one.parameters(), other.parameters())
    return sum((p - q).pow(2).sum().item() for p, q in pairs)


def assert_refused(outcome, folder, words):
    """Assert exit status 2, one line that contains the words, and nothing new in the folder."""
    assert outcome.status == 2
    text = " ".join(outcome.err.replace("│", " ").split())
    assert all(word in text for word in words), text
    assert "Traceback" not in outcome.err
    if "For full helptext" not in text:  # tyro prints its errors in a box, with a hint
        assert len(outcome.err.strip().splitlines()) == 1, outcome.err
    assert list(folder.iterdir()) == []


class TinyMDP:
    """Two states, two actions, three steps; every trajectory can be listed with its probability.

    The policy is a table of logits theta (state, action), the critic a table of values.
    """

    horizon = 3
    start = torch.tensor([0.6, 0.4], dtype=torch.float64)
    reward = torch.tensor([[1.0, -0.5], [0.3, 2.0]], dtype=torch.float64)  # (state, action)
    transition = torch.tensor(  # (state, action, next state)
        [[[0.7, 0.3], [0.1, 0.9]], [[0.5, 0.5], [0.8, 0.2]]], dtype=torch.float64
    )

    def trajectories(self, theta):
        """Yield (probability, horizon + 1 states, actions); differentiable in theta."""
        pi = theta.softmax(-1)
        for states in itertools.product(range(2), repeat=self.horizon + 1):
            for actions in itertools.product(range(2), repeat=self.horizon):
                p = self.start[states[0]]
                for s, a, s_next in zip(states, actions, states[1:]):
                    p = p * pi[s, a] * self.transition[s, a, s_next]
                yield p, list(states), list(actions)

    def objective(self, theta, gamma):
        """J(theta) = E[sum over t of gamma^t r[t+1]], exact and differentiable."""
        return sum(
            p * sum(gamma**t * self.reward[s, a] for t, (s, a) in enumerate(zip(states, actions)))
            for p, states, actions in self.trajectories(theta)
        )

    def values(self, theta, gamma):
        """V^pi(t, s), (horizon + 1, 2): zero at the end of the episode."""
        pi, v = theta.softmax(-1).detach(), [torch.zeros(2, dtype=torch.float64)]
        for _ in range(self.horizon):
            q = self.reward + gamma * self.transition @ v[0]
            v.insert(0, (pi * q).sum(-1))
        return torch.stack(v)


@pytest.fixture
def mdp():
    return TinyMDP()

"""class Run, main() and the functions that make environments, one promise at a time."""

import re
import shlex
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from tests import toys
from tests.conftest import assert_refused, checkpoint_of


@pytest.fixture
def clock(case, monkeypatch):
    """A clock for class Run that moves only when a test moves it."""
    clock = SimpleNamespace(now=0.0, time=time.time)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr(case.module, "time", clock)
    return clock


@pytest.fixture
def scalars(monkeypatch):
    """A list of (tag, value, step) of what is written to TensorBoard."""
    written = []
    spy = lambda writer, *scalar: written.append(scalar)  # noqa: E731
    monkeypatch.setattr(SummaryWriter, "add_scalar", spy)
    return written


def run_of(case, folder, **flags):
    """A Run without environments and with a single layer in place of the agent."""
    return case.module.Run(
        case.args(folder, **flags), gym.Env(), gym.Env(), agent=torch.nn.Linear(1, 1)
    )


def add_episode(run, episode_return):
    """One step that ends an episode of the first environment."""
    run.add_step(0.0, episode_return, np.array([True]))


# Reports


def test_checkpoints_are_saved_at_intervals(case, clock, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(case.module.Run, "save", lambda run: saved.append(clock.now))
    with run_of(case, tmp_path, checkpoint_interval=10.0) as run:
        for now in (1, 9, 11, 15, 20, 21, 30, 32, 33):
            clock.now = now
            run.report({})
    assert saved == [11, 21, 32, 33]  # the last one is at the end of the run


def test_steps_per_second_are_those_of_this_run(case, clock, scalars, tmp_path, capsys):
    with run_of(case, tmp_path) as run:
        for _ in range(10):
            run.add_step(0.0, 1.0, False)
        clock.now = 4.0
        run.report({})
    path = checkpoint_of(capsys.readouterr().out)
    with run_of(case, tmp_path, resume=path) as run:
        for _ in range(3):
            run.add_step(0.0, 1.0, False)
        clock.now = 6.0
        run.report({})
    rates = [scalar for scalar in scalars if scalar[0] == "charts/SPS"]
    assert rates == [("charts/SPS", 2.5, 10), ("charts/SPS", 1.5, 13)]


def test_a_resumed_run_logs_only_its_own_episodes(case, scalars, tmp_path, capsys):
    with run_of(case, tmp_path) as run:
        for episode_return in (1.0, 2.0, 3.0):
            add_episode(run, episode_return)
    with run_of(case, tmp_path, resume=checkpoint_of(capsys.readouterr().out)) as run:
        add_episode(run, 7.0)
        run.report({})
    assert ("charts/episodic_return", 7.0, 4) in scalars


def test_progress_bar(case, tmp_path, monkeypatch, capsys):
    bars = []

    class Bar:
        def __init__(self, initial, total, **options):
            self.initial, self.n, self.total, self.closed = initial, initial, total, False
            bars.append(self)

        def update(self, steps):
            self.n += steps

        def set_postfix_str(self, text, refresh):
            self.text = text

        def close(self):
            self.closed = True

    monkeypatch.setattr(case.module, "tqdm", Bar)
    with run_of(case, tmp_path) as run:
        for episode_return in [1000.0] + [3.0] * 50 + [6.0] * 50:
            add_episode(run, episode_return)
        run.report({})
    path = checkpoint_of(capsys.readouterr().out)
    with run_of(case, tmp_path, resume=path) as run:
        add_episode(run, 3.0)
        run.report({})
    assert [(bar.initial, bar.n, bar.total) for bar in bars] == [(0, 101, 1000), (101, 102, 1000)]
    assert bars[0].text == "return 4.5"  # the mean of the last 100 episodes
    assert all(bar.closed for bar in bars)


# The end of a run


def test_the_hint_to_resume_can_be_pasted_into_a_shell(case, tmp_path, capsys):
    with pytest.raises(SystemExit), run_of(case, tmp_path / "my runs; rm *"):
        sys.exit(143)
    *_, flag, path = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert flag == "--resume"
    assert Path(path).is_file()


def test_every_environment_is_closed(case, tmp_path, monkeypatch):
    made, closed, reset = [], [], toys.Identity.reset
    monkeypatch.setattr(toys.Identity, "close", lambda env: closed.append(env))

    def record(env, *, seed=None, options=None):
        made.append(env)
        return reset(env, seed=seed, options=options)

    monkeypatch.setattr(toys.Identity, "reset", record)
    case.module.train(case.args(tmp_path, total_timesteps=100))
    assert len(set(made)) == case.num_envs + 1  # and one for the evaluation
    assert set(closed) == set(made)


# The run folder


def test_the_run_folder_has_no_separator_in_its_name(case, tmp_path, register, capsys):
    register("space/Toy-v0", "tests.toys:Identity", **gym.spec(case.toy).kwargs)
    for env_id in (f"tests.toys:{case.toy}", "space/Toy-v0"):
        case.module.train(case.args(tmp_path, env_id=env_id, total_timesteps=100))
        folder = Path(checkpoint_of(capsys.readouterr().out)).parent
        assert folder.parent == tmp_path
        assert ":" not in folder.name


# Devices


@pytest.mark.parametrize(
    ("found", "name", "want"),
    [
        ("cuda", "auto", "cuda"),
        ("cuda", "cuda", "cuda"),
        ("mps", "auto", "mps"),
        ("mps", "cuda", None),
        (None, "auto", "cpu"),
        (None, "mps", None),
    ],
)
def test_devices(case, monkeypatch, found, name, want):
    device = found and torch.device(found)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: device)
    if want:
        assert case.module.pick_device(name) == torch.device(want)
    else:
        words = f"--device {name}: not available on this machine; use {found or 'cpu'}"
        with pytest.raises(case.module.InputError, match=re.escape(words)):
            case.module.pick_device(name)


# Environments that cannot be made


BOX2D = 'run `pip install "gymnasium[box2d]"`'


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("the mass must be positive"), "the mass must be positive"),
        (AssertionError("the mass must be positive."), "the mass must be positive"),
        (
            gym.error.DependencyNotInstalled(BOX2D),
            f'{BOX2D}; with uv: uv run --with "gymnasium[box2d]" {{file}}',
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_environment_that_cannot_be_made(case, cli, tmp_path, register, error, words):
    register("Unmade-v0", "tests.toys:Unmade", error=error)
    outcome = cli(case.file, "--env-id", "Unmade-v0")
    assert_refused(outcome, tmp_path, [])
    assert outcome.err == f"error: --env-id Unmade-v0: {words.format(file=case.file)}\n"


# The command line


def test_an_ignored_interrupt_stays_ignored(case, monkeypatch):
    """As in the background jobs of a shell script, which a Ctrl-C in the terminal must not end."""
    handlers = []

    def train(_):
        handlers.extend(map(signal.getsignal, (signal.SIGINT, signal.SIGTERM)))

    monkeypatch.setattr(case.module, "train", train)
    monkeypatch.setattr(sys, "argv", [case.file])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    case.module.main()
    assert handlers[0] == signal.SIG_IGN
    assert handlers[1] not in (signal.SIG_IGN, signal.SIG_DFL)


def test_flags_cannot_be_abbreviated(case, cli, tmp_path):
    outcome = cli(case.file, "--resum", "nowhere.pt")
    assert_refused(outcome, tmp_path, ["--resum"])
    assert "not found" not in outcome.err

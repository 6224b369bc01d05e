"""Helpers for all tests: the command line in this process, and an exactly solvable MDP."""

import itertools
import runpy
import signal
import sys
from collections import namedtuple
from pathlib import Path

import gymnasium as gym
import pytest
import torch

import tests.toys  # noqa: F401  registers the toy environments

ROOT = Path(__file__).parent.parent
Outcome = namedtuple("Outcome", "status out err")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def as_it_was():
    """What a script sets for the whole process is set back after each test; chance begins anew."""
    handler = signal.getsignal(signal.SIGTERM)
    torch.manual_seed(0)
    yield
    signal.signal(signal.SIGTERM, handler)
    torch.set_flush_denormal(False)


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
    """Register a toy environment with other keywords, for one test."""

    def register(name, entry_point, **kwargs):
        spec = gym.envs.registration.EnvSpec(name, entry_point, kwargs=kwargs)
        monkeypatch.setitem(gym.registry, name, spec)

    return register


def checkpoint_of(out):
    """The checkpoint of the run whose standard output this is."""
    return out.splitlines()[0].removeprefix("run folder: ") + "/checkpoint.pt"


def distance(one, other):
    """Squared distance of two networks' weights."""
    pairs = zip(one.parameters(), other.parameters())
    return sum((p - q).pow(2).sum().item() for p, q in pairs)


def assert_refused(outcome, folder, words):
    """Exit status 2, one line that holds the words, and nothing made in the folder."""
    assert outcome.status == 2
    text = " ".join(outcome.err.replace("│", " ").split())
    assert all(word in text for word in words), text
    assert "Traceback" not in outcome.err
    if "For full helptext" not in text:  # what tyro finds comes in a box, with a hint
        assert len(outcome.err.strip().splitlines()) == 1
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
        """Yield (probability, states of horizon + 1 steps, actions); differentiable in theta."""
        pi = theta.softmax(-1)
        for states in itertools.product(range(2), repeat=self.horizon + 1):
            for actions in itertools.product(range(2), repeat=self.horizon):
                p = self.start[states[0]]
                for s, a, s_next in zip(states, actions, states[1:]):
                    p = p * pi[s, a] * self.transition[s, a, s_next]
                yield p, list(states), list(actions)

    def objective(self, theta, gamma):
        """J(theta) = E[sum over t of gamma^t r_t], exact and differentiable."""
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

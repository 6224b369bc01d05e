"""ac_td0.py: the two updates of the box, exactly; the order in which things happen."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import ac_td0
from ac_td0 import Agent, Args, sample, td_error
from tests.conftest import assert_refused, checkpoint_of

SCRIPT = "ac_td0.py"
GAMMA = 0.9
PLAIN = Args(gamma=GAMMA, hidden_sizes=(), optimizer="sgd")


def test_td_error_by_hand():
    assert td_error(1.0, 2.0, 10.0, False, 0.5) == 1 + 5 - 2
    assert td_error(1.0, 2.0, 10.0, True, 0.5) == 1 - 2  # V = 0 in a terminal state


def test_sample_draws_from_the_softmax():
    logits = torch.tensor([0.0, 1.0, -1.0])
    draws = torch.nn.functional.one_hot(sample(logits.expand(20_000, 3)), 3).double().mean(0)
    # The deviation of a frequency is at most 0.5 / sqrt(20000) = 0.0035; five of them.
    torch.testing.assert_close(draws, logits.softmax(-1).double(), atol=0.018, rtol=0)


# The updates, exactly, on the tiny MDP: observations say which step it is and which state


def tabular_agent(theta, args, table):
    """A policy with the same logits at each step, and a critic that is a table (step, state)."""
    agent = Agent(8, 2, args).double()
    agent.actor[0].weight.data = theta.T.repeat(1, 4)
    agent.critic[0].weight.data = table
    return agent


def one_hot(t, state):
    return torch.eye(8, dtype=torch.float64)[2 * t + state]


def one_update(agent, mdp, t, states, actions, args, lr=(1.0, 1.0)):
    """One call of the script's update with SGD, for step t of a trajectory."""
    groups = [{"params": list(p.parameters())} for p in (agent.actor, agent.critic)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    for group, rate in zip(optimizer.param_groups, lr):
        group["lr"] = rate
    obs, next_obs = one_hot(t, states[t]), one_hot(t + 1, states[t + 1])
    log_prob = agent.actor(obs).log_softmax(-1)[actions[t]]
    over = t == mdp.horizon - 1
    next_action = 0 if over else actions[t + 1]
    reward = mdp.reward[states[t], actions[t]].item()
    step = (obs, actions[t], reward, next_obs, next_action, over)
    return ac_td0.update(agent, optimizer, log_prob, step, GAMMA**t, args)


@pytest.fixture
def theta():
    return torch.tensor([[0.3, -0.2], [0.5, 0.1]], dtype=torch.float64)


def exact_critic(mdp, theta, kind):
    """(outputs, 8): V(t, s), or Q(t, s, a) with a row for each action."""
    values = mdp.values(theta, GAMMA)
    if kind == "v":
        return values.reshape(1, 8)
    q = [mdp.reward + GAMMA * mdp.transition @ v for v in values[1:]]
    return torch.stack([*q, torch.zeros(2, 2, dtype=torch.float64)]).reshape(8, 2).T


@pytest.mark.parametrize("kind", ["v", "q"])
def test_expected_actor_update_is_the_gradient(mdp, theta, kind):
    """With an exact critic and I = gamma^t: of the discounted value of the start state."""
    args, variable = replace(PLAIN, critic=kind), theta.clone().requires_grad_()
    (truth,) = torch.autograd.grad(mdp.objective(variable, GAMMA), variable)
    exact = exact_critic(mdp, theta, kind)

    def expected(table):
        total = torch.zeros(2, 2, dtype=torch.float64)
        for p, states, actions in mdp.trajectories(theta):
            for t in range(mdp.horizon):
                agent = tabular_agent(theta, args, table.clone())
                before = agent.actor[0].weight.detach().clone()
                one_update(agent, mdp, t, states, actions, args)
                step = (agent.actor[0].weight.detach() - before).reshape(2, 4, 2).sum(1).T
                total += p * step
        return total

    torch.testing.assert_close(expected(exact), truth, atol=1e-6, rtol=0)
    wrong = exact + torch.linspace(-1, 1, exact.numel()).reshape(exact.shape)
    assert (expected(wrong) - truth).abs().max() > 1e-2  # the bias of a critic that is wrong


def test_tabular_critic_converges_to_the_values(mdp, theta):
    """All transitions in turn, each at a rate that is its probability times a falling factor."""
    pi, state, transitions = theta.softmax(-1), mdp.start, []
    for t in range(mdp.horizon):
        p = state[:, None, None] * pi[:, :, None] * mdp.transition  # (s, a, s')
        transitions += [(t, *index, p[index].item()) for index in np.ndindex(2, 2, 2)]
        state = p.sum((0, 1))
    agent = tabular_agent(theta, PLAIN, torch.zeros(1, 8, dtype=torch.float64))
    agent.critic[0].bias.requires_grad_(False)
    for sweep in range(150):
        for t, s, a, s_next, p in transitions:
            states, actions = [s] * (t + 1) + [s_next] * mdp.horizon, [a] * mdp.horizon
            one_update(agent, mdp, t, states, actions, PLAIN, lr=(0.0, p / (1 + sweep / 10)))
    error = agent.critic[0].weight.detach().reshape(4, 2) - mdp.values(theta, GAMMA)
    assert error.abs().max() < 1e-2


@pytest.mark.parametrize("kind", ["v", "q"])
def test_both_updates_use_one_delta_from_before_either(mdp, theta, kind):
    args = replace(PLAIN, critic=kind)
    table = torch.arange(8.0, dtype=torch.float64).repeat(2 if kind == "q" else 1, 1) / 10
    agent = tabular_agent(theta, args, table.clone())
    before = agent.actor[0].weight.detach().clone()
    t, states, actions = 1, [0, 1, 0, 1], [1, 0, 1]
    delta, value = one_update(agent, mdp, t, states, actions, args)
    assert value == pytest.approx(0.3)
    want = mdp.reward[1, 0].item() + GAMMA * 0.4 - 0.3
    assert delta == pytest.approx(want)
    # The critic moves by delta at S (and A), and nowhere else: no gradient through the target.
    moved = agent.critic[0].weight.detach() - table
    expected = torch.zeros_like(moved)
    expected[0, 2 * 1 + 1] = want
    torch.testing.assert_close(moved, expected)
    # The actor by I delta grad log pi, or I Q grad log pi: the same delta, not a newer one.
    weight = GAMMA * (want if kind == "v" else 0.3)
    moved = (agent.actor[0].weight.detach() - before)[:, 2 * 1 + 1]
    grad_log_pi = torch.tensor([1.0, 0.0], dtype=torch.float64) - theta[1].softmax(-1)
    torch.testing.assert_close(moved, weight * grad_log_pi)


# The loop


@pytest.fixture
def steps_of(tmp_path, monkeypatch):
    """The steps that a training on Scripted-v0 hands to `update`, with I."""

    def run(**changes):
        steps = []

        def spy(agent, optimizer, log_prob, step, gamma_t, args):
            steps.append((*step, gamma_t))
            return original(agent, optimizer, log_prob, step, gamma_t, args)

        original = ac_td0.update
        monkeypatch.setattr(ac_td0, "update", spy)
        args = Args(env_id="Scripted-v0", eval_episodes=1, total_timesteps=90, gamma=GAMMA)
        _, episodes = ac_td0.train(replace(args, log_dir=str(tmp_path), **changes))
        return steps, episodes

    return run


def test_steps_of_scripted_episodes(steps_of):
    """Lengths 3, 2, 4, ended by termination, truncation, both; I is gamma^t in each."""
    steps, episodes = steps_of(discount_policy_gradient=True)
    want = []
    for episode in range(30):
        length, end = (3, 2, 4)[episode % 3], "tub"[episode % 3]
        for t in range(length):
            terminated = t == length - 1 and end in "tb"
            want.append(([episode, t], 1.0 + t, [episode, t + 1], terminated, GAMMA**t))
    assert len(steps) == 90
    for (obs, _, reward, next_obs, _, terminated, gamma_t), row in zip(steps, want):
        assert (obs.tolist(), reward, next_obs.tolist(), terminated) == row[:4]
        assert gamma_t == pytest.approx(row[4])
    returns = [{3: 6.0, 2: 3.0, 4: 10.0}[length] for _, _, length in episodes]
    assert [r for _, r, _ in episodes] == returns
    assert [step for step, _, _ in episodes][:3] == [3, 5, 9]


@pytest.mark.parametrize("kind", ["v", "q"])
def test_the_policy_loss_that_is_logged_is_the_one_that_is_learned(steps_of, monkeypatch, kind):
    """I delta log pi(A|S), or I Q log pi(A|S), over the steps since the last report: here all."""
    terms, errors, values, logged = [], [], [], {}

    def spy(agent, optimizer, log_prob, step, gamma_t, args):
        delta, value = update(agent, optimizer, log_prob, step, gamma_t, args)
        terms.append(gamma_t * (delta if kind == "v" else value) * log_prob.item())
        errors.append(delta)
        values.append(value)
        return delta, value

    def log(self, tag, value, step):
        logged[tag] = value

    update = ac_td0.update
    monkeypatch.setattr(ac_td0, "update", spy)
    clock = itertools.count(0, 1e-6)  # too slow for a report before the end
    monkeypatch.setattr(ac_td0, "time", SimpleNamespace(time=lambda: next(clock)))
    monkeypatch.setattr(ac_td0.SummaryWriter, "add_scalar", log)
    steps, _ = steps_of(critic=kind, discount_policy_gradient=True)
    assert len(terms) == len(steps)
    assert logged["losses/policy_loss"].item() == pytest.approx(-np.mean(terms), rel=1e-5)
    assert logged["losses/value_loss"].item() == pytest.approx(np.mean(np.square(errors)), rel=1e-5)
    explained = 1 - np.var(errors) / np.var(np.add(values, errors))
    assert logged["losses/explained_variance"].item() == pytest.approx(explained, abs=1e-4)


def test_by_default_the_policy_gradient_is_not_discounted(steps_of):
    steps, _ = steps_of()
    assert {step[-1] for step in steps} == {1.0}


def test_qac_takes_the_action_that_it_learned_with(steps_of):
    steps, _ = steps_of(critic="q")
    pairs = [(one, two) for one, two in zip(steps, steps[1:]) if two[0][1] > 0]
    assert len(pairs) > 50
    assert all(one[4] == two[1] for one, two in pairs)  # A' of one step is A of the next
    pairs = [(one, two) for one, two in zip(steps, steps[1:]) if two[0][1] == 0]
    assert any(one[4] != two[1] for one, two in pairs)  # but of an episode's first: drawn anew
    assert len({step[1] for step in steps}) == 3


# Learning


@pytest.mark.parametrize("kind", ["v", "q"])
def test_learns_the_identity(tmp_path, kind):
    """Measured over seeds 0 to 9: 25 of 25, with both."""
    args = Args(env_id="Identity-v0", critic=kind, total_timesteps=4_000, gamma=0.4)
    agent, _ = ac_td0.train(replace(args, actor_lr=2e-3, log_dir=str(tmp_path)))
    assert min(ac_td0.evaluate(agent, ac_td0.make_env(args), 3)) > 20


# Bad input


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--critic", "w"], ["--critic", "v", "q"]),
        (["--optimizer", "rmsprop"], ["--optimizer", "sgd"]),
        (["--total-timesteps", "0"], ["--total-timesteps", "got 0"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_bad_input(cli, tmp_path, flags, words):
    assert_refused(cli(SCRIPT, *flags), tmp_path, words)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_optimizer(tmp_path, capsys, optimizer):
    args = Args(env_id="Identity-v0", total_timesteps=50, eval_episodes=1, log_dir=str(tmp_path))
    ac_td0.train(replace(args, optimizer=optimizer))
    state = torch.load(checkpoint_of(capsys.readouterr().out), weights_only=True)["optimizer"]
    assert any("exp_avg" in moments for moments in state["state"].values()) == (optimizer == "adam")


def test_a_broken_actor_is_noticed(tmp_path, monkeypatch):
    """An actor of NaN still takes actions, and the critic alone would not tell."""

    def break_actor(self, *args):
        original(self, *args)
        self.actor[-1].bias.data.fill_(np.nan)

    original = Agent.__init__
    monkeypatch.setattr(Agent, "__init__", break_actor)
    with pytest.raises(FloatingPointError, match="step 1: "):
        ac_td0.train(Args(env_id="Identity-v0", total_timesteps=50, log_dir=str(tmp_path)))


def test_weights_that_overflow_are_not_saved(tmp_path):
    """The TD error is that of before the step: it does not yet tell that the step was too large."""
    rates = {"optimizer": "sgd", "actor_lr": 1.0, "critic_lr": 1.0, "activation": "relu"}
    args = Args(total_timesteps=600, checkpoint_interval=0, log_dir=str(tmp_path), **rates)
    with pytest.raises(FloatingPointError, match="NaN or inf in weights"):
        ac_td0.train(args)
    (checkpoint,) = tmp_path.glob("*/checkpoint.pt")
    state = torch.load(checkpoint, weights_only=True)
    assert all(weight.isfinite().all() for weight in state["agent"].values())

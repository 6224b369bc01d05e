"""ddpg.py: its equations, the replay buffer, the exploration, the order in which things happen."""

import copy
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import ddpg
from ddpg import Agent, Args, ReplayBuffer, actor_loss, critic_loss, polyak_update, td_target
from tests.conftest import assert_refused, checkpoint_of, distance

SCRIPT = "ddpg.py"
SMALL = Args(hidden_sizes=(8,), batch_size=16, learning_starts=20, eval_episodes=1)


# The equations


def test_target_by_hand():
    rewards, next_q = torch.tensor([1.0, 1.0]), torch.tensor([10.0, 10.0])
    y = td_target(rewards, next_q, torch.tensor([0.0, 1.0]), 0.5)
    assert y.tolist() == [6.0, 1.0]  # Q = 0 in a terminal state


def test_critic_loss_by_hand_and_without_gradient_through_the_target():
    q = torch.tensor([[1.0, 2.0], [0.0, 0.0]], requires_grad=True)  # two critics
    y = torch.tensor([2.0, 4.0], requires_grad=True)
    loss = critic_loss(q, y)
    assert loss.item() == (1 + 4) / 2 + (4 + 16) / 2
    loss.backward()
    assert y.grad is None
    assert q.grad.tolist() == [[-1.0, -2.0], [-2.0, -4.0]]
    with pytest.raises(AssertionError):
        critic_loss(q, y.unsqueeze(1))


@pytest.mark.parametrize("tau", [0.0, 0.01, 0.3, 1.0])
def test_polyak_average_in_closed_form(tau):
    source, target = torch.nn.Linear(3, 2).double(), torch.nn.Linear(3, 2).double()
    first = copy.deepcopy(target)
    for _ in range(7):
        polyak_update(source, target, tau)
    for s, t, t0 in zip(source.parameters(), target.parameters(), first.parameters()):
        torch.testing.assert_close(t, s + (1 - tau) ** 7 * (t0 - s), atol=1e-14, rtol=0)


# The deterministic policy gradient


def agent_and_batch(batch_size=5, **changes):
    """Everything in float64, with last layers that are not close to 0."""
    torch.manual_seed(0)
    args = replace(SMALL, **changes)
    agent = Agent(3, 2, args).double()
    for weight in agent.parameters():
        torch.nn.init.normal_(weight, 0, 0.5)
    obs, next_obs = torch.randn(2, batch_size, 3, dtype=torch.float64)
    actions = torch.rand(batch_size, 2, dtype=torch.float64) * 2 - 1
    rewards, terminated = torch.randn(batch_size).double(), torch.eye(batch_size).double()[0]
    return agent, (obs, actions, rewards, next_obs, terminated), args


def optimizer_of(agent, actor_lr, critic_lr):
    groups = [{"params": agent.actor.parameters(), "lr": actor_lr}]
    groups += [{"params": agent.critics.parameters(), "lr": critic_lr}]
    return torch.optim.SGD(groups)


def test_actor_moves_along_finite_differences_of_q():
    agent, batch, args = agent_and_batch()
    obs = batch[0]
    want = []
    for weight in agent.actor.parameters():
        for i in range(weight.numel()):
            results = []
            for step in (1e-5, -1e-5):
                weight.data.view(-1)[i] += step
                results.append(agent.q(obs, agent.pi(obs)).mean().item())
                weight.data.view(-1)[i] -= step
            want.append((results[0] - results[1]) / 2e-5)
    before = copy.deepcopy(agent)
    target = copy.deepcopy(agent).requires_grad_(False)
    ddpg.update(agent, target, optimizer_of(agent, 1.0, 0.0), batch, args, True, False)
    moved = [
        (new - old).view(-1)
        for new, old in zip(agent.actor.parameters(), before.actor.parameters())
    ]
    torch.testing.assert_close(torch.cat(moved), torch.tensor(want, dtype=torch.float64))


def test_deterministic_policy_gradient_of_a_linear_quadratic_regulator(monkeypatch):
    """s' = a s + b u, reward -(s^2 + c u^2), policy u = -k s: Q and the return have closed forms.

    Over the discounted states of one episode the gradient of the script's loss is that of the
    return: the deterministic policy gradient theorem (Silver et al. 2014).
    """
    a, b, c, gamma, k0, s0 = 0.9, 0.5, 0.3, 0.95, 0.4, 1.7
    monkeypatch.setattr(Agent, "pi", lambda self, obs: self.actor(obs))  # linear, no tanh
    agent = Agent(1, 1, replace(SMALL, hidden_sizes=())).double()
    agent.actor[0].weight.data.fill_(-k0)
    agent.actor[0].bias.data.zero_()

    def cost(k):  # of s0^2 = 1, from P = 1 + c k^2 + gamma (a - b k)^2 P
        return (1 + c * k**2) / (1 - gamma * (a - b * k) ** 2)

    def q(s, u):
        return -(s**2 + c * u**2 + gamma * cost(k0) * (a * s + b * u) ** 2).squeeze(-1)

    t = torch.arange(600, dtype=torch.float64).unsqueeze(-1)
    states, weights = s0 * (a - b * k0) ** t, (gamma**t).squeeze(-1)
    loss = actor_loss(len(t) * weights * q(states, agent.pi(states)))
    (got,) = torch.autograd.grad(loss, agent.actor[0].weight)
    k = torch.tensor(k0, dtype=torch.float64, requires_grad=True)
    (want,) = torch.autograd.grad(-cost(k) * s0**2, k)
    assert got.item() == pytest.approx(want.item(), rel=1e-9)  # d/dk of the return = d/dw of loss


def test_critic_moves_towards_a_target_of_the_targets():
    """By hand from the targets' networks; the next action is pi', not the one that was stored."""
    agent, batch, args = agent_and_batch(gamma=0.9, tau=0.25)
    obs, actions, rewards, next_obs, terminated = batch
    target = copy.deepcopy(agent).requires_grad_(False)
    for weight in target.parameters():
        weight.data += torch.randn_like(weight)
    first, source = copy.deepcopy(target), copy.deepcopy(agent)
    y = rewards + 0.9 * (1 - terminated) * target.q(next_obs, target.pi(next_obs))[0]
    loss = (y - source.q(obs, actions)[0]).pow(2).mean()
    gradients = torch.autograd.grad(loss, source.critics.parameters())
    losses = ddpg.update(agent, target, optimizer_of(agent, 0.0, 0.1), batch, args, True, True)
    assert losses["value_loss"].item() == pytest.approx(loss.item())
    q = source.q(obs, actions)[0]
    assert losses["q_values"].item() == pytest.approx(q.mean().item())
    explained = 1 - (y - q).var(correction=0) / y.var(correction=0)
    assert losses["explained_variance"].item() == pytest.approx(explained.item())
    saturated = (source.pi(obs).abs() > 0.99).double().mean().item()
    assert losses["saturated_actions"].item() == pytest.approx(saturated)
    for new, old, g in zip(agent.critics.parameters(), source.critics.parameters(), gradients):
        torch.testing.assert_close(new, old - 0.1 * g)
    for t, t0, s in zip(target.parameters(), first.parameters(), agent.parameters()):
        torch.testing.assert_close(t, 0.25 * s + 0.75 * t0)
    # The actor saw the critic that had just moved.
    want = -agent.q(obs, source.pi(obs)).mean()
    assert losses["policy_loss"].item() == pytest.approx(want.item())
    gradients += torch.autograd.grad(want, source.actor.parameters())
    norm = sum(g.pow(2).sum() for g in gradients).sqrt()
    assert losses["grad_norm"].item() == pytest.approx(norm.item())


def test_saturated_actions_are_those_at_the_bounds():
    agent, batch, args = agent_and_batch()
    for weight in agent.actor.parameters():
        weight.data.zero_()
    agent.actor[-1].bias.data = torch.tensor([9.0, 0.0], dtype=torch.float64)
    target = copy.deepcopy(agent).requires_grad_(False)
    losses = ddpg.update(agent, target, optimizer_of(agent, 0.0, 0.0), batch, args, True, True)
    assert losses["saturated_actions"] == 0.5


def test_the_last_layers_start_small():
    agent = Agent(3, 2, Args(twin_critics=True))
    for network in (agent.actor, *agent.critics):
        for weight in network[-1].parameters():
            assert 0 < weight.abs().max() <= 3e-3


def test_both_of_twin_critics_learn(tmp_path):
    args = replace(SMALL, env_id="IdentityBox-v0", total_timesteps=40, log_dir=str(tmp_path))
    first, agent = (
        ddpg.train(replace(args, twin_critics=True, critic_lr=rate))[0] for rate in (0.0, 1e-3)
    )
    assert all(distance(*two) > 0 for two in zip(first.critics, agent.critics, strict=True))


def test_without_improve_the_actor_stands_still_and_the_targets_move():
    agent, batch, args = agent_and_batch()
    target, before = copy.deepcopy(agent).requires_grad_(False), copy.deepcopy(agent)
    losses = ddpg.update(agent, target, optimizer_of(agent, 1.0, 0.1), batch, args, False, True)
    assert distance(agent.actor, before.actor) == 0.0
    assert distance(agent.critics, before.critics) > 0.0
    assert distance(target, before) > 0.0
    assert "policy_loss" not in losses  # nothing is logged that was not computed


def test_of_twin_critics_the_smaller_counts():
    agent, batch, args = agent_and_batch(50, twin_critics=True)
    obs, actions, rewards, next_obs, terminated = batch
    target = copy.deepcopy(agent).requires_grad_(False)
    q = target.q(next_obs, target.pi(next_obs))
    assert q.shape == (2, 50)
    assert 0 < (q[0] < q[1]).sum() < 50  # now one is the smaller, now the other
    y = rewards + args.gamma * (1 - terminated) * torch.minimum(*q)
    want = sum((y - q).pow(2).mean() for q in agent.q(obs, actions)).item()
    losses = ddpg.update(agent, target, optimizer_of(agent, 0.0, 0.0), batch, args, True, False)
    assert losses["value_loss"].item() == pytest.approx(want)
    want = -agent.q(obs, agent.pi(obs))[0].mean().item()  # the actor climbs the first one
    assert losses["policy_loss"].item() == pytest.approx(want)


def test_overestimation_by_hand(monkeypatch):
    agent = Agent(1, 1, SMALL)
    # Q(s, a) = 4 + s; the other twin has more.
    monkeypatch.setattr(Agent, "q", lambda self, obs, actions: torch.cat((5 + obs.T, 4 + obs.T)))
    episode = [(np.array([0.0]), np.zeros(1), 1.0), (np.array([1.0]), np.zeros(1), 2.0)]
    # Returns 1 + 0.5 * 2 and 2; with the time limit 2 + 0.5 (4 + 6) and half of it more.
    got = ddpg.overestimation(agent, episode, np.array([6.0]), True, 0.5)
    assert got == pytest.approx((4 + 5) / 2 - (2 + 2) / 2)
    got = ddpg.overestimation(agent, episode, np.array([6.0]), False, 0.5)
    assert got == pytest.approx((4 + 5) / 2 - (4.5 + 7) / 2)


def test_overestimation_is_logged_as_it_was_found(recorded, monkeypatch, tmp_path):
    """Of each episode that ended after the first update, and averaged over those of a point."""
    found = []

    def constant(agent, episode, *rest):
        found.append(len(episode))
        return 5.0

    monkeypatch.setattr(ddpg, "overestimation", constant)
    _, _, episodes = recorded()
    assert found == [length for step, _, length in episodes if step > 20]
    (run,) = tmp_path.iterdir()
    events = EventAccumulator(str(run)).Reload()
    assert {event.value for event in events.Scalars("losses/overestimation")} == {5.0}


# The replay buffer


def filled(capacity, count):
    buffer = ReplayBuffer(capacity, 2, 1)
    for i in range(count):
        buffer.add([i, 10 + i], [20 + i], 30 + i, [40 + i, 50 + i], i % 2 == 0)
    return buffer


def test_buffer_keeps_transitions_together():
    obs, actions, rewards, next_obs, terminated = filled(10, 4).sample(1000)
    i = obs[:, 0]
    assert set(i.tolist()) == {0, 1, 2, 3}  # nothing from rows that are not filled
    assert obs.shape == next_obs.shape == (1000, 2)
    assert rewards.shape == terminated.shape == (1000,)
    for column, start in ((obs[:, 1], 10), (actions[:, 0], 20), (rewards, 30)):
        assert torch.equal(column, i + start)
    assert torch.equal(next_obs, torch.stack((i + 40, i + 50), 1))
    assert torch.equal(terminated, 1 - i % 2)


def test_buffer_overwrites_the_oldest():
    buffer = filled(5, 13)
    assert len(buffer) == 5
    assert set(buffer.sample(1000)[0][:, 0].tolist()) == {8, 9, 10, 11, 12}
    assert buffer.oldest_first()[:, 0].tolist() == [8, 9, 10, 11, 12]
    assert filled(5, 3).oldest_first()[:, 0].tolist() == [0, 1, 2]
    assert filled(5, 5).oldest_first()[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_memory_is_stated_at_the_start(recorded, capsys):
    recorded(buffer_size=2**20)  # of 2 + 2 + 1 + 2 + 1 numbers each, 4 bytes the number
    assert "\nreplay buffer: 1,048,576 transitions, 0.03 GiB\n" in capsys.readouterr().out


@pytest.mark.parametrize("capacity", [3, 5, 8])
def test_buffer_filled_from_another_goes_on_by_age(capacity):
    buffer = ReplayBuffer(capacity, 2, 1)
    buffer.fill(filled(5, 13).oldest_first())
    buffer.add([13, 0], [0], 0, [0, 0], False)
    newest = [8, 9, 10, 11, 12, 13]
    assert buffer.oldest_first()[:, 0].tolist() == newest[-min(capacity, 6) :]


@pytest.mark.parametrize("column", range(5))
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_buffer_takes_nothing_that_is_not_finite(column, value):
    """1e39 is finite in float64, and infinite in the buffer."""
    buffer = filled(5, 3)
    row = [np.zeros(2), np.zeros(1), 0.0, np.zeros(2), 0.0]
    row[column] = row[column] + value
    with np.errstate(over="ignore"):
        assert not buffer.add(*row)
    assert len(buffer) == 3
    assert buffer.add(*(np.zeros_like(x) for x in row))


def test_samples_are_even():
    draws = filled(4, 4).sample(40_000)[0][:, 0]
    shares = torch.bincount(draws.long()) / 40_000
    # The deviation of a share is 0.0022; five of them.
    torch.testing.assert_close(shares, torch.full((4,), 0.25), atol=0.011, rtol=0)


# Exploration


def test_noise_has_the_scale_of_each_dimension():
    space = gym.spaces.Box(np.array([-1, 2], np.float32), np.array([3, 2.5], np.float32))
    agent = Agent(3, 2, replace(SMALL, exploration_noise=0.1))
    for weight in agent.actor.parameters():
        weight.data.zero_()
    actions = ddpg.rescale(agent.act(torch.zeros(20_000, 3)).numpy(), space)
    # The deviation of a deviation is a share of 0.005; five of them. Centres 1 and 2.25.
    np.testing.assert_allclose(actions.std(0), [0.1 * 2, 0.1 * 0.25], rtol=0.025)
    np.testing.assert_allclose(actions.mean(0), [1, 2.25], atol=0.01)
    greedy = agent.act(torch.zeros(1, 3), greedy=True)
    assert greedy.tolist() == [[0.0, 0.0]]
    assert agent.act(torch.zeros(3)).shape == (2,)  # a batch of another shape right after


def test_ornstein_uhlenbeck_noise_drifts():
    agent = Agent(1, 1, replace(SMALL, noise="ou", exploration_noise=0.05))
    for weight in agent.actor.parameters():
        weight.data.zero_()
    x = np.array([agent.act(torch.zeros(1)).item() for _ in range(20_000)])
    assert np.corrcoef(x[1:], x[:-1])[0, 1] == pytest.approx(0.85, abs=0.02)
    assert x.std() == pytest.approx(0.05 / (1 - 0.85**2) ** 0.5, rel=0.07)
    assert agent.act(torch.zeros(5, 1)).shape == (5, 1)  # of another shape: a new noise
    assert agent.act(torch.zeros(1)).shape == (1,)


def test_actions_stay_within_the_bounds():
    agent = Agent(1, 2, replace(SMALL, exploration_noise=5.0))
    assert agent.act(torch.zeros(1000, 1)).abs().max() == 1.0


# The loop


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """A training on ScriptedBox-v0: what went into the buffer, and when updates were made."""

    def run(**changes):
        rows, updates = [], []

        def add(self, *row):
            rows.append(row)
            return original_add(self, *row)

        def update(agent, target, optimizer, batch, args, improve, report):
            updates.append((len(rows), improve, distance(agent, target)))
            return original_update(agent, target, optimizer, batch, args, improve, report)

        original_add, original_update = ReplayBuffer.add, ddpg.update
        with monkeypatch.context() as patch:
            patch.setattr(ReplayBuffer, "add", add)
            patch.setattr(ddpg, "update", update)
            args = replace(SMALL, env_id="ScriptedBox-v0", total_timesteps=90)
            _, episodes = ddpg.train(replace(args, log_dir=str(tmp_path), **changes))
        return rows, updates, episodes

    return run


def test_transitions_of_scripted_episodes(recorded):
    """Lengths 3, 2, 4, ended by termination, truncation, both: true successors, no resets."""
    rows, _, episodes = recorded()
    want = []
    for episode in range(30):
        length, end = (3, 2, 4)[episode % 3], "tub"[episode % 3]
        for t in range(length):
            terminated = t == length - 1 and end in "tb"
            want.append(([episode, t], 1.0 + t, [episode, t + 1], terminated))
    assert len(rows) == 90
    for (obs, _, reward, next_obs, terminated), row in zip(rows, want):
        assert (obs.tolist(), reward, next_obs.tolist(), terminated) == row
    assert [r for _, r, _ in episodes] == [{3: 6.0, 2: 3.0, 4: 10.0}[n] for _, _, n in episodes]
    assert [step for step, _, _ in episodes][:3] == [3, 5, 9]


def test_warm_up_then_one_update_for_each_step(recorded):
    rows, updates, _ = recorded()
    assert [step for step, _, _ in updates] == list(range(20, 91))
    assert all(improve for _, improve, _ in updates)
    assert updates[0][2] == 0.0  # the targets start as copies
    assert updates[1][2] > 0.0
    # The warm-up is drawn from all of the Box, the same for the same seed.
    warm_up = np.array([action for _, action, *_ in rows[:20]])
    assert 0.2 < (np.abs(warm_up) > 0.5).mean() < 0.8  # of 40 numbers; four deviations
    again, _, _ = recorded()
    assert all(np.array_equal(one[1], two[1]) for one, two in zip(rows, again))


def test_the_stored_action_is_the_one_that_was_played(recorded, monkeypatch, capsys):
    """In the warm-up and later: with its noise, and before it is mapped to the bounds."""
    environments, make_env = [], ddpg.make_env

    def make(*args):
        environments.append(make_env(*args))
        return environments[-1]

    monkeypatch.setattr(ddpg, "make_env", make)
    rows, _, _ = recorded()
    path = checkpoint_of(capsys.readouterr().out)
    space, played = environments[0].action_space, environments[0].unwrapped.actions
    assert len(rows) == len(played) == 90
    for (_, action, *_), want in zip(rows, played):
        assert np.array_equal(ddpg.rescale(action, space), want)
    # While a buffer is refilled the policy stands still: what differs from it is the noise.
    rows, _, _ = recorded(resume=path, learning_starts=200, total_timesteps=290)
    agent = Agent(2, 2, SMALL)
    agent.load_state_dict(torch.load(path, weights_only=True)["agent"])
    obs = torch.tensor(np.array([obs for obs, *_ in rows]), dtype=torch.float32)
    noise = np.array([action for _, action, *_ in rows]) - agent.act(obs, greedy=True).numpy()
    assert noise.std() == pytest.approx(0.1, rel=0.25)  # of 400 numbers; seven deviations


def test_ornstein_uhlenbeck_noise_starts_anew_with_each_episode(recorded, monkeypatch, capsys):
    recorded(noise="ou")
    path, before, act = checkpoint_of(capsys.readouterr().out), [], Agent.act

    def spy(self, obs, greedy=False):
        if not greedy:
            before.append(self.noise.abs().sum().item())
        return act(self, obs, greedy)

    monkeypatch.setattr(Agent, "act", spy)
    recorded(noise="ou", resume=path, learning_starts=200, total_timesteps=180)
    starts = [t for t, noise in enumerate(before) if noise == 0.0]
    assert starts == [start + i for start in range(0, 90, 9) for i in (0, 3, 5)]  # 3, 2, 4 steps


def test_numbers_too_small_for_the_fast_path_become_zero(recorded):
    """A dead unit's gradient is 0, and Adam's mean of it halves every 7 updates, for ever."""
    torch.set_flush_denormal(False)
    recorded()
    assert torch.full((1,), 1e-38).mul(0.5).item() == 0.0


def test_policy_frequency(recorded):
    _, updates, _ = recorded(policy_frequency=3)
    assert all(improve == (step % 3 == 0) for step, improve, _ in updates)


def test_resume_with_the_buffer_and_without(recorded, capsys):
    recorded(save_buffer=True)
    path = checkpoint_of(capsys.readouterr().out)
    state = torch.load(path, weights_only=True)
    assert state["buffer"].shape == (90, 2 + 2 + 1 + 2 + 1)
    _, updates, _ = recorded(resume=path, total_timesteps=120, save_buffer=True)
    assert [step for step, _, _ in updates] == list(range(1, 31))  # learns at once
    agent, target = Agent(2, 2, SMALL), Agent(2, 2, SMALL)
    agent.load_state_dict(state["agent"])
    target.load_state_dict(state["target"])
    assert updates[0][2] == distance(agent, target) > 0.0  # the targets are still behind
    path = checkpoint_of(capsys.readouterr().out)
    assert torch.load(path, weights_only=True)["buffer"].shape == (120, 8)
    # Without, it first collects as much as at the start.
    recorded()
    path = checkpoint_of(capsys.readouterr().out)
    assert "buffer" not in torch.load(path, weights_only=True)
    _, updates, _ = recorded(resume=path, total_timesteps=120)
    assert [step for step, _, _ in updates] == list(range(20, 31))


def test_resume_before_the_first_update_goes_on_at_random(recorded, capsys):
    word = "nothing learned: 10 steps of --learning-starts 20\n"
    recorded(total_timesteps=10)
    out = capsys.readouterr().out
    assert word in out
    path = checkpoint_of(out)
    rows, updates, _ = recorded(resume=path, total_timesteps=60)
    assert "nothing learned" not in capsys.readouterr().out
    assert updates[0][0] == 20
    recorded(resume=path, total_timesteps=10)  # only to evaluate it
    assert "nothing learned" not in capsys.readouterr().out
    warm_up = np.abs([action for _, action, *_ in rows[:20]])
    assert 0.2 < (warm_up > 0.5).mean() < 0.8
    # One that has learned does not go back to random actions, however long the refill takes.
    recorded()
    path = checkpoint_of(capsys.readouterr().out)
    flags = {"learning_starts": 200, "total_timesteps": 120, "exploration_noise": 0.0}
    rows, updates, _ = recorded(resume=path, **flags)
    assert updates == []
    assert "nothing learned: 30 steps of --learning-starts 200\n" in capsys.readouterr().out
    agent = Agent(2, 2, SMALL)
    agent.load_state_dict(torch.load(path, weights_only=True)["agent"])
    for obs, action, *_ in rows:
        want = agent.act(torch.as_tensor(obs, dtype=torch.float32), greedy=True)
        assert action.tolist() == want.tolist()


def nan_gradient(q):
    """0, with NaN as its gradient."""
    return (q.sum() * 0).sqrt()


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("critic_loss", lambda q, y: q.sum() * np.nan),
        ("actor_loss", lambda q: q.sum() * np.nan),
        ("critic_loss", lambda q, y: nan_gradient(q)),
        ("actor_loss", nan_gradient),
    ],
)
def test_a_broken_loss_or_gradient_is_noticed(tmp_path, monkeypatch, name, loss):
    """In the update where it happens, and nothing of it is saved."""
    monkeypatch.setattr(ddpg, name, loss)
    args = replace(SMALL, env_id="IdentityBox-v0", total_timesteps=50, log_dir=str(tmp_path))
    with pytest.raises(FloatingPointError, match="step 20: NaN or inf in loss or gradient"):
        ddpg.train(replace(args, checkpoint_interval=0))
    (path,) = tmp_path.glob("*/checkpoint.pt")
    state = torch.load(path, weights_only=True)
    assert state["global_step"] == 19
    assert all(w.isfinite().all() for w in state["agent"].values())


def test_broken_weights_are_noticed_before_they_act(tmp_path, monkeypatch):
    def break_actor(agent, *rest):
        losses = update(agent, *rest)
        agent.actor[-1].bias.data.fill_(np.nan)
        return losses

    update = ddpg.update
    monkeypatch.setattr(ddpg, "update", break_actor)
    args = replace(SMALL, env_id="IdentityBox-v0", total_timesteps=50, log_dir=str(tmp_path))
    with pytest.raises(FloatingPointError, match="step 21: NaN or inf in first"):
        ddpg.train(args)


# Learning


def test_learns_the_identity(tmp_path):
    """The rewards are 0 or 1, where depends on the observation. Over seeds 0 to 9: 25 of 25."""
    args = Args(env_id="IdentityBox-v0", total_timesteps=1500, gamma=0.4, learning_starts=200)
    args = replace(args, hidden_sizes=(64, 64), log_dir=str(tmp_path))
    agent, _ = ddpg.train(args)
    assert min(ddpg.evaluate(agent, ddpg.make_env(args), 3)) > 20


# Bad input


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--tau", "1.5"], ["--tau", "[0, 1]"]),
        (["--noise", "pink"], ["--noise", "gaussian", "ou"]),
        (["--batch-size", "0"], ["--batch-size", "got 0"]),
        (["--policy-frequency", "0"], ["--policy-frequency", "got 0"]),
        (["--exploration-noise", "-1"], ["--exploration-noise", "got -1"]),
        (["--buffer-size", "500"], ["--learning-starts", "--buffer-size"]),
        (["--buffer-size", "1000000000000000"], ["--buffer-size", "GiB"]),
        (["--env-id", "Unbounded-v0"], ["--env-id", "no bounded vector"]),
        (["--env-id", "Matrix-v0"], ["--env-id", "no bounded vector"]),
        (["--env-id", "Integers-v0"], ["--env-id", "no bounded vector of floats"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_bad_input(cli, tmp_path, flags, words):
    assert_refused(cli(SCRIPT, *flags), tmp_path, words)


def test_a_checkpoint_with_another_number_of_critics_is_refused(cli, tmp_path):
    first = cli(SCRIPT, "--total-timesteps", 100, "--eval-episodes", 1)
    outcome = cli(SCRIPT, "--resume", checkpoint_of(first.out), "--twin-critics")
    assert outcome.status == 2
    assert "twin_critics False, not True" in outcome.err

"""ddpg.py: the equations, the update, the replay buffer, the exploration, the training loop."""

import copy
import itertools
import os
from dataclasses import replace
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import ddpg
from ddpg import (
    Agent,
    Args,
    Batch,
    ReplayBuffer,
    critic_loss,
    polyak_update,
    td_target,
    to_env,
)
from tests.conftest import assert_refused, checkpoint_of, distance
from tests.toys import Identity, Poisoned

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
    first, original = copy.deepcopy(target), copy.deepcopy(source)
    for _ in range(7):
        polyak_update(source, target, tau)
    for s, t, t0 in zip(source.parameters(), target.parameters(), first.parameters()):
        torch.testing.assert_close(t, s + (1 - tau) ** 7 * (t0 - s), atol=1e-14, rtol=0)
    assert distance(source, original) == 0.0


# The update


def agent_and_batch(batch_size=5, **changes):
    """Everything in float64, with last layers that are not close to 0."""
    torch.manual_seed(0)
    args = replace(SMALL, **changes)
    agent = Agent(3, 2, args).double()
    for weight in agent.parameters():
        torch.nn.init.normal_(weight, 0, 0.5)
    obs, next_obs = torch.randn(2, batch_size, 3, dtype=torch.float64)
    actions = torch.rand(batch_size, 2, dtype=torch.float64) * 2 - 1
    rewards, terminated = torch.randn(batch_size).double(), torch.zeros(batch_size).double()
    terminated[0] = 1
    return agent, Batch(obs, actions, rewards, next_obs, terminated), args


def frozen_copy(agent, noise=0.0):
    """A target network; `noise` makes its weights differ from the agent's."""
    target = copy.deepcopy(agent).requires_grad_(False)
    for weight in target.parameters():
        weight += noise * torch.randn_like(weight)
    return target


def learn(agent, target, batch, args, step=1, actor_lr=0.0, critic_lr=0.0):
    """The script's update, with SGD."""
    actor_optimizer = torch.optim.SGD(agent.actor.parameters(), lr=actor_lr)
    critic_optimizer = torch.optim.SGD(agent.critics.parameters(), lr=critic_lr)
    return ddpg.update(agent, target, actor_optimizer, critic_optimizer, batch, args, step)


def test_actor_moves_along_finite_differences_of_q():
    agent, batch, args = agent_and_batch()
    obs = batch.obs
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
    learn(agent, frozen_copy(agent), batch, args, actor_lr=1.0)
    moved = [
        (new - old).view(-1)
        for new, old in zip(agent.actor.parameters(), before.actor.parameters())
    ]
    torch.testing.assert_close(torch.cat(moved), torch.tensor(want, dtype=torch.float64))
    assert distance(agent.critics, before.critics) == 0.0


def test_deterministic_policy_gradient_of_a_linear_quadratic_regulator(monkeypatch):
    """s' = a s + b u, reward -(s^2 + c u^2), policy u = -k s: Q and the return have closed forms.

    Over the discounted states of one episode, the gradient of the script's loss is that of the
    return. This is the deterministic policy gradient theorem (Silver et al. 2014).
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
    monkeypatch.setattr(Agent, "q1", lambda self, s, u: len(t) * weights * q(s, u))
    zero = torch.zeros_like(weights)
    batch = Batch(states, torch.zeros_like(states), zero, states, zero)
    learn(agent, frozen_copy(agent), batch, replace(SMALL, policy_frequency=1))
    got = agent.actor[0].weight.grad
    k = torch.tensor(k0, dtype=torch.float64, requires_grad=True)
    (want,) = torch.autograd.grad(-cost(k) * s0**2, k)
    assert got.item() == pytest.approx(want.item(), rel=1e-9)  # d/dk of the return = d/dw of loss


def test_critic_learns_from_the_target_networks():
    """The next action is pi', not a stored one, and no gradient flows through the target."""
    agent, batch, args = agent_and_batch(gamma=0.9, tau=0.25)
    obs, actions, rewards, next_obs, terminated = batch
    target = frozen_copy(agent, noise=1.0)
    first, source = copy.deepcopy(target), copy.deepcopy(agent)
    y = rewards + 0.9 * (1 - terminated) * target.q(next_obs, target.pi(next_obs))[0]
    loss = (y - source.q(obs, actions)[0]).pow(2).mean()
    gradients = torch.autograd.grad(loss, source.critics.parameters())
    losses = learn(agent, target, batch, args, critic_lr=0.1)
    assert losses["value_loss"] == pytest.approx(loss.item())
    for new, old, g in zip(agent.critics.parameters(), source.critics.parameters(), gradients):
        torch.testing.assert_close(new, old - 0.1 * g)
        torch.testing.assert_close(new.grad, g)  # the actor's step adds nothing to it
    # The targets move towards the new weights, by tau of the distance.
    for t, t0, s in zip(target.parameters(), first.parameters(), agent.parameters(), strict=True):
        torch.testing.assert_close(t, 0.25 * s + 0.75 * t0)
    # The actor ascends the critic that was just updated.
    want = -agent.q(obs, source.pi(obs)).mean()
    assert losses["policy_loss"] == pytest.approx(want.item())
    gradients = torch.autograd.grad(want, source.actor.parameters())
    for new, g in zip(agent.actor.parameters(), gradients):
        torch.testing.assert_close(new.grad, g)


def test_diagnostics_by_hand():
    """Of a batch, with the networks as they are after the update."""
    agent, batch, args = agent_and_batch(gamma=0.9, twin_critics=True)
    obs, actions, rewards, next_obs, terminated = batch
    target = frozen_copy(agent, noise=1.0)
    learn(agent, target, batch, args, actor_lr=0.1, critic_lr=0.1)
    found = ddpg.diagnostics(agent, target, batch, None, args)
    assert "overestimation" not in found  # no episode has finished
    q = agent.q(obs, actions).detach()
    assert found["q_values"] == pytest.approx(q.mean().item())
    y = rewards + 0.9 * (1 - terminated) * target.q(next_obs, target.pi(next_obs)).amin(0)
    explained = 1 - (y - q).var(correction=0) / y.var(correction=0)
    assert found["explained_variance"] == pytest.approx(explained.item())
    saturated = (agent.pi(obs).abs() > 0.99).double().mean().item()
    assert found["saturated_actions"] == pytest.approx(saturated)
    norm = sum(weight.grad.pow(2).sum() for weight in agent.parameters()).sqrt()
    assert found["grad_norm"] == pytest.approx(norm.item())


def test_saturated_actions_are_those_at_the_bounds():
    agent, batch, args = agent_and_batch()
    for weight in agent.actor.parameters():
        weight.data.zero_()
    agent.actor[-1].bias.data = torch.tensor([9.0, 0.0], dtype=torch.float64)
    target = frozen_copy(agent)
    learn(agent, target, batch, args)
    assert ddpg.diagnostics(agent, target, batch, None, args)["saturated_actions"] == 0.5


def test_the_last_layers_start_small():
    agent = Agent(3, 2, Args(twin_critics=True))
    for network in (agent.actor, *agent.critics):
        for weight in network[-1].parameters():
            assert 0 < weight.abs().max() <= 3e-3


def test_twin_critics_start_with_different_weights():
    """Otherwise they would stay equal, and the smaller of their values would be that of each."""
    one, two = Agent(3, 2, Args(twin_critics=True)).critics
    assert all((p != q).any() for p, q in zip(one.parameters(), two.parameters(), strict=True))


def test_both_twin_critics_learn(tmp_path):
    args = replace(SMALL, env_id="IdentityBox-v0", total_timesteps=40, log_dir=str(tmp_path))
    first, agent = (
        ddpg.train(replace(args, twin_critics=True, critic_lr=rate))[0] for rate in (0.0, 1e-3)
    )
    assert all(distance(*two) > 0 for two in zip(first.critics, agent.critics, strict=True))


@pytest.mark.parametrize("step", [3, 4])
def test_the_actor_and_the_targets_move_at_every_policy_frequency_th_step(step):
    agent, batch, args = agent_and_batch(policy_frequency=2)
    target, before = frozen_copy(agent, noise=1.0), copy.deepcopy(agent)
    first = copy.deepcopy(target)
    losses = learn(agent, target, batch, args, step, actor_lr=1.0, critic_lr=0.1)
    assert distance(agent.critics, before.critics) > 0.0
    pairs = [(agent.actor, before.actor), *zip(target.children(), first.children())]
    assert [distance(*pair) > 0.0 for pair in pairs] == [step == 4] * 3
    assert ("policy_loss" in losses) == (step == 4)  # nothing is logged that was not computed


def test_twin_critics_learn_from_the_smaller_value_and_the_actor_ascends_the_first():
    agent, batch, args = agent_and_batch(50, twin_critics=True)
    obs, actions, rewards, next_obs, terminated = batch
    target = frozen_copy(agent)
    q = target.q(next_obs, target.pi(next_obs))
    assert q.shape == (2, 50)
    assert 0 < (q[0] < q[1]).sum() < 50  # each of them is sometimes the smaller one
    y = rewards + args.gamma * (1 - terminated) * torch.minimum(*q)
    want = sum((y - q).pow(2).mean() for q in agent.q(obs, actions)).item()
    assert learn(agent, target, batch, args)["value_loss"] == pytest.approx(want)
    before = copy.deepcopy(agent)
    loss = -before.q(obs, before.pi(obs))[0].mean()
    gradients = torch.autograd.grad(loss, before.actor.parameters())
    losses = learn(agent, target, batch, args, actor_lr=0.1)
    assert losses["policy_loss"] == pytest.approx(loss.item())
    for new, old, g in zip(agent.actor.parameters(), before.actor.parameters(), gradients):
        torch.testing.assert_close(new, old - 0.1 * g)


# Target policy smoothing


def test_smoothed_target_by_hand(monkeypatch):
    """TD3: y = r + gamma Q'(s', clip(pi'(s') + clip(0.25 eps, -0.5, 0.5), -1, 1)), gamma 0.5."""
    agent, batch, args = agent_and_batch(
        7, gamma=0.5, policy_noise=0.25, noise_clip=0.5, twin_critics=True, policy_frequency=2
    )
    target, seen = frozen_copy(agent), {}

    def column(*numbers):
        return torch.tensor(numbers, dtype=torch.float64).unsqueeze(-1)

    def eps(like):
        seen["shape"] = like.shape
        return column(1.0, 4.0, -4.0, 1.0, -1.0, -8.0, 1.0)

    def q(obs, actions):  # the first critic is the smaller one of a negative action
        assert torch.equal(obs, batch.next_obs)
        seen["actions"] = actions
        return torch.cat((2 * actions.T, actions.T))

    def critic_loss(q, y):
        seen["y"] = y
        return q.sum()

    pi = column(0.0, 0.0, 0.0, 0.875, -0.875, 0.75, 0.5)
    monkeypatch.setattr(target, "pi", lambda obs: pi)
    monkeypatch.setattr(target, "q", q)
    monkeypatch.setattr(torch, "randn_like", eps)
    monkeypatch.setattr(ddpg, "critic_loss", critic_loss)
    rewards = torch.tensor([1.0, 1, 1, 2, 2, 1, 3]).double()
    terminated = torch.tensor([0.0, 0, 0, 0, 0, 0, 1]).double()
    learn(agent, target, batch._replace(rewards=rewards, terminated=terminated), args)
    assert seen["shape"] == (7, 1)
    # Noise 0.25; 1 and -1, clipped to 0.5 and -0.5; 1.125 and -1.125 are clipped to the bounds;
    # -2, clipped to -0.5; 0.25.
    assert seen["actions"][:, 0].tolist() == [0.25, 0.5, -0.5, 1.0, -1.0, 0.25, 0.75]
    # Q' = 0.25, 0.5, -1, 1, -2, 0.25, and 0 in the terminal state.
    assert seen["y"].tolist() == [1.125, 1.25, 0.5, 2.5, 1.0, 1.125, 3.0]


@pytest.mark.parametrize("noise", ["gaussian", "ou", "learned"])
@pytest.mark.parametrize("policy_noise", [0.0, 0.2])
def test_only_noise_on_the_policy_uses_random_numbers(noise, policy_noise):
    """An update uses some for policy noise and for a learned sigma; diagnostics never do."""
    agent, batch, args = agent_and_batch(policy_noise=policy_noise, noise=noise)
    target, rng = frozen_copy(agent), torch.get_rng_state()
    learn(agent, target, batch, args)
    is_random = policy_noise > 0 or noise == "learned"
    assert torch.equal(rng, torch.get_rng_state()) != is_random
    rng = torch.get_rng_state()
    ddpg.diagnostics(agent, target, batch, batch, args)  # the batch stands for an episode
    assert torch.equal(rng, torch.get_rng_state())


# A learned sigma: SVG(0)


def quadratic_case(monkeypatch, batch_size, sigma, pi, c):
    """A linear actor with pi(s) = `pi` for all s, and Q(s, a) = -sum of (a - c)^2."""
    agent, batch, args = agent_and_batch(batch_size, noise="learned", hidden_sizes=())
    agent.actor[0].weight.data.zero_()
    agent.actor[0].bias.data = torch.tensor(pi, dtype=torch.float64).atanh()
    agent.actor.log_std.data = torch.tensor(sigma, dtype=torch.float64).log()
    c = torch.tensor(c, dtype=torch.float64)
    monkeypatch.setattr(agent, "q1", lambda obs, actions: -(actions - c).pow(2).sum(-1))
    return agent, batch, args, c


@pytest.fixture
def drawn(monkeypatch):
    """The results of torch.randn_like, in order."""

    def spy(like):
        draws.append(original(like))
        return draws[-1]

    draws, original = [], torch.randn_like
    monkeypatch.setattr(torch, "randn_like", spy)
    return draws


def test_gradient_of_a_learned_sigma_for_the_epsilons_that_were_drawn(monkeypatch, drawn):
    """With m = pi(s), L_actor = mean[sum of (m + sigma eps - c)^2], and dm / dbias = 1 - m^2."""
    sigma, c = [0.05, 0.1], [0.5, -0.4]
    agent, batch, args, c = quadratic_case(monkeypatch, 6, sigma, [0.1, -0.2], c)
    agent.actor[0].weight.data = torch.randn(2, 3, dtype=torch.float64) / 10  # m depends on s
    target, sigma = frozen_copy(agent), torch.tensor(sigma, dtype=torch.float64)
    m = agent.pi(batch.obs).detach()
    drawn.clear()
    losses = learn(agent, target, batch, args)
    of_target, eps = drawn
    assert of_target.shape == eps.shape == (6, 2)
    errors = m + sigma * eps - c
    assert (m + sigma * eps).abs().max() < 1  # nothing was clipped
    assert losses["policy_loss"] == pytest.approx(errors.pow(2).sum(-1).mean().item())
    slopes = 2 * errors * (1 - m**2)
    close = {"atol": 1e-12, "rtol": 0}
    torch.testing.assert_close(agent.actor[0].bias.grad, slopes.mean(0), **close)
    torch.testing.assert_close(agent.actor[0].weight.grad, slopes.T @ batch.obs / 6, **close)
    want = (2 * errors * sigma * eps).mean(0)
    torch.testing.assert_close(agent.actor.log_std.grad, want, **close)
    # The target's action is a sample of its own, with the sigma of the target.
    next_actions = target.pi(batch.next_obs) + target.actor.log_std.exp() * of_target
    q = target.q(batch.next_obs, next_actions)[0]
    y = batch.rewards + args.gamma * (1 - batch.terminated) * q
    want = (y - agent.q(batch.obs, batch.actions)[0]).pow(2).mean().item()
    assert losses["value_loss"] == pytest.approx(want)


def test_expected_gradient_of_a_learned_sigma(monkeypatch):
    """It is 2 (m - c) (1 - m^2) in the bias and 2 sigma^2 in log sigma."""
    count, sigma, pi, c = 100_000, [0.05, 0.1], [0.1, -0.2], [0.5, -0.4]
    agent, batch, args, c = quadratic_case(monkeypatch, count, sigma, pi, c)
    learn(agent, frozen_copy(agent), batch, args)
    m, sigma = torch.tensor(pi).double(), torch.tensor(sigma).double()
    # One sample's standard deviations are 2 sigma (1 - m^2) and, since the variance of eps^2 is 2,
    # 2 sigma sqrt((m - c)^2 + 2 sigma^2). A mean's are 0.0006 and 0.00016 at most. Allow five.
    errors = agent.actor[0].bias.grad - 2 * (m - c) * (1 - m**2)
    assert (errors.abs() < 5 * 2 * sigma * (1 - m**2) / count**0.5).all()
    errors = agent.actor.log_std.grad - 2 * sigma**2
    assert (errors.abs() < 5 * 2 * sigma * ((m - c) ** 2 + 2 * sigma**2).sqrt() / count**0.5).all()


def test_a_learned_sigma_shrinks_where_noise_costs_value(monkeypatch):
    """No entropy bonus keeps it up. A step of rate 1 takes 2 sigma^2 from log sigma.

    As d sigma / dn = -2 sigma^3, 1 / sigma^2 grows by 4 in each step: from 0.3 to 0.049 in 100.
    """
    agent, batch, args, _ = quadratic_case(monkeypatch, 256, [0.3, 0.3], [0.1, -0.2], [0.1, -0.2])
    target, sigmas = frozen_copy(agent), []
    for _ in range(100):
        learn(agent, target, batch, args, actor_lr=1.0)
        sigmas.append(agent.actor.log_std.detach().exp())
    # Over 100 seeds: 0.0489, with a standard deviation of 0.00025. Allow five.
    torch.testing.assert_close(sigmas[-1], torch.full((2,), 0.0489).double(), atol=1.3e-3, rtol=0)
    for early, late in itertools.pairwise(sigmas[9::10]):
        assert (late < early).all()


def test_only_a_learned_sigma_is_a_parameter():
    for noise in ("gaussian", "ou"):
        names = [name for name, _ in Agent(3, 2, replace(SMALL, noise=noise)).named_parameters()]
        assert not any("log_std" in name for name in names)
    agent = Agent(3, 2, replace(SMALL, noise="learned", exploration_noise=0.3))
    torch.testing.assert_close(agent.actor.log_std.exp(), torch.full((2,), 0.3))
    actor = {id(weight) for weight in agent.actor.parameters()}
    assert id(agent.actor.log_std) in actor  # so that the actor's optimizer trains it


def test_the_targets_sigma_follows_the_learned_one():
    agent, batch, args = agent_and_batch(noise="learned", tau=0.25)
    target = frozen_copy(agent, noise=1.0)
    first, before = target.actor.log_std.clone(), agent.actor.log_std.detach().clone()
    learn(agent, target, batch, args, actor_lr=0.1)
    new = agent.actor.log_std.detach()
    assert (new != before).all()
    torch.testing.assert_close(target.actor.log_std, 0.25 * new + 0.75 * first)


def test_greedy_actions_do_not_use_a_learned_sigma():
    args = replace(SMALL, noise="learned", exploration_noise=0.5, env_id="ScriptedBox-v0")
    agent, env, rng = Agent(2, 2, args), ddpg.make_env(args), torch.get_rng_state()
    obs = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(agent.act(obs, greedy=True), agent.pi(obs))
    ddpg.evaluate(agent, env, 1)
    assert torch.equal(rng, torch.get_rng_state())
    played = env.unwrapped.actions
    assert len(played) == 3
    for t, action in enumerate(played):
        want = agent.act(torch.tensor([0.0, t]), greedy=True).numpy()
        assert np.array_equal(action, to_env(want, env.action_space))
    assert (agent.act(obs) != agent.pi(obs)).all()
    assert not torch.equal(rng, torch.get_rng_state())


def test_samples_of_a_learned_sigma_are_clipped_at_the_bounds():
    agent = Agent(2, 2, replace(SMALL, noise="learned", exploration_noise=5.0))
    actions = agent.act(torch.zeros(1000, 2))
    # pi is near 0, so that P(a = 1) = P(eps > 0.2) = 0.42, with a deviation of 0.011. Allow five.
    for bound in (-1.0, 1.0):
        assert (actions == bound).double().mean().item() == pytest.approx(0.42, abs=0.055)
    assert actions.abs().max() == 1.0


def test_exploration_scatters_with_the_learned_sigma(recorded, capsys):
    """First with --exploration-noise, because the rate is 0, then with that of the checkpoint."""

    def noise_of(rows, path):
        obs = torch.tensor(np.array([obs for obs, *_ in rows]), dtype=torch.float32)
        agent = saved_agent(path, **flags)
        return np.array([action for _, action, *_ in rows]) - agent.act(obs, greedy=True).numpy()

    flags = {"noise": "learned", "exploration_noise": 0.15, "actor_lr": 0.0}
    rows, _, _ = recorded(**flags, total_timesteps=320)
    path = checkpoint_of(capsys.readouterr().out)
    noise = noise_of(rows[20:], path)
    # The deviations of the two estimates are 0.15 / sqrt(600) and 0.15 / sqrt(300). Allow five.
    np.testing.assert_allclose(noise.std(0), 0.15, atol=0.031)
    np.testing.assert_allclose(noise.mean(0), 0, atol=0.043)
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.29  # between dimensions; the deviation is 0.058
    assert abs(np.corrcoef(noise[1:, 0], noise[:-1, 0])[0, 1]) < 0.29  # over time
    state = torch.load(path, weights_only=True)
    for name in ("agent", "target"):
        torch.testing.assert_close(state[name]["actor.log_std"].exp(), torch.full((2,), 0.15))
    # While a buffer is refilled, the policy is frozen.
    state["agent"]["actor.log_std"] = torch.tensor([0.02, 0.2]).log()
    torch.save(state, path)
    rows, updates, _ = recorded(resume=path, **flags, learning_starts=400, total_timesteps=620)
    assert (len(rows), updates) == (300, [])
    # The standard deviation of each estimate is a share of 1 / sqrt(600). Allow five.
    np.testing.assert_allclose(noise_of(rows, path).std(0), [0.02, 0.2], rtol=0.21)


def test_a_learned_sigma_is_logged_and_saved(recorded, capsys):
    for noise in ("gaussian", "learned"):
        recorded(noise=noise)
        path = checkpoint_of(capsys.readouterr().out)
        state = torch.load(path, weights_only=True)
        events = EventAccumulator(os.path.dirname(path)).Reload()
        is_learned = noise == "learned"
        assert ("losses/sigma" in events.Tags()["scalars"]) == is_learned
        assert ("actor.log_std" in state["agent"]) == is_learned
    log_std = state["agent"]["actor.log_std"]
    assert (log_std != np.log(np.float32(0.1))).all()  # it moved
    assert (log_std != state["target"]["actor.log_std"]).all()  # the target lags behind
    last = events.Scalars("losses/sigma")[-1]
    assert last.step == 90
    assert last.value == pytest.approx(log_std.exp().mean().item())


# Overestimation


def test_overestimation_by_hand(monkeypatch):
    agent = Agent(1, 1, SMALL)
    # Q(s, a) = 4 + s; the other critic's value is greater.
    monkeypatch.setattr(Agent, "q", lambda self, obs, actions: torch.cat((5 + obs.T, 4 + obs.T)))
    obs, next_obs = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [6.0]])
    episode = Batch(obs, torch.zeros(2, 1), torch.tensor([1.0, 2.0]), next_obs, torch.zeros(2))
    # The returns are 1 + 0.5 * 2 and 2. With a time limit the last one is 2 + 0.5 (4 + 6).
    got = ddpg.overestimation(agent, episode._replace(terminated=torch.tensor([0.0, 1.0])), 0.5)
    assert got == pytest.approx((4 + 5) / 2 - (2 + 2) / 2)
    got = ddpg.overestimation(agent, episode, 0.5)
    assert got == pytest.approx((4 + 5) / 2 - (4.5 + 7) / 2)


def test_overestimation_is_logged_of_the_last_finished_episode(recorded, monkeypatch, tmp_path):
    """It is computed from exactly the steps of that episode, at every report after an update."""
    found = []

    def constant(agent, episode, gamma):
        assert gamma == SMALL.gamma
        found.append(episode.obs.tolist())
        return 5.0

    monkeypatch.setattr(ddpg, "overestimation", constant)
    clock = itertools.count()  # a report at every step
    monkeypatch.setattr(ddpg.time, "perf_counter", lambda: next(clock))
    _, _, episodes = recorded()
    ends = [step for step, _, _ in episodes]
    want = []
    for step in range(20, 91):
        i = max(i for i, end in enumerate(ends) if end <= step)
        want.append([[i, t] for t in range(episodes[i][2])])
    assert found == want
    (run,) = tmp_path.iterdir()
    events = EventAccumulator(str(run)).Reload()
    assert {event.value for event in events.Scalars("losses/overestimation")} == {5.0}


@pytest.mark.usefixtures("report_every_update")
def test_reports_hold_the_actors_latest_loss(recorded, tmp_path):
    """Also after a step in which only the critic was updated."""
    _, updates, _ = recorded(policy_frequency=3)
    (run,) = tmp_path.iterdir()
    events = EventAccumulator(str(run)).Reload()
    logged = {event.step: event.value for event in events.Scalars("losses/policy_loss")}
    first = next(u.step for u in updates if u.improved)
    assert sorted(logged) == list(range(first, 91))
    for update in updates:
        if not update.improved and update.step > first:
            assert logged[update.step] == logged[update.step - 1]


# The replay buffer

CPU = torch.device("cpu")


def buffer_of(capacity, **changes):
    changes = {"buffer_size": capacity, "learning_starts": 1} | changes
    return ReplayBuffer(2, 1, CPU, replace(SMALL, **changes))


def filled(capacity, count, **changes):
    buffer = buffer_of(capacity, **changes)
    for i in range(count):
        buffer.add([i, 10 + i], [20 + i], 30 + i, [40 + i, 50 + i], i % 2 == 0)
    return buffer


def assert_rows_fit(batch):
    """All fields of a row are those that `filled` added together."""
    i = batch.obs[:, 0]
    for column, start in ((batch.obs[:, 1], 10), (batch.actions[:, 0], 20), (batch.rewards, 30)):
        assert torch.equal(column, i + start)
    assert torch.equal(batch.next_obs, torch.stack((i + 40, i + 50), 1))
    assert torch.equal(batch.terminated, 1 - i % 2)


def test_buffer_keeps_transitions_together():
    batch = filled(10, 4).sample(1000)
    assert set(batch.obs[:, 0].tolist()) == {0, 1, 2, 3}  # no rows that are not filled
    assert batch.obs.shape == batch.next_obs.shape == (1000, 2)
    assert batch.actions.shape == (1000, 1)
    assert batch.rewards.shape == batch.terminated.shape == (1000,)
    assert {field.dtype for field in batch} == {torch.float32}
    assert_rows_fit(batch)


@pytest.mark.parametrize("count", [4, 6])
def test_buffer_refuses_a_transition_with_a_field_too_few_or_too_many(count):
    with pytest.raises(ValueError, match="zip"):
        buffer_of(3).add(*[torch.zeros(1)] * count)


def test_buffer_overwrites_the_oldest():
    buffer = filled(5, 13)
    assert len(buffer) == 5
    assert set(buffer.sample(1000).obs[:, 0].tolist()) == {8, 9, 10, 11, 12}
    assert len(filled(5, 3)) == 3


@pytest.mark.parametrize(
    ("added", "count", "want"),
    [
        (13, 5, [8, 9, 10, 11, 12]),
        (13, 9, [8, 9, 10, 11, 12]),
        (13, 3, [10, 11, 12]),
        (11, 1, [10]),
        (11, 2, [9, 10]),
        (3, 5, [0, 1, 2]),
        (3, 2, [1, 2]),
        (5, 5, [0, 1, 2, 3, 4]),
        (5, 0, []),
    ],
)
def test_latest_transitions_oldest_first(added, count, want):
    batch = filled(5, added).latest(count)
    assert batch.obs[:, 0].tolist() == want
    assert_rows_fit(batch)


@pytest.mark.parametrize("capacity", [3, 5, 8])
def test_restored_buffer_keeps_the_order_of_age(capacity):
    buffer = buffer_of(capacity)
    buffer.load_state_dict(filled(5, 13, save_buffer=True).state_dict())
    buffer.add([13, 23], [33], 43, [53, 63], False)
    batch, newest = buffer.latest(99), [8, 9, 10, 11, 12, 13]
    assert batch.obs[:, 0].tolist() == newest[-min(capacity, 6) :]
    assert_rows_fit(batch)


def test_samples_are_uniform():
    samples = filled(4, 4).sample(40_000).obs[:, 0]
    shares = torch.bincount(samples.long()) / 40_000
    # The standard deviation of a share is 0.0022. Allow five.
    torch.testing.assert_close(shares, torch.full((4,), 0.25), atol=0.011, rtol=0)


# Exploration

BOX = gym.spaces.Box(np.array([-1, 2], np.float32), np.array([3, 2.5], np.float32))


def test_actions_are_mapped_to_the_bounds_of_each_dimension_and_clipped():
    shares = np.array([[-1, -1], [1, 1], [0, 0], [-0.5, 0.5], [-3, 3]], np.float32)
    want = [[-1, 2], [3, 2.5], [1, 2.25], [0, 2.375], [-1, 2.5]]
    np.testing.assert_allclose(to_env(shares, BOX), want)
    for row in shares:
        assert to_env(row, BOX) in BOX


def samples_of(args, act_size, count):
    """The noise of `count` steps of one episode."""
    agent, samples = Agent(1, act_size, replace(args, hidden_sizes=())), [torch.zeros(act_size)]
    for _ in range(count):
        samples.append(ddpg.explore(agent, np.zeros(1), samples[-1], args)[1])
    return torch.stack(samples[1:]).numpy()


@pytest.mark.parametrize("noise", ["gaussian", "ou"])
def test_the_noise_is_added_to_the_policy(noise):
    args = replace(SMALL, noise=noise, exploration_noise=0.5)
    agent, state = Agent(3, 2, args), torch.zeros(2)
    for obs in torch.randn(20, 3):
        action, state = ddpg.explore(agent, obs.numpy(), state, args)
        want = (agent.pi(obs).detach() + state).clamp(-1, 1)
        np.testing.assert_allclose(action, want, atol=1e-6)


def test_gaussian_noise_is_independent_with_the_given_scale():
    x = samples_of(replace(SMALL, exploration_noise=0.1), 2, 20_000)
    # The standard deviation of each estimate is a share of at most 1 / sqrt(20000). Allow five.
    np.testing.assert_allclose(x.std(0), 0.1, rtol=0.025)
    np.testing.assert_allclose(x.mean(0), 0, atol=0.0036)
    assert abs(np.corrcoef(x[1:, 0], x[:-1, 0])[0, 1]) < 0.036  # over time
    assert abs(np.corrcoef(x.T)[0, 1]) < 0.036  # between dimensions
    np.testing.assert_allclose(to_env(x, BOX).std(0), [0.1 * 2, 0.1 * 0.25], rtol=0.025)


def test_ornstein_uhlenbeck_noise_is_correlated_in_time():
    args = replace(SMALL, noise="ou", exploration_noise=0.05)
    x = samples_of(args, 1, 20_000)[:, 0]
    # The standard deviations of the two estimates are 0.0037 and 1.3 %. Allow five.
    assert np.corrcoef(x[1:], x[:-1])[0, 1] == pytest.approx(0.85, abs=0.02)
    assert x.std() == pytest.approx(0.05 / (1 - 0.85**2) ** 0.5, rel=0.07)
    assert abs(x.mean()) < 0.015  # the standard deviation of the mean is 0.0024
    first = [samples_of(args, 1, 1).item() for _ in range(2000)]
    assert np.std(first) == pytest.approx(0.05, rel=0.08)  # five standard deviations


def test_acting_and_evaluating_use_no_random_numbers():
    args = replace(SMALL, noise="ou", env_id="ScriptedBox-v0")
    agent, env, rng = Agent(2, 2, args), ddpg.make_env(args), torch.get_rng_state()
    obs = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    for greedy in (True, False):
        assert torch.equal(agent.act(obs, greedy=greedy), agent.pi(obs))
    assert ddpg.evaluate(agent, env, 3) == [6.0, 3.0, 10.0]
    assert torch.equal(rng, torch.get_rng_state())


# The training loop


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Train on ScriptedBox-v0; return the rows added to the buffer, the updates, the episodes."""

    def run(**changes):
        rows, updates = [], []

        def add(self, *row):
            rows.append(row)
            return original_add(self, *row)

        def update(agent, target, step, **rest):
            before = copy.deepcopy(agent), copy.deepcopy(target)
            losses = original_update(agent=agent, target=target, step=step, **rest)
            record = {"num_rows": len(rows), "step": step, "improved": "policy_loss" in losses}
            record["gap"], record["batch_size"] = distance(*before), len(rest["batch"].rewards)
            record["actor_moved"] = distance(before[0].actor, agent.actor) > 0
            record["target_moved"] = distance(before[1], target) > 0
            updates.append(SimpleNamespace(**record))
            return losses

        original_add, original_update = ReplayBuffer.add, ddpg.update
        with monkeypatch.context() as patch:
            patch.setattr(ReplayBuffer, "add", add)
            patch.setattr(ddpg, "update", update)
            args = replace(SMALL, env_id="ScriptedBox-v0", total_timesteps=90)
            _, episodes = ddpg.train(replace(args, log_dir=str(tmp_path), **changes))
        return rows, updates, episodes

    return run


def saved_agent(path, **changes):
    agent = Agent(2, 2, replace(SMALL, **changes))
    agent.load_state_dict(torch.load(path, weights_only=True)["agent"])
    return agent


@pytest.fixture
def made(monkeypatch):
    """The environments that the script makes: for training, then for evaluation."""

    def make(*args, **kwargs):
        environments.append(make_env(*args, **kwargs))
        return environments[-1]

    environments, make_env = [], ddpg.make_env
    monkeypatch.setattr(ddpg, "make_env", make)
    return environments


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
    _, updates, _ = recorded()
    assert [update.num_rows for update in updates] == list(range(20, 91))
    assert [update.step for update in updates] == list(range(20, 91))
    assert all(update.improved and update.actor_moved for update in updates)
    assert {update.batch_size for update in updates} == {SMALL.batch_size}
    assert updates[0].gap == 0.0  # the targets start as copies
    assert updates[1].gap > 0.0


def test_warm_up_is_uniform_over_the_bounds_of_each_dimension(recorded, made):
    recorded(learning_starts=400, total_timesteps=400)
    space, played = made[0].action_space, np.array(made[0].unwrapped.actions)
    shares = (played - space.low) / (space.high - space.low)
    for column in shares.T:
        assert column.min() < 0.05  # fails for one seed in 10^9
        assert column.max() > 0.95
        # The standard deviation of the share in a quarter is 0.022. Allow five.
        counts, _ = np.histogram(column, 4, (0, 1))
        np.testing.assert_allclose(counts / 400, 0.25, atol=0.11)
    assert abs(np.corrcoef(shares.T)[0, 1]) < 0.25  # five standard deviations
    assert abs(np.corrcoef(shares[1:, 0], shares[:-1, 0])[0, 1]) < 0.25


def test_the_stored_action_is_the_one_that_was_played(recorded, made, capsys):
    """In the warm-up and later: it includes the noise, before it is mapped to the bounds."""
    rows, _, _ = recorded(actor_lr=0.0)  # so that pi(s) stays near 0 and no noise is clipped
    path = checkpoint_of(capsys.readouterr().out)
    space, played = made[0].action_space, made[0].unwrapped.actions
    assert len(rows) == len(played) == 90
    for (_, action, *_), want in zip(rows, played):
        assert np.array_equal(to_env(action, space), want)
    # While a buffer is refilled, the policy is frozen, so what differs from it is the noise.
    rows, _, _ = recorded(resume=path, learning_starts=200, total_timesteps=290, actor_lr=0.0)
    obs = torch.tensor(np.array([obs for obs, *_ in rows]), dtype=torch.float32)
    noise = np.array([action for _, action, *_ in rows]) - saved_agent(path).act(obs).numpy()
    # The standard deviation of each estimate is 0.005 or 0.007. Allow five.
    np.testing.assert_allclose(noise.std(0), 0.1, atol=0.025)
    np.testing.assert_allclose(noise.mean(0), 0, atol=0.036)


def test_exploration_stays_within_the_bounds(recorded, made):
    """Noise beyond the bounds is clipped on both sides; the policy is within them."""
    rows, _, _ = recorded(exploration_noise=5.0)
    actions = np.array([action for _, action, *_ in rows])
    assert np.abs(actions).max() == 1.0
    for column in actions[20:].T:  # after the warm-up
        assert (column == -1).sum() > 10
        assert (column == 1).sum() > 10


def test_ornstein_uhlenbeck_noise_is_reset_at_the_start_of_each_episode(
    recorded, monkeypatch, capsys
):
    recorded(noise="ou")
    path, states, explore = checkpoint_of(capsys.readouterr().out), [], ddpg.explore

    def spy(agent, obs, noise, args):
        states.append(noise.abs().sum().item())
        return explore(agent, obs, noise, args)

    monkeypatch.setattr(ddpg, "explore", spy)
    recorded(noise="ou", resume=path, learning_starts=200, total_timesteps=180)
    assert len(states) == 90
    starts = [t for t, state in enumerate(states) if state == 0.0]
    assert starts == [start + i for start in range(0, 90, 9) for i in (0, 3, 5)]  # 3, 2, 4 steps


@pytest.mark.parametrize("frequency", [2, 3])
def test_policy_frequency(recorded, frequency):
    _, updates, _ = recorded(policy_frequency=frequency)
    assert len(updates) == 71
    for update in updates:
        due = update.step % frequency == 0
        assert (update.improved, update.actor_moved, update.target_moved) == (due, due, due)


def test_resume_with_the_buffer_and_without(recorded, capsys):
    recorded(save_buffer=True)
    path = checkpoint_of(capsys.readouterr().out)
    state = torch.load(path, weights_only=True)
    shapes = {name: tuple(field.shape) for name, field in state["buffer"].items()}
    assert shapes == {
        "obs": (90, 2),
        "actions": (90, 2),
        "rewards": (90,),
        "next_obs": (90, 2),
        "terminated": (90,),
    }
    _, updates, _ = recorded(resume=path, total_timesteps=120, save_buffer=True)
    assert [update.num_rows for update in updates] == list(range(1, 31))  # learns at once
    assert [update.step for update in updates] == list(range(91, 121))
    agent, target = Agent(2, 2, SMALL), Agent(2, 2, SMALL)
    agent.load_state_dict(state["agent"])
    target.load_state_dict(state["target"])
    assert updates[0].gap == distance(agent, target) > 0.0  # the targets still lag behind
    path = checkpoint_of(capsys.readouterr().out)
    buffer = torch.load(path, weights_only=True)["buffer"]
    assert {len(field) for field in buffer.values()} == {120}
    for name, field in state["buffer"].items():
        assert torch.equal(buffer[name][:90], field)
    # Without the buffer, it first collects as much as at the start.
    recorded()
    path = checkpoint_of(capsys.readouterr().out)
    buffer = torch.load(path, weights_only=True)["buffer"]
    assert {field.numel() for field in buffer.values()} == {0}
    _, updates, _ = recorded(resume=path, total_timesteps=120)
    assert [update.num_rows for update in updates] == list(range(20, 31))


def test_resume_before_the_first_update_continues_the_warm_up(recorded, capsys):
    message = "nothing learned: the run ended before --learning-starts 20\n"
    recorded(total_timesteps=10)
    out = capsys.readouterr().out
    assert message in out
    path = checkpoint_of(out)
    rows, updates, _ = recorded(resume=path, total_timesteps=60)
    assert "nothing learned" not in capsys.readouterr().out
    assert updates[0].num_rows == 20
    warm_up = np.abs([action for _, action, *_ in rows[:20]])
    assert 0.2 < (warm_up > 0.5).mean() < 0.8  # of 40 numbers; four standard deviations


def test_an_agent_that_has_learned_never_returns_to_random_actions(recorded, capsys):
    """However long the buffer is refilled after --resume."""
    recorded()
    path = checkpoint_of(capsys.readouterr().out)
    flags = {"learning_starts": 200, "total_timesteps": 120, "exploration_noise": 0.0}
    rows, updates, _ = recorded(resume=path, **flags)
    assert updates == []
    assert len(rows) == 30
    agent = saved_agent(path)
    for obs, action, *_ in rows:
        want = agent.act(torch.as_tensor(obs, dtype=torch.float32))
        assert action.tolist() == want.tolist()


# Seeds: each source of randomness alone


def test_the_seed_determines_each_source_of_randomness(tmp_path, monkeypatch):
    """Weights, warm-up, noise and samples from the buffer are each observed where they arise."""

    def sources(seed):
        noise, indices, actions = [], [], []

        def spy_explore(*inputs):
            action, added = original_explore(*inputs)
            noise.append(added.tolist())
            return action, added

        def spy_sample(self, batch_size):
            batch = original_sample(self, batch_size)
            indices.append(batch.obs.tolist())  # episode and step identify a row
            return batch

        def spy_add(self, obs, action, *rest):
            actions.append(action.tolist())
            return original_add(self, obs, action, *rest)

        original_explore, original_sample = ddpg.explore, ReplayBuffer.sample
        original_add = ReplayBuffer.add
        with monkeypatch.context() as patch:
            patch.setattr(ddpg, "explore", spy_explore)
            patch.setattr(ReplayBuffer, "sample", spy_sample)
            patch.setattr(ReplayBuffer, "add", spy_add)
            args = replace(SMALL, env_id="ScriptedBox-v0", total_timesteps=40, seed=seed)
            args = replace(args, actor_lr=0.0, critic_lr=0.0, log_dir=str(tmp_path))
            agent, _ = ddpg.train(args)
        assert (len(noise), len(indices)) == (20, 21)
        return {
            "actor": [weight.tolist() for weight in agent.actor.parameters()],
            "critic": [weight.tolist() for weight in agent.critics.parameters()],
            "warm-up": actions[:20],
            "noise": noise,
            "samples": indices,
        }

    one, again, other = (sources(seed) for seed in (0, 0, 1))
    for name in one:
        assert one[name] == again[name], name
        assert one[name] != other[name], name


# Broken numbers


@pytest.fixture
def poisoned(register, monkeypatch, tmp_path):
    """Train on an environment with one broken number; return the steps, rows and message.

    Everything that reaches the environment or the buffer must be finite.
    """

    def run(where, value, **changes):
        steps, rows = [], []

        def step(self, action):
            assert np.isfinite(action).all()
            steps.append(action)
            return original_step(self, action)

        def add(self, *row):
            assert all(np.isfinite(np.float32(value)).all() for value in row)
            rows.append(row)
            return original_add(self, *row)

        original_step, original_add = Poisoned.step, ReplayBuffer.add
        monkeypatch.setattr(Poisoned, "step", step)
        monkeypatch.setattr(ReplayBuffer, "add", add)
        register("Poison-v0", "tests.toys:Poisoned", where=where, value=value, box=True)
        args = replace(SMALL, env_id="Poison-v0", total_timesteps=100, log_dir=str(tmp_path))
        with np.errstate(all="ignore"), pytest.raises(FloatingPointError) as error:
            ddpg.train(replace(args, **changes))
        return len(steps), len(rows), str(error.value)

    return run


@pytest.mark.parametrize("learning_starts", [20, 1000], ids=["learning", "warm-up"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
@pytest.mark.parametrize(
    ("where", "step"), [("reward", 37), ("obs", 37), ("last obs", 50), ("first obs", 25)]
)
def test_nothing_that_is_not_finite_reaches_the_environment_or_the_buffer(
    poisoned, where, step, value, learning_starts
):
    """1e39 is finite in float64 and infinite in the buffer. The second episode is broken."""
    steps, rows, message = poisoned(where, value, learning_starts=learning_starts)
    name = "reward" if where == "reward" else "observation"
    assert message == f"step {step}: NaN or inf in {name}"
    assert steps == step
    assert rows == (step if where == "first obs" else step - 1)


def nan_gradient(q):
    """0, with NaN as its gradient."""
    return (q.sum() * 0).sqrt()


@pytest.mark.parametrize("checkpoint_interval", [0, 1e9])
@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        (ddpg, "critic_loss", lambda q, y: q.sum() * np.nan),
        (Agent, "q1", lambda self, obs, actions: actions.sum() * np.nan),
        (ddpg, "critic_loss", lambda q, y: nan_gradient(q)),
        (Agent, "q1", lambda self, obs, actions: nan_gradient(actions)),
    ],
)
def test_nan_in_a_loss_or_gradient_stops_the_run(
    tmp_path, monkeypatch, set_clock, place, name, value, checkpoint_interval
):
    """Before the next step of the environment, and nothing of it is saved."""
    steps, step = [], Identity.step
    monkeypatch.setattr(Identity, "step", lambda *args: steps.append(1) or step(*args))
    monkeypatch.setattr(place, name, value)
    set_clock(ddpg, 1.0)  # a report after every step, and a checkpoint if the interval is 0
    args = replace(SMALL, env_id="IdentityBox-v0", total_timesteps=50, log_dir=str(tmp_path))
    with pytest.raises(FloatingPointError, match="step 20: NaN or inf in "):
        ddpg.train(replace(args, checkpoint_interval=checkpoint_interval))
    assert len(steps) == 20
    checkpoints = list(tmp_path.glob("*/checkpoint.pt"))
    assert len(checkpoints) == (checkpoint_interval == 0)
    for path in checkpoints:
        state = torch.load(path, weights_only=True)
        assert state["global_step"] == 19
        for network in ("agent", "target"):
            assert all(weight.isfinite().all() for weight in state[network].values())


def test_nan_in_the_critic_loss_stops_the_run_although_the_actor_waits(tmp_path, monkeypatch):
    """The first update, at step 21, is one of the critic alone, so that actions stay finite."""
    monkeypatch.setattr(ddpg, "critic_loss", lambda q, y: q.sum() * np.nan)
    args = replace(SMALL, env_id="IdentityBox-v0", total_timesteps=50, log_dir=str(tmp_path))
    with pytest.raises(FloatingPointError, match="step 21: NaN or inf in value_loss"):
        ddpg.train(replace(args, policy_frequency=2, learning_starts=21))
    assert not list(tmp_path.glob("*/checkpoint.pt"))


def test_nan_in_the_actor_is_noticed_before_it_acts(tmp_path, monkeypatch):
    def break_actor(agent, **rest):
        losses = update(agent=agent, **rest)
        agent.actor[-1].bias.data.fill_(np.nan)
        return losses

    steps, step, update = [], Identity.step, ddpg.update
    monkeypatch.setattr(Identity, "step", lambda *args: steps.append(1) or step(*args))
    monkeypatch.setattr(ddpg, "update", break_actor)
    args = replace(SMALL, env_id="IdentityBox-v0", total_timesteps=50, log_dir=str(tmp_path))
    with pytest.raises(FloatingPointError, match="step 20: NaN or inf in action"):
        ddpg.train(args)
    assert len(steps) == 20


# Learning


def test_learns_the_identity(tmp_path):
    """The rewards are 0 or 1 and depend on the observation. Over seeds 0 to 9: 25 of 25."""
    args = Args(env_id="IdentityBox-v0", total_timesteps=1500, gamma=0.4, learning_starts=200)
    args = replace(args, hidden_sizes=(64, 64), log_dir=str(tmp_path))
    agent, _ = ddpg.train(args)
    assert min(ddpg.evaluate(agent, ddpg.make_env(args), 3)) > 20


# Bad input


BAD_INPUT = [
    (["--tau", "1.5"], ["--tau must be in [0, 1], got 1.5"]),
    (["--noise", "pink"], ["--noise", "('gaussian', 'ou', 'learned')"]),
    (["--batch-size", "0"], ["--batch-size must be in [1, inf], got 0"]),
    (["--policy-frequency", "0"], ["--policy-frequency must be in [1, inf], got 0"]),
    (["--exploration-noise", "-1"], ["--exploration-noise must be in [0, 1e+38], got -1"]),
    (
        ["--noise", "learned", "--exploration-noise", "0"],
        ["--noise learned requires --exploration-noise above 0"],
    ),
    (["--buffer-size", "500"], ["--learning-starts", "--buffer-size"]),
    (["--buffer-size", "1000000000000000"], ["--buffer-size", "GiB"]),
]


@pytest.mark.parametrize(("flags", "words"), BAD_INPUT, ids=[" ".join(x) for x, _ in BAD_INPUT])
def test_bad_input(cli, tmp_path, flags, words):
    assert_refused(cli(SCRIPT, *flags), tmp_path, words)


def test_the_warm_up_must_fit_in_the_buffer():
    with pytest.raises(ddpg.InputError, match="--learning-starts must not exceed"):
        Args(learning_starts=11, buffer_size=10)
    Args(learning_starts=10, buffer_size=10)


def test_a_learned_sigma_must_start_above_0():
    with pytest.raises(ddpg.InputError, match="--noise learned requires --exploration-noise"):
        Args(noise="learned", exploration_noise=0.0)
    Args(noise="learned", exploration_noise=1e-3)
    Args(noise="gaussian", exploration_noise=0.0)
    Args(noise="ou", exploration_noise=0.0)


def test_a_checkpoint_with_another_number_of_critics_is_refused(cli, tmp_path):
    first = cli(SCRIPT, "--total-timesteps", 100, "--eval-episodes", 1)
    outcome = cli(SCRIPT, "--resume", checkpoint_of(first.out), "--twin-critics")
    assert outcome.status == 2
    assert "twin_critics False, not True" in outcome.err

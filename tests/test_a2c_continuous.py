"""a2c_continuous.py: its Gaussian, its statistics, its rollout and update.

The functions that it shares with a2c_discrete.py to the letter are tested there.
"""

import itertools
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

import a2c_continuous as a2c
from a2c_continuous import Agent, Args, RunningStatistics, compute_gae, rescale
from tests.conftest import assert_refused, checkpoint_of, distance
from tests.toys import with_paid_resets

SCRIPT = "a2c_continuous.py"
SMALL = Args(
    env_id="IdentityBox-v0", num_envs=4, num_steps=8, total_timesteps=1000, eval_episodes=1
)


PLAIN = Args(
    norm_adv=False, norm_reward=False, max_grad_norm=np.inf, critic_updates=1, ent_coef=0.01
)


# The Gaussian


@pytest.fixture
def agent():
    """An agent that is far from its start in all respects: mean, deviations, statistics."""
    torch.manual_seed(0)
    agent = Agent(3, 2, Args(hidden_sizes=(8,)))
    agent.actor[-1].weight.data.mul_(100)
    agent.actor.log_std.data = torch.tensor([-1.0, 0.5])
    agent.obs_statistics.update(np.random.default_rng(0).normal(3, 2, (50, 3)))
    return agent


def test_distribution(agent):
    """Log-probability, entropy, sampling and the greedy choice, against torch.distributions."""
    obs = torch.randn(6, 3) * 2 + 3
    statistics = agent.obs_statistics
    scaled = (obs - statistics.mean.float()) / statistics.var.float().sqrt()
    normal = torch.distributions.Normal(agent.actor(scaled), torch.tensor([-1.0, 0.5]).exp())
    actions = 2 * torch.randn(6, 2)
    log_probs, entropy = agent.log_prob_and_entropy(obs, actions)
    torch.testing.assert_close(log_probs, normal.log_prob(actions).sum(-1))
    torch.testing.assert_close(entropy, normal.entropy().sum(-1))
    torch.testing.assert_close(agent.act(obs, greedy=True), normal.mean)
    samples = agent.act(obs.expand(20_000, 6, 3))
    # The deviation of a mean is 1.65 / sqrt(20000) = 0.012 at most; five of them.
    torch.testing.assert_close(samples.mean(0), normal.mean, atol=0.06, rtol=0)
    torch.testing.assert_close(samples.std(0), normal.stddev.expand(6, 2), atol=0.05, rtol=0)


def test_entropy_is_minus_the_expected_log_probability(agent):
    obs = torch.randn(1, 3).expand(100_000, 3)
    log_probs, entropy = agent.log_prob_and_entropy(obs, agent.act(obs))
    # The variance of log p is 1/2 for each of the two dimensions; five deviations.
    assert -log_probs.mean().item() == pytest.approx(entropy[0].item(), abs=5 / 100_000**0.5)


def test_deviation_is_bounded_and_not_frozen():
    """At its bound log sigma has a gradient, which a clamp in the forward pass would take away."""
    for start, bound in ((-6.0, -5.0), (3.0, 2.0)):
        agent = Agent(3, 2, PLAIN)
        optimizer = torch.optim.SGD(agent.parameters(), lr=1e-6)
        agent.actor.log_std.data.fill_(start)
        a2c.update(agent, optimizer, random_rollout(), PLAIN)
        assert (agent.actor.log_std == bound).all()
        a2c.update(agent, optimizer, random_rollout(), PLAIN)
        assert (agent.actor.log_std.grad != 0).all()


def test_first_policy_is_the_middle():
    agent = Agent(8, 4, Args(log_std_init=-1.5))
    mean, log_std = agent.mean_and_log_std(torch.randn(100, 8))
    assert mean.abs().max() < 0.1
    assert (log_std == -1.5).all()


# From half-ranges to the environment


def test_rescale_asymmetric_bounds():
    low, high = np.array([-2.0, 0.0, 5.0]), np.array([2.0, 1.0, 105.0])
    space = gym.spaces.Box(low, high, dtype=np.float64)
    actions = np.array([[-1.0, -1, -1], [1, 1, 1], [0, 0, 0], [-9, 9, 0.5]])
    want = [low, high, [0.0, 0.5, 55.0], [-2.0, 1.0, 80.0]]
    np.testing.assert_allclose(rescale(actions, space), want)


def test_rescale_never_leaves_the_bounds():
    """Not by a rounding error either: environments may assert that the action is in its space."""
    rng = np.random.default_rng(0)
    low = rng.normal(0, 100, 1000).astype(np.float32)  # far from 0 compared with the range
    high = low + rng.exponential(size=1000).astype(np.float32)
    high[0] = low[0]
    space = gym.spaces.Box(low, high)
    for action in (-1, 1, *rng.normal(size=(20, 1000))):
        assert rescale(np.full(1000, action, np.float32), space) in space


# Running statistics


def test_statistics_of_chunks_are_those_of_the_whole():
    rng = np.random.default_rng(0)
    data = rng.normal(1e4, [1.0, 0.01, 100.0], (1000, 3))  # far from 0, of different scales
    for sizes in ([1000], [1, 999], [1] * 1000, [300, 1, 299, 400]):
        statistics = RunningStatistics(3)
        for chunk in np.split(data, np.cumsum(sizes)[:-1]):
            statistics.update(chunk)
        assert statistics.count == 1000
        np.testing.assert_allclose(statistics.mean, data.mean(0), rtol=1e-12)
        np.testing.assert_allclose(statistics.var, data.var(0), rtol=1e-9)


def test_statistics_of_numbers():
    statistics = RunningStatistics()
    statistics.update(np.array([1.0, 3.0]))
    statistics.update(np.array([5.0]))
    assert (statistics.mean.item(), statistics.var.item()) == pytest.approx((3.0, 8 / 3))


def test_normalisation():
    statistics = RunningStatistics(2)
    obs = torch.tensor([[1.0, 2.0]])
    torch.testing.assert_close(statistics(obs), obs)  # nothing seen: as they are
    statistics.update(np.array([[4.0, 5.0], [6.0, 5.0]]))
    obs = torch.tensor([[7.0, 5.0], [1e9, 5.1]])  # an outlier; a dimension that was constant so far
    torch.testing.assert_close(statistics(obs), torch.tensor([[2.0, 0.0], [10.0, 10.0]]))


def test_statistics_are_saved_in_float64():
    agent = Agent(3, 1, SMALL)
    agent.obs_statistics.update(np.full((5, 3), 1 / 3))
    state = agent.state_dict()
    for name in ("obs_statistics", "return_statistics"):
        assert {state[f"{name}.{what}"].dtype for what in ("count", "mean", "var")} == {
            torch.float64
        }
    twin = Agent(3, 1, SMALL).half()  # as on a device that has no float64
    twin.load_state_dict(state)
    assert twin.obs_statistics.mean.dtype == torch.float64
    assert torch.equal(twin.obs_statistics.mean, agent.obs_statistics.mean)


def test_evaluation_changes_no_statistics():
    agent = Agent(2, 2, SMALL)
    agent.obs_statistics.update(np.random.default_rng(0).normal(3, 2, (50, 2)))
    before = [buffer.clone() for buffer in agent.buffers()]
    env = gym.wrappers.FlattenObservation(gym.make("ScriptedBox-v0"))
    a2c.evaluate(agent, env, 2)
    agent.act(torch.randn(5, 2))
    assert all(torch.equal(old, new) for old, new in zip(before, agent.buffers()))


# The rollout


@pytest.fixture
def scripted(tmp_path, monkeypatch):
    """A training on ScriptedBox-v0; returns its agent, episodes and all rollouts."""

    def run(**changes):
        rollouts = []

        def spy(agent, optimizer, rollout, args):
            of_obs = agent.obs_statistics.count.item() if args.norm_obs else 0
            counts = (of_obs, agent.return_statistics.count.item())
            rollouts.append([*(array.copy() for array in rollout), counts])
            return original(agent, optimizer, rollout, args)

        original = a2c.update
        monkeypatch.setattr(a2c, "update", spy)
        shape = {"env_id": "ScriptedBox-v0", "num_envs": 2, "num_steps": 7, "total_timesteps": 90}
        args = replace(SMALL, log_dir=str(tmp_path), log_std_init=1.0, **shape | changes)
        return *a2c.train(args), rollouts

    return run


def test_rollout_of_scripted_episodes(scripted):
    """Ends of all kinds, at the edge of a rollout too; the reset rows; what is counted.

    Lengths 3, 2, 4, ..., each with a reset row after it; kinds t, u, b.
    """
    _, episodes, rollouts = scripted()
    obs = np.concatenate([rollout[0][:-1] for rollout in rollouts])
    successors = np.concatenate([rollout[0][1:] for rollout in rollouts])
    rewards, terminated, done, live = (
        np.concatenate([rollout[i] for rollout in rollouts]) for i in range(2, 6)
    )
    rows = []  # observation, reward, terminated, done, live
    for episode in range(len(obs)):
        length, end = (3, 2, 4)[episode % 3], "tub"[episode % 3]
        for t in range(length):
            last = t == length - 1
            rows.append(((episode, t), t + 1, last and end in "tb", last, True))
        rows.append(((episode, length), 0, False, False, False))
    columns = [np.array(column[: len(obs)]) for column in zip(*rows)]
    for n in range(2):
        found = obs[:, n], rewards[:, n], terminated[:, n], done[:, n], live[:, n]
        for column, want in zip(found, columns, strict=True):
            np.testing.assert_array_equal(column, want)
        # The successor is the true one wherever there is a transition.
        np.testing.assert_array_equal(successors[live[:, n], n], (obs[:, n] + [0, 1])[live[:, n]])
    assert done[6::7].any(), "no episode ended at the edge of a rollout"
    # Reported at the step at which it ended, of those of all environments.
    steps = live.sum(1).cumsum()
    assert [step for step, _, _ in episodes] == [steps[t] for t, _ in np.argwhere(done)]


def test_observation_statistics_leave_out_the_resets(scripted):
    agent, _, rollouts = scripted()
    rows = np.concatenate([obs[:-1][live] for obs, _, _, _, _, live, _ in rollouts]).astype(float)
    assert len(rows) < sum(live.size for *_, live, _ in rollouts)
    np.testing.assert_allclose(agent.obs_statistics.mean, rows.mean(0), rtol=1e-9)
    np.testing.assert_allclose(agent.obs_statistics.var, rows.var(0), rtol=1e-9)


def test_policy_that_learns_is_the_one_that_acted(scripted):
    """Its observations' statistics move after the update; the returns' before, for no policy
    depends on them, and so the first rewards are scaled, too."""
    _, _, rollouts = scripted()
    seen = np.cumsum([0] + [rollout[5].sum() for rollout in rollouts])
    of_obs, of_returns = zip(*(rollout[-1] for rollout in rollouts))
    assert list(of_obs) == list(seen[:-1])
    assert list(of_returns) == list(seen[1:])


def test_return_statistics_and_reported_returns(scripted):
    """Discounted returns so far, started anew in each episode; what is reported stays unscaled."""
    gamma = 0.9
    agent, episodes, rollouts = scripted(gamma=gamma)
    rewards, live = (np.concatenate([rollout[i] for rollout in rollouts]) for i in (2, 5))
    seen = []
    for n in range(2):
        total = 0.0
        for reward, is_live in zip(rewards[:, n], live[:, n]):
            total = gamma * total + reward if is_live else 0.0
            seen += [total] if is_live else []
    assert agent.return_statistics.count == len(seen)
    assert agent.return_statistics.var.item() == pytest.approx(np.var(seen), rel=1e-6)
    assert rewards.max() == 4.0
    lengths_and_returns = {(3, 6.0), (2, 3.0), (4, 10.0)}
    assert {(length, total) for _, total, length in episodes} == lengths_and_returns


def test_a_reward_for_a_reset_is_not_counted(scripted, monkeypatch):
    agent, episodes, _ = scripted()
    monkeypatch.setattr(a2c, "make_envs", with_paid_resets(a2c.make_envs))
    twin, twin_episodes, rollouts = scripted()
    assert max(rewards.max() for _, _, rewards, *_ in rollouts) == 7.0
    assert twin_episodes == episodes
    assert torch.equal(twin.return_statistics.var, agent.return_statistics.var)
    assert distance(twin, agent) == 0.0


def test_actions_are_kept_as_drawn_and_cut_for_the_environment(scripted):
    _, _, rollouts = scripted()  # the environment asserts that each action is in its space
    actions = np.concatenate([rollout[1] for rollout in rollouts])
    assert np.abs(actions).max() > 1.5


def test_statistics_can_be_left_out(scripted):
    agent, _, _ = scripted(norm_obs=False, norm_reward=False)
    assert agent.return_statistics.count == 0
    obs = 1000 * torch.randn(4, 2)  # uncut, too
    assert torch.equal(agent.value(obs), agent.critic(obs)[:, 0])
    assert torch.equal(agent.act(obs, greedy=True), agent.actor(obs))


def test_statistics_cannot_be_left_out_halfway(cli):
    first = cli(SCRIPT, "--total-timesteps", 300, "--eval-episodes", 1)
    outcome = cli(SCRIPT, "--resume", checkpoint_of(first.out), "--no-norm-obs")
    assert (outcome.status, "norm_obs True, not False" in outcome.err) == (2, True)


# The update


def random_rollout(seed=0, steps=12, envs=5):
    rng = np.random.default_rng(seed)
    live = np.ones((steps, envs), bool)
    done = rng.random((steps, envs)) < 0.15
    for t, n in itertools.product(range(1, steps), range(envs)):
        live[t, n] = not done[t - 1, n]
        done[t, n] &= live[t, n]
    terminated = done & (rng.random((steps, envs)) < 0.5)
    obs = rng.normal(size=(steps + 1, envs, 3)).astype(np.float32)
    actions = rng.normal(size=(steps, envs, 2)).astype(np.float32)
    rewards = rng.normal(size=(steps, envs)).astype(np.float32)
    return obs, actions, rewards, terminated, done, live


def one_step(args, rollout, variance=1.0):
    """An agent before and after an SGD step of size 1, which shows the gradient."""
    torch.manual_seed(0)
    before, after = (Agent(3, 2, args) for _ in range(2))
    after.load_state_dict(before.state_dict())
    after.return_statistics.var.fill_(variance)
    a2c.update(after, torch.optim.SGD(after.parameters(), lr=1.0), rollout, args)
    return before, after


def test_gradients_are_those_of_the_equations():
    """Written out here a second time, with the library's Gaussian; log sigma is among them."""
    rollout = obs, actions, rewards, terminated, done, live = random_rollout()
    twin, agent = one_step(PLAIN, rollout)
    v = twin.value(torch.from_numpy(obs)).detach().numpy()
    gae = compute_gae(rewards, v, terminated, done, PLAIN.gamma, PLAIN.gae_lambda)
    advantages, returns = (torch.from_numpy(x[live]) for x in (gae, gae + v[:-1]))
    s, a = torch.from_numpy(obs[:-1][live]), torch.from_numpy(actions[live])
    pi = torch.distributions.Normal(twin.actor(s), twin.actor.log_std.exp())
    loss = -(pi.log_prob(a).sum(-1) * advantages).mean() - 0.01 * pi.entropy().sum(-1).mean()
    (loss + 0.5 * (twin.critic(s)[:, 0] - returns).pow(2).mean()).backward()
    assert twin.actor.log_std.grad.abs().min() > 0
    for new, old in zip(agent.parameters(), twin.parameters()):
        torch.testing.assert_close(new, old - old.grad, atol=1e-5, rtol=1e-4)


def test_reset_rows_are_not_learned_from():
    obs, actions, rewards, terminated, done, live = random_rollout()
    assert not live.all()
    others = np.where(live[..., None], actions, 7.0).astype("f"), np.where(live, rewards, 9e9)
    _, one = one_step(Args(), (obs, actions, rewards, terminated, done, live))
    _, two = one_step(Args(), (obs, *others, terminated, done, live))
    assert distance(one, two) == 0.0


def test_rewards_are_scaled_and_cut():
    obs, actions, rewards, terminated, done, live = random_rollout()
    scaled = rewards / 3
    rewards[0, 0], scaled[0, 0] = 1e6, 10.0
    args = replace(PLAIN, norm_reward=True)
    _, one = one_step(args, (obs, actions, rewards, terminated, done, live), variance=9.0)
    _, two = one_step(PLAIN, (obs, actions, scaled, terminated, done, live))
    assert distance(one, two) < 1e-10
    assert rewards[0, 0] == 1e6  # and the rollout itself is left alone


def test_shared_body_learns_both_heads_and_the_deviation():
    before, after = one_step(replace(PLAIN, shared_body=True), random_rollout())
    assert after.actor[0] is after.critic[0]
    for part in (0, -1):
        assert distance(before.actor[part], after.actor[part]) > 0
        assert distance(before.critic[part], after.critic[part]) > 0
    assert (before.actor.log_std != after.actor.log_std).all()


def test_every_weight_has_one_optimizer_group():
    for shared in (False, True):
        args = replace(PLAIN, shared_body=shared)
        agent = Agent(3, 2, args)
        groups = [g["params"] for g in a2c.make_optimizer(agent, args).param_groups]
        assert len(groups) == 2 - shared
        weights = [id(p) for group in groups for p in group]
        assert sorted(weights) == sorted(id(p) for p in agent.parameters())


# Learning


def test_learns_the_identity(tmp_path):
    """Greedy, all of 25 are right, with every seed from 0 to 9; the samples miss a third."""
    changes = {"total_timesteps": 12_000, "gamma": 0.4, "actor_lr": 3e-3, "critic_updates": 3}
    args = replace(SMALL, log_dir=str(tmp_path), **changes)
    agent, episodes = a2c.train(args)
    assert np.mean([r for _, r, _ in episodes[-40:]]) > 11
    _, env = a2c.make_envs(args)
    assert min(a2c.evaluate(agent, env, 3)) > 20


def test_shared_body_can_be_named_again_when_resumed(cli):
    flags = ("--shared-body", "--total-timesteps", 600, "--eval-episodes", 1)
    first = cli(SCRIPT, "--critic-updates", 1, *flags)
    assert cli(SCRIPT, "--resume", checkpoint_of(first.out), *flags).status == 0


# Bad input


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--log-std-init", "3"], ["--log-std-init must lie in [-5, 2], got 3"]),
        (["--num-envs", "0"], ["--num-envs", "got 0"]),
        (["--shared-body"], ["--shared-body", "--critic-updates 1"]),
        (["--env-id", "Unbounded-v0"], ["--env-id Unbounded-v0", "no bounded vector"]),
        (["--env-id", "Matrix-v0"], ["--env-id Matrix-v0", "no bounded vector"]),
        (["--env-id", "Integers-v0"], ["--env-id Integers-v0", "no bounded vector of floats"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_bad_input(cli, tmp_path, flags, words):
    assert_refused(cli(SCRIPT, *flags), tmp_path, words)

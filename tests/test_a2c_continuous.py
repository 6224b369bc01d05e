"""Tests of a2c_continuous.py: its Gaussian, its statistics, its update, its rollout and its loop.

The functions that are identical in a2c_discrete.py, such as compute_gae, are tested there.
"""

import copy
import itertools
from dataclasses import replace
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

import a2c_continuous as a2c
from a2c_continuous import (
    Agent,
    Args,
    RunningStatistics,
    policy_gradient_loss,
    to_env,
    value_loss,
)
from tests.conftest import assert_refused, checkpoint_of, distance
from tests.definitions import explained_variance, gae_by_definition
from tests.toys import with_paid_resets


class Scripted(SimpleNamespace):
    """A rollout whose arrays are given."""

    tensors = a2c.Rollout.tensors


SCRIPT = "a2c_continuous.py"
SMALL = Args(
    env_id="IdentityBox-v0", num_envs=4, num_steps=8, total_timesteps=1000, eval_episodes=1
)
ONE_ROLLOUT = SMALL.num_envs * SMALL.num_steps
# Without normalisation and clipping, one SGD step shows the gradient of the losses.
PLAIN = Args(num_envs=5, num_steps=12, norm_adv=False, max_grad_norm=np.inf, critic_updates=1)


# --- The Gaussian


@pytest.fixture
def agent():
    """An agent whose mean, log sigma and statistics are far from their initial values."""
    return make_agent(Args(hidden_sizes=(8,)))


def make_agent(args):
    torch.manual_seed(0)
    agent = Agent(3, 2, args)
    agent.actor[-1].weight.data.mul_(100)
    agent.actor.log_std.data = torch.tensor([-2.0, 0.5])
    agent.obs_statistics.update(np.random.default_rng(0).normal(3, 2, (50, 3)))
    return agent


def scale(agent, obs):
    """Normalise observations by the mean and the variance in the agent's statistics."""
    statistics = agent.obs_statistics
    return (obs - statistics.mean.float()) / statistics.var.float().sqrt()


def test_distribution(agent):
    """Log-probability, entropy, samples and the greedy action, against torch.distributions."""
    obs = torch.randn(6, 3) * 2 + 3
    normal = torch.distributions.Normal(agent.actor(scale(agent, obs)), agent.actor.log_std.exp())
    actions = 2 * torch.randn(6, 2)
    log_probs, entropy = agent.log_prob_and_entropy(obs, actions)
    torch.testing.assert_close(log_probs, normal.log_prob(actions).sum(-1))
    torch.testing.assert_close(entropy, normal.entropy().sum(-1))
    torch.testing.assert_close(agent.act(obs, greedy=True), normal.mean)
    noise = (agent.act(obs.expand(20_000, 6, 3)) - normal.mean) / normal.stddev
    # The standard errors are 1 / sqrt(20000) = 0.007 and 1 / sqrt(40000) = 0.005; allow five.
    torch.testing.assert_close(noise.mean(0), torch.zeros(6, 2), atol=0.035, rtol=0)
    torch.testing.assert_close(noise.std(0), torch.ones(6, 2), atol=0.025, rtol=0)


def test_noise_is_independent_between_dimensions(agent):
    actions = agent.act(torch.zeros(20_000, 3))
    # The standard deviation of the estimate is 1 / sqrt(20000). Allow five.
    assert abs(torch.corrcoef(actions.T)[0, 1].item()) < 0.036


def test_critic_sees_normalised_observations(agent):
    obs = torch.randn(6, 3) * 2 + 3
    torch.testing.assert_close(agent.value(obs), agent.critic(scale(agent, obs))[:, 0])
    assert (agent.value(obs) - agent.critic(obs)[:, 0]).abs().min() > 1e-3


def test_entropy_is_the_negative_expected_log_probability(agent):
    obs = torch.randn(1, 3).expand(100_000, 3)
    log_probs, entropy = agent.log_prob_and_entropy(obs, agent.act(obs))
    # The variance of log p is 1/2 for each of the two dimensions; allow five standard deviations.
    assert -log_probs.mean().item() == pytest.approx(entropy[0].item(), abs=5 / 100_000**0.5)


def test_log_std_is_clamped_and_keeps_its_gradient():
    """At the bound log sigma has a gradient, which a clamp in the forward pass would remove."""
    for start, bound in ((-6.0, -5.0), (3.0, 2.0)):
        agent = Agent(3, 2, PLAIN)
        optimizer = torch.optim.SGD(agent.parameters(), lr=1e-6)
        agent.actor.log_std.data.fill_(start)
        a2c.update(agent, optimizer, random_rollout(PLAIN), PLAIN)
        assert (agent.actor.log_std == bound).all()
        a2c.update(agent, optimizer, random_rollout(PLAIN), PLAIN)
        assert (agent.actor.log_std.grad != 0).all()


def test_initial_mean_is_the_middle_of_the_bounds():
    agent = Agent(8, 4, Args(log_std_init=-1.5))
    mean, log_std = agent.mean_and_log_std(torch.randn(100, 8))
    assert mean.abs().max() < 0.1
    assert (log_std == -1.5).all()


# --- From [-1, 1] to the bounds of the environment


def test_to_env_with_asymmetric_bounds():
    low, high = np.array([-2.0, 0.0, 5.0]), np.array([2.0, 1.0, 105.0])
    space = gym.spaces.Box(low, high, dtype=np.float64)
    actions = np.array([[-1.0, -1, -1], [1, 1, 1], [0, 0, 0], [-9, 9, 0.5]])
    want = [low, high, [0.0, 0.5, 55.0], [-2.0, 1.0, 80.0]]
    np.testing.assert_allclose(to_env(actions, space), want)


def test_to_env_never_leaves_the_bounds():
    """No rounding error does: environments may assert that an action is in their space."""
    rng = np.random.default_rng(0)
    low = rng.normal(0, 100, 1000).astype(np.float32)  # far from 0 compared with the range
    high = low + rng.exponential(size=1000).astype(np.float32)
    high[0] = low[0]
    space = gym.spaces.Box(low, high)
    for action in (-1, 1, *rng.normal(size=(20, 1000))):
        assert to_env(np.full(1000, action, np.float32), space) in space


# --- Running statistics


def test_statistics_of_chunks_are_those_of_the_whole():
    rng = np.random.default_rng(0)
    data = rng.normal(1e4, [1.0, 0.01, 100.0], (1000, 3))  # far from 0, on different scales
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
    torch.testing.assert_close(statistics(obs), obs)  # unchanged before the first update
    statistics.update(np.array([[4.0, 5.0], [6.0, 5.0]]))
    obs = torch.tensor([[7.0, 5.0], [1e9, 5.1]])  # an outlier; a dimension without variance
    torch.testing.assert_close(statistics(obs), torch.tensor([[2.0, 0.0], [10.0, 10.0]]))


def test_statistics_are_saved_in_float64():
    agent = Agent(3, 1, SMALL)
    agent.obs_statistics.update(np.full((5, 3), 1 / 3))
    state = agent.state_dict()
    for name in ("obs_statistics", "return_statistics"):
        assert {state[f"{name}.{what}"].dtype for what in ("count", "mean", "var")} == {
            torch.float64
        }
    twin = Agent(3, 1, SMALL).half()  # as on a device that does not support float64
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
    agent.value(torch.randn(5, 2))
    assert all(torch.equal(old, new) for old, new in zip(before, agent.buffers()))


# --- Normalised rewards


def test_rewards_are_scaled_in_place_and_clipped():
    """The mean is not subtracted: rewards that are all positive stay positive."""
    agent, rollout = Agent(3, 2, PLAIN), random_rollout(PLAIN)
    rollout.discounted = 3 * np.random.default_rng(1).normal(size=rollout.live.shape) + 50
    std = rollout.discounted[rollout.live].std()
    rollout.rewards[:] = np.abs(rollout.rewards) + 5
    rollout.rewards[0] = [1e6, -1e6, 0, 5, 9.5 * std]
    array, raw = rollout.rewards, rollout.rewards.copy()
    a2c.normalise_rewards(agent, rollout)
    assert rollout.rewards is array
    assert array.dtype == np.float32
    want = np.clip(raw / std, -10, 10)
    np.testing.assert_allclose(array[rollout.live], want[rollout.live], rtol=1e-5)
    np.testing.assert_allclose(array[0], [10, -10, 0, 5 / std, 9.5], rtol=1e-5)
    assert array[1:].min() > 0


def test_scale_of_rewards_is_that_of_all_returns_so_far():
    """The statistics include the current rollout, but not its reset rows."""
    agent, returns = Agent(3, 2, PLAIN), []
    for seed in range(3):
        rollout = random_rollout(PLAIN, seed)
        rollout.discounted = (seed + 1) * np.random.default_rng(seed).normal(size=(12, 5))
        rollout.discounted[~rollout.live] = 1e6
        returns = np.append(returns, rollout.discounted[rollout.live])
        raw = rollout.rewards.copy()
        a2c.normalise_rewards(agent, rollout)
        np.testing.assert_allclose(rollout.rewards, raw / returns.std(), rtol=1e-5)


@pytest.mark.parametrize(("reward", "want"), [(-2.0, -10.0), (0.0, 0.0)])
def test_constant_reward_stays_a_constant_and_is_not_removed(reward, want):
    agent, rollout = Agent(3, 2, PLAIN), random_rollout(PLAIN)
    rollout.rewards[:] = reward
    rollout.discounted = rollout.rewards.astype(float)  # a variance of 0
    a2c.normalise_rewards(agent, rollout)
    assert (rollout.rewards == want).all()


# --- The update


@pytest.mark.parametrize("kind", ["mse", "huber"])
def test_returns_and_advantages_are_constants(kind):
    values, target = torch.zeros(3, requires_grad=True), torch.ones(3, requires_grad=True)
    (value_loss(values, target, kind) + policy_gradient_loss(values, target)).backward()
    assert target.grad is None
    slope = {"mse": -2 / 3, "huber": -1 / 3}[kind]
    torch.testing.assert_close(values.grad, torch.full((3,), slope - 1 / 3))


def test_advantages_of_ppo_are_constants():
    log_probs, advantages = torch.zeros(3, requires_grad=True), torch.ones(3, requires_grad=True)
    a2c.clipped_loss(log_probs, torch.zeros(3), advantages, 0.2).backward()
    assert advantages.grad is None
    torch.testing.assert_close(log_probs.grad, torch.full((3,), -1 / 3))


def random_rollout(args, seed=0):
    """A rollout as the script collects them, with every kind of end in its last row."""
    rng, shape = np.random.default_rng(seed), (args.num_steps, args.num_envs)
    obs = rng.normal(size=(shape[0] + 1, shape[1], 3)).astype(np.float32)
    terminated, truncated = rng.random((2, *shape)) < 0.15
    if min(shape) > 3:
        terminated[-2:, :4] = [[0, 0, 0, 1], [1, 0, 0, 0]]
        truncated[-3:, :4] = [[0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]]
        terminated[-3, :4] = False
    live = np.ones(shape, bool)
    for t in range(1, len(live)):  # the row after the end of an episode is the reset
        live[t] = ~((terminated | truncated) & live)[t - 1]
    return Scripted(
        obs=obs,
        actions=rng.normal(size=(*shape, 2)).astype(np.float32),
        rewards=rng.normal(size=shape).astype(np.float32),
        terminated=terminated & live,
        done=(terminated | truncated) & live,
        live=live,
        discounted=np.zeros(shape),
        device=torch.device("cpu"),
    )


def changed(rollout, **fields):
    return Scripted(**vars(rollout) | fields)


def reference_update(agent, rollout, args, rate):
    """Do with plain loops and SGD what `update` must do; return the losses."""
    obs, live = scale(agent, torch.from_numpy(rollout.obs)), rollout.live
    s, a = obs[:-1][live], torch.from_numpy(rollout.actions[live])
    w_old = [w.detach().clone() for w in agent.critic.parameters()]
    steps = rollout.terminated, rollout.done, args.gamma, args.gae_lambda
    for k in range(args.critic_updates):
        if k == 0 or args.actor_updates == 1:
            v = agent.critic(obs).squeeze(-1).detach().numpy()
            gae = gae_by_definition(rollout.rewards, v, *steps)
        advantages, returns = (torch.from_numpy(x[live]).float() for x in (gae, gae + v[:-1]))
        error = (agent.critic(s).squeeze(-1) - returns).abs()
        if args.critic_loss == "huber":
            error = torch.where(error < 1, error.pow(2) / 2, error - 0.5).mean()
        else:
            error = error.pow(2).mean()
        moves = [w - old for w, old in zip(agent.critic.parameters(), w_old)]
        loss = args.vf_coef * error + args.proximal_coef * sum(m.pow(2).sum() for m in moves)
        if k >= args.critic_updates - args.actor_updates:
            if args.norm_adv:
                deviations = advantages - advantages.mean()
                advantages = deviations / deviations.pow(2).mean().sqrt()
            pi = torch.distributions.Normal(agent.actor(s), agent.actor.log_std.exp())
            log_probs, entropy = pi.log_prob(a).sum(-1), pi.entropy().sum(-1).mean()
            gain = (log_probs * advantages).mean()
            if args.actor_updates > 1:
                if k == args.critic_updates - args.actor_updates:
                    old = log_probs.detach()
                ratios, c = (log_probs - old).exp(), args.clip_coef
                gains = zip(ratios, advantages)
                gain = sum(
                    r.clamp(max=1 + c) * x if x > 0 else r.clamp(min=1 - c) * x for r, x in gains
                )
                gain = gain / len(ratios)
            loss = loss - gain - args.ent_coef * entropy
        agent.zero_grad()
        loss.backward()
        norms = []
        for network in [agent] if args.shared_body else [agent.actor, agent.critic]:
            weights = [w for w in network.parameters() if w.grad is not None]
            norms.append(sum(w.grad.pow(2).sum().item() for w in weights) ** 0.5)
            for w in weights:
                w.data -= rate * w.grad * min(1, args.max_grad_norm / norms[-1])
    losses = {"policy_loss": -gain.item(), "value_loss": error.item(), "entropy": entropy.item()}
    if args.actor_updates > 1:
        losses["approx_kl"] = (ratios - 1 - ratios.log()).mean().item()
        losses["clip_fraction"] = np.mean([not 1 - c <= r <= 1 + c for r in ratios.tolist()])
    return losses | {"grad_norm": np.linalg.norm(norms)}


UPDATES = {
    "one step": {},
    "three steps": {"critic_updates": 3},
    "TD errors": {"gae_lambda": 0.0, "gamma": 0.5, "critic_updates": 2},
    "normalised": {"norm_adv": True, "critic_updates": 2},
    "clipped": {"max_grad_norm": 0.1, "critic_updates": 2},
    "huber": {"critic_loss": "huber", "critic_updates": 2},
    "proximal": {"proximal_coef": 0.2, "critic_updates": 4},
    "no entropy, twice the value loss": {"ent_coef": 0.0, "vf_coef": 1.0},
    "PPO": {"critic_updates": 3, "actor_updates": 3, "clip_coef": 0.05},
    "PPO in two steps of four": {
        "critic_updates": 4,
        "actor_updates": 2,
        "clip_coef": 0.1,
        "norm_adv": True,
        "proximal_coef": 0.2,
    },
    "shared body": {"shared_body": True},
    "shared body, clipped": {"shared_body": True, "max_grad_norm": 0.1},
}


def assert_same_update(args):
    """Compare the weights and the losses after one update with those of the reference."""
    rollout, agent = random_rollout(args), make_agent(args)
    assert [*rollout.terminated[-1, :4]] == [True, False, False, False]
    assert [*rollout.done[-1, :4]] == [True, True, False, False]
    assert [*rollout.live[-1, :4]] == [True, True, True, False]
    before, twin = copy.deepcopy(agent), copy.deepcopy(agent)
    groups = [{"params": g["params"]} for g in a2c.make_optimizer(agent, args).param_groups]
    rate = 0.01 if args.actor_updates == 1 else 1e-4  # keeps the ratios of PPO near 1
    losses = a2c.update(agent, torch.optim.SGD(groups, lr=rate), rollout, args)
    want = reference_update(twin, rollout, args, rate)
    steps = (old - new for old, new in zip(before.parameters(), agent.parameters()))
    wanted_steps = (old - new for old, new in zip(before.parameters(), twin.parameters()))
    for step, wanted in zip(steps, wanted_steps):
        torch.testing.assert_close(step, wanted, atol=4e-7, rtol=1e-3)
    assert (before.actor.log_std != agent.actor.log_std).all()  # it is learned
    assert {type(value) for value in losses.values()} == {float}
    assert losses == pytest.approx(want, abs=1e-4, rel=1e-4)
    assert args.actor_updates == 1 or 0 < want["clip_fraction"] < 1


@pytest.mark.parametrize("changes", UPDATES.values(), ids=UPDATES)
def test_update_is_that_of_the_equations(changes):
    defaults = {"ent_coef": 1.0, "gamma": 0.9, "gae_lambda": 0.8}
    assert_same_update(replace(PLAIN, **defaults | changes))


@pytest.mark.parametrize("log_std", [-3.0, 1.0])
def test_entropy_keeps_its_sign(log_std):
    """The entropy of a narrow Gaussian is negative."""
    agent = Agent(3, 2, PLAIN)
    agent.actor.log_std.data.fill_(log_std)
    optimizer = torch.optim.SGD(agent.parameters(), lr=1e-6)
    losses = a2c.update(agent, optimizer, random_rollout(PLAIN), PLAIN)
    want = 2 * (log_std + 0.5 * np.log(2 * np.pi * np.e))
    assert losses["entropy"] == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize("terminated", [True, False])
@pytest.mark.parametrize("truncated", [True, False])
def test_end_in_the_last_row_of_a_rollout(terminated, truncated):
    """With V(s) = 2 s and lambda 0, the TD errors are 0.5 V(3) - V(1) and 0.5 V(5) - V(3)."""
    args = replace(PLAIN, num_envs=1, num_steps=2, hidden_sizes=(), gamma=0.5, gae_lambda=0.0)
    agent = Agent(1, 2, args)
    agent.critic[-1].weight.data.fill_(2.0)
    rollout, zero = random_rollout(args), np.zeros((2, 1), "f")
    rollout = changed(rollout, obs=np.array([1, 3, 5], "f").reshape(3, 1, 1), rewards=zero)
    rollout.live[:] = True
    rollout.terminated = np.array([[False], [terminated]])
    rollout.done = np.array([[False], [terminated or truncated]])
    losses = a2c.update(agent, torch.optim.SGD(agent.parameters(), lr=0.0), rollout, args)
    last = -6 if terminated else 0.5 * 10 - 6
    assert losses["value_loss"] == pytest.approx(((0.5 * 6 - 2) ** 2 + last**2) / 2)


def optimizer_of(agent, args):
    """The script's optimizer, with the learning rates of the flags."""
    optimizer = a2c.make_optimizer(agent, args)
    for group, rate in zip(optimizer.param_groups, (args.actor_lr, args.critic_lr)):
        group["lr"] = rate
    return optimizer


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
@pytest.mark.parametrize("updates", [1, 3])
def test_reset_rows_are_not_learned_from(optimizer, updates):
    args = Args(num_envs=5, num_steps=12, optimizer=optimizer, critic_updates=updates)
    rollout, agents = random_rollout(args), []
    live = rollout.live
    assert not live.all()
    actions = np.where(live[..., None], rollout.actions, 7.0).astype("f")
    rewards = np.where(live, rollout.rewards, 1e6).astype("f")
    for given in (rollout, changed(rollout, actions=actions, rewards=rewards)):
        agents.append(make_agent(args))
        optimizer = optimizer_of(agents[-1], args)
        a2c.update(agents[-1], optimizer, given, args)
    assert distance(*agents) == 0.0
    assert distance(agents[0], make_agent(args)) > 0.0


def test_the_optimizer_is_the_one_that_was_chosen():
    for name, kind in (("adam", torch.optim.Adam), ("rmsprop", torch.optim.RMSprop)):
        args = Args(optimizer=name)
        assert type(a2c.make_optimizer(Agent(3, 2, args), args)) is kind


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_every_update_has_one_actor_step_and_k_critic_steps(optimizer):
    """Before its turn the actor has no gradient, not one of zeros, which momentum would follow."""
    args = Args(critic_updates=3, optimizer=optimizer)
    agent = Agent(3, 2, args)
    optimizer = a2c.make_optimizer(agent, args)
    for seed in range(2):
        a2c.update(agent, optimizer, random_rollout(args, seed), args)
    for network, steps in ((agent.actor, 2), (agent.critic, 6)):
        assert {int(optimizer.state[weight]["step"]) for weight in network.parameters()} == {steps}


def test_proximal_term_has_an_effect_from_the_second_step_on():
    moved = {}
    for updates in (1, 5):
        for kappa in (0.0, 100.0):
            args = Args(critic_updates=updates, proximal_coef=kappa)
            agent = make_agent(args)
            optimizer = optimizer_of(agent, args)
            a2c.update(agent, optimizer, random_rollout(args), args)
            moved[updates, kappa] = distance(make_agent(args).critic, agent.critic)
    assert moved[1, 100.0] == moved[1, 0.0]
    assert moved[5, 100.0] < 0.5 * moved[5, 0.0]


def test_shared_body_learns_both_heads_and_the_deviation():
    args = replace(PLAIN, shared_body=True)
    agent = make_agent(args)
    before = copy.deepcopy(agent)
    a2c.update(agent, torch.optim.SGD(agent.parameters(), lr=1e-3), random_rollout(args), args)
    assert agent.actor[0] is agent.critic[0]
    for part in (0, -1):
        assert distance(before.actor[part], agent.actor[part]) > 0
        assert distance(before.critic[part], agent.critic[part]) > 0
    assert (before.actor.log_std != agent.actor.log_std).all()


def test_every_weight_is_in_one_optimizer_group():
    for shared in (False, True):
        args = replace(PLAIN, shared_body=shared)
        agent = Agent(3, 2, args)
        groups = [g["params"] for g in a2c.make_optimizer(agent, args).param_groups]
        assert len(groups) == 2 - shared
        weights = [id(p) for group in groups for p in group]
        assert sorted(weights) == sorted(id(p) for p in agent.parameters())


def test_batch_of_one_gives_no_nan():
    """The sample standard deviation of one number would be NaN."""
    args = Args(num_envs=1, num_steps=2, critic_updates=2)
    rollout, agent = random_rollout(args), Agent(3, 2, args)
    rollout.live[:, 0], rollout.done[:, 0] = [False, True], False
    optimizer = a2c.make_optimizer(agent, args)
    losses = a2c.update(agent, optimizer, rollout, args)
    assert all(p.isfinite().all() for p in agent.parameters())
    assert np.isfinite(list(losses.values())).all()


# --- Diagnostics


def test_explained_variance_against_its_definition():
    rollout, agent = random_rollout(PLAIN), make_agent(PLAIN)
    before = copy.deepcopy(agent)
    found = a2c.diagnostics(agent, rollout, PLAIN)
    want = explained_variance(agent, rollout, PLAIN)
    assert found == {"explained_variance": pytest.approx(want, abs=1e-5)}
    assert distance(agent, before) == 0.0
    assert all(torch.equal(old, new) for old, new in zip(before.buffers(), agent.buffers()))


@pytest.mark.parametrize(
    ("factor", "shift", "want"), [(1, 0, 1), (1, 9, 1), (-1, 0, -3)], ids=["exact", "bias", "wrong"]
)
def test_explained_variance_of_known_critics(factor, shift, want):
    """In episodes of one step the returns are the rewards; a constant error has no variance."""
    rollout, agent = random_rollout(PLAIN), make_agent(PLAIN)
    end = np.ones_like(rollout.live)
    rewards = factor * agent.value(torch.from_numpy(rollout.obs[:-1])).detach().numpy() + shift
    rollout = changed(rollout, rewards=rewards, terminated=end, done=end, live=end)
    found = a2c.diagnostics(agent, rollout, PLAIN)["explained_variance"]
    assert found == pytest.approx(want, abs=1e-4)


# --- The rollout and the training loop


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Train; return the agent, its episodes, what each update was given, and the scalars.

    `raw` are the rewards as they were collected.
    """
    updates, raw, scalars = [], [], {}

    def collect_spy(rollout, agent, run):
        collect(rollout, agent, run)
        raw.append(rollout.rewards.copy())

    def update_spy(agent, optimizer, rollout, args):
        arrays = {k: v.copy() for k, v in vars(rollout).items() if isinstance(v, np.ndarray)}
        rates = [group["lr"] for group in optimizer.param_groups]
        copies = {"raw": raw[-1], "agent": copy.deepcopy(agent), "rates": rates}
        updates.append(SimpleNamespace(**arrays, **copies))
        return update(agent, optimizer, rollout, args)

    def add_scalar(writer, tag, value, step):
        scalars[tag] = value

    def run(**changes):
        updates.clear()
        scalars.clear()
        args = replace(SMALL, **{"log_dir": str(tmp_path)} | changes)
        agent, episodes = a2c.train(args)
        return SimpleNamespace(
            agent=agent, episodes=episodes, updates=updates.copy(), scalars=scalars.copy()
        )

    collect, update = a2c.Rollout.collect, a2c.update
    monkeypatch.setattr(a2c.Rollout, "collect", collect_spy)
    monkeypatch.setattr(a2c, "update", update_spy)
    monkeypatch.setattr(SummaryWriter, "add_scalar", add_scalar)
    return run


@pytest.fixture
def scripted(recorded):
    """A recorded training on ScriptedBox-v0."""

    def run(**changes):
        shape = {"env_id": "ScriptedBox-v0", "num_envs": 2, "num_steps": 7, "total_timesteps": 90}
        return recorded(**shape | {"log_std_init": 1.0} | changes)

    return run


def joined(run, *names):
    """Arrays of all rollouts, one after the other."""
    return [np.concatenate([getattr(r, name) for r in run.updates]) for name in names]


def test_rollout_of_scripted_episodes(scripted):
    """Check every kind of end, also at the edge of a rollout, the reset rows and the counts.

    The episodes have 3, 2, 4, ... steps, each with a reset row after it. They end by termination,
    truncation, and both at once.
    """
    run = scripted()
    obs = np.concatenate([r.obs[:-1] for r in run.updates])
    successors = np.concatenate([r.obs[1:] for r in run.updates])
    rewards, terminated, done, live = joined(run, "raw", "terminated", "done", "live")
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
        # Every transition has its true successor.
        np.testing.assert_array_equal(successors[live[:, n], n], (obs[:, n] + [0, 1])[live[:, n]])
    assert done[6::7].any(), "no episode ended at the edge of a rollout"
    # A return is reported at the step at which it ended, summed over the environments.
    steps = live.sum(1).cumsum()
    assert [step for step, _, _ in run.episodes] == [steps[t] for t, _ in np.argwhere(done)]


def test_observation_statistics_leave_out_the_resets(scripted):
    """They hold the training's observations only: the evaluation adds nothing."""
    run = scripted()
    rows = np.concatenate([r.obs[:-1][r.live] for r in run.updates]).astype(float)
    assert len(rows) < sum(r.live.size for r in run.updates)
    assert run.agent.obs_statistics.count == len(rows)
    np.testing.assert_allclose(run.agent.obs_statistics.mean, rows.mean(0), rtol=1e-9)
    np.testing.assert_allclose(run.agent.obs_statistics.var, rows.var(0), rtol=1e-9)


def test_policy_that_learns_is_the_one_that_acted(scripted):
    """The observation statistics are updated after the update, the return statistics before it.

    The policy does not depend on the latter, and so the first rewards are scaled, too.
    """
    run = scripted()
    seen = np.cumsum([0] + [r.live.sum() for r in run.updates])
    assert [r.agent.obs_statistics.count for r in run.updates] == list(seen[:-1])
    assert [r.agent.return_statistics.count for r in run.updates] == list(seen[1:])


def test_normalised_rewards_and_reported_returns(scripted):
    """Each update sees rewards in units of the returns so far; the reported returns are raw."""
    gamma = 0.9
    run = scripted(gamma=gamma)
    seen, totals = [], np.zeros(2)
    for rollout in run.updates:
        for rewards, live in zip(rollout.raw, rollout.live):
            totals = np.where(live, gamma * totals + rewards, 0)  # starts anew in each episode
            seen += list(totals[live])
        np.testing.assert_allclose(rollout.rewards, rollout.raw / np.std(seen), rtol=1e-5)
    assert run.agent.return_statistics.count == len(seen)
    assert run.agent.return_statistics.var.item() == pytest.approx(np.var(seen), rel=1e-6)
    (raw,) = joined(run, "raw")
    assert raw.max() == 4.0
    lengths_and_returns = {(3, 6.0), (2, 3.0), (4, 10.0)}
    assert {(length, total) for _, total, length in run.episodes} == lengths_and_returns


@pytest.mark.parametrize("reward", [7.0, np.nan])
def test_reward_of_a_reset_is_not_counted(scripted, monkeypatch, reward):
    run = scripted()
    monkeypatch.setattr(a2c, "make_envs", with_paid_resets(a2c.make_envs, reward))
    twin = scripted()
    assert max(r.raw.max() for r in twin.updates) == 4.0  # not that of a reset
    assert twin.episodes == run.episodes
    assert torch.equal(twin.agent.return_statistics.var, run.agent.return_statistics.var)
    assert distance(twin.agent, run.agent) == 0.0


def test_actions_are_stored_as_sampled_and_clipped_for_the_environment(scripted, played):
    (actions,) = joined(scripted(), "actions")
    assert np.abs(actions).max() > 1.5
    np.testing.assert_array_equal(
        played, a2c.to_env(actions, gym.make("ScriptedBox-v0").action_space)
    )


def test_statistics_can_be_disabled(scripted):
    run = scripted(norm_obs=False, norm_reward=False)
    assert run.agent.return_statistics.count == 0
    rewards, raw = joined(run, "rewards", "raw")
    assert np.array_equal(rewards, raw)
    obs = 1000 * torch.randn(4, 2)  # they are not clipped either
    assert torch.equal(run.agent.value(obs), run.agent.critic(obs)[:, 0])
    assert torch.equal(run.agent.act(obs, greedy=True), run.agent.actor(obs))


@pytest.mark.parametrize(
    "changes", [{}, {"anneal_lr": False}, {"shared_body": True, "critic_updates": 1}]
)
def test_rates_are_those_of_the_step_at_which_a_rollout_begins(scripted, changes):
    """They decrease linearly, and the last update still has a rate above 0."""
    run = scripted(actor_lr=0.02, critic_lr=0.01, **changes)
    starts = np.cumsum([0] + [r.live.sum() for r in run.updates])[:-1]
    assert len(starts) > 5
    assert starts[-1] < 90
    for start, found in zip(starts, run.updates):
        remaining = 1 - start / 90 if "anneal_lr" not in changes else 1
        rates = [0.02 * remaining, 0.01 * remaining]
        assert found.rates == pytest.approx(rates[:1] if "shared_body" in changes else rates)
        assert min(found.rates) > 0


def test_training_for_a_single_rollout_changes_both_networks(recorded):
    run = recorded(total_timesteps=ONE_ROLLOUT)
    (only,) = run.updates
    assert only.live.all()
    for name in ("actor", "critic"):
        assert distance(getattr(run.agent, name), getattr(only.agent, name)) > 1e-6
    assert (run.agent.actor.log_std != only.agent.actor.log_std).all()


def test_logged_values_are_those_of_the_update(scripted):
    """The critic is judged before it is fitted to the rollout; the entropy may be negative."""
    changes = {"total_timesteps": 10, "log_std_init": -3.0, "critic_updates": 30}
    run = scripted(**changes)
    (rollout,) = run.updates
    before = explained_variance(rollout.agent, rollout, SMALL)
    run.agent.obs_statistics = rollout.agent.obs_statistics  # as they were in the update
    after = explained_variance(run.agent, rollout, SMALL)
    assert run.scalars["losses/explained_variance"] == pytest.approx(before, abs=1e-4)
    assert abs(after - before) > 0.01
    want = 2 * (-3 + 0.5 * np.log(2 * np.pi * np.e))
    assert run.scalars["losses/entropy"] == pytest.approx(want, abs=1e-3)


def test_each_source_of_randomness_has_the_seed(recorded, monkeypatch):
    """Initial weights, sampled actions and environments: equal seeds agree, others differ."""

    class Standard(Agent):
        """Takes the same random numbers to initialise; its policy is the standard Gaussian."""

        def __init__(self, *args):
            super().__init__(*args)
            for weight in self.parameters():
                weight.data.zero_()

    def run(agent_class, seed):
        torch.manual_seed(next(others))  # what came before has no influence
        np.random.seed(next(others))
        monkeypatch.setattr(a2c, "Agent", agent_class)
        return recorded(total_timesteps=ONE_ROLLOUT, seed=seed).updates[0]

    others = itertools.count(100)
    weights = [run(Agent, seed).agent for seed in (0, 0, 1)]
    for name in ("actor", "critic"):
        one, same, other = (getattr(agent, name)[0] for agent in weights)
        assert distance(one, same) == 0.0
        assert distance(one, other) > 0.0
    rollouts = [run(Standard, seed) for seed in (0, 0, 1)]
    for name in ("actions", "obs"):  # this environment does not react to the actions
        one, same, other = (getattr(rollout, name) for rollout in rollouts)
        assert np.array_equal(one, same)
        assert not np.array_equal(one, other)
    columns = rollouts[0].obs.swapaxes(0, 1).reshape(SMALL.num_envs, -1)
    assert len(np.unique(columns, axis=0)) == SMALL.num_envs  # each environment has its own seed


# --- Learning


def test_learns_the_identity(tmp_path):
    """The greedy policy gets 25 of 25, the samples 15.9 to 17.1, measured over seeds 0 to 9."""
    changes = {"total_timesteps": 12_000, "gamma": 0.4, "actor_lr": 3e-3, "critic_updates": 3}
    args = replace(SMALL, log_dir=str(tmp_path), **changes)
    agent, episodes = a2c.train(args)
    assert np.mean([r for _, r, _ in episodes[-40:]]) > 14
    _, env = a2c.make_envs(args)
    assert min(a2c.evaluate(agent, env, 3)) > 20


# --- The command line


def test_shared_body_can_be_repeated_when_resumed(cli):
    flags = ("--shared-body", "--total-timesteps", 600, "--eval-episodes", 1)
    first = cli(SCRIPT, "--critic-updates", 1, *flags)
    assert cli(SCRIPT, "--resume", checkpoint_of(first.out), *flags).status == 0


def test_statistics_cannot_be_disabled_when_resumed(cli):
    first = cli(SCRIPT, "--total-timesteps", 300, "--eval-episodes", 1)
    outcome = cli(SCRIPT, "--resume", checkpoint_of(first.out), "--no-norm-obs")
    assert (outcome.status, "norm_obs True, not False" in outcome.err) == (2, True)


BAD_INPUT = [
    (["--log-std-init", "3"], ["--log-std-init must be in [-5, 2], got 3"]),
    (["--num-envs", "0"], ["--num-envs must be in [1, inf], got 0"]),
    (["--shared-body"], ["--shared-body", "--critic-updates 1"]),
    (["--actor-updates", "11"], ["--actor-updates", "--critic-updates 10"]),
]


@pytest.mark.parametrize(("flags", "words"), BAD_INPUT, ids=[" ".join(x) for x, _ in BAD_INPUT])
def test_bad_input(cli, tmp_path, flags, words):
    assert_refused(cli(SCRIPT, *flags), tmp_path, words)

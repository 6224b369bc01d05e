"""reinforce_baseline.py: returns, the policy gradient and its variance, episodes and updates."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import reinforce_baseline as reinforce
from reinforce_baseline import (
    Agent,
    Args,
    Episodes,
    discounted_returns,
    gradient_variance,
    make_batch,
    reinforce_loss,
)
from tests.conftest import assert_refused, checkpoint_of, distance
from tests.toys import with_paid_resets

SCRIPT = "reinforce_baseline.py"
BASELINES = ["none", "mean", "value"]
PLAIN = Args(hidden_sizes=(), max_grad_norm=np.inf, critic_updates=1, num_envs=1)


# The policy


def test_act_samples_from_the_softmax():
    agent, obs = Agent(2, 3, PLAIN), torch.randn(20_000, 2)
    agent.actor[0].weight.data.zero_()
    agent.actor[0].bias.data = torch.tensor([0.0, 1.0, -1.0])
    shares = torch.bincount(agent.act(obs), minlength=3) / 20_000
    # The standard deviation of a share is at most 0.5 / sqrt(20000) = 0.0035. Allow five.
    want = torch.tensor([0.0, 1.0, -1.0]).softmax(-1)
    torch.testing.assert_close(shares, want, atol=0.018, rtol=0)
    assert (agent.act(obs, greedy=True) == 1).all()


def test_the_moving_average_starts_at_0():
    assert Agent(2, 2, Args()).mean_return == 0


def test_initial_policy_is_nearly_uniform():
    probs = Agent(8, 4, Args()).actor(torch.randn(100, 8)).softmax(-1)
    assert (probs - 0.25).abs().max() < 0.02


# Returns


def test_returns_by_hand():
    """Rewards 7 6, 1 2 and 3 4 5 of three episodes, gamma 0.1."""
    rewards = np.array([[7, 1, 3], [6, 2, 4], [0, 0, 5]], float)
    want = [[7.6, 1.2, 3.45], [6, 2, 4.5], [0, 0, 5]]
    np.testing.assert_allclose(discounted_returns(rewards, 0.1), want)


def test_returns_of_integer_rewards():
    np.testing.assert_allclose(discounted_returns(np.array([0, 0, 1]), 0.9), [0.81, 0.9, 1])


def test_returns_by_definition():
    rewards = np.random.default_rng(0).normal(size=(20, 3))
    copied = rewards.copy()
    returns = discounted_returns(rewards, 0.9)
    for t in range(20):
        want = sum(0.9**k * rewards[t + k] for k in range(20 - t))
        np.testing.assert_allclose(returns[t], want)
    np.testing.assert_array_equal(rewards, copied)


# The policy gradient is unbiased with every baseline: exactly, over all trajectories


def episodes_of(mdp, states, actions):
    """One trajectory of the tiny MDP as one episode, in float64."""
    rewards = mdp.reward[states[:-1], actions].numpy()[:, None]
    return Episodes(
        obs=np.eye(2)[states][:, None],
        actions=np.array(actions)[:, None],
        rewards=rewards,
        terminated=np.arange(mdp.horizon)[:, None] == mdp.horizon - 1,
        live=np.ones((mdp.horizon, 1), bool),
    )


def tabular_agent(args):
    """One weight for each state and action, and a value for each state."""
    torch.manual_seed(1)
    agent = Agent(2, 2, args).double()
    agent.actor[0].weight.data = torch.tensor([[0.3, 0.5], [-0.2, 0.1]], dtype=torch.float64)
    agent.mean_return.fill_(0.7)
    return agent


def sgd(agent, lr):
    """An optimizer with a group for the actor and one for the critic."""
    groups = [{"params": network.parameters()} for network in (agent.actor, agent.critic)]
    return torch.optim.SGD(groups, lr=lr)


def expected_step(mdp, args, agent_class=Agent):
    """Sum over all trajectories tau of p(tau) times the step that `update` takes at rate 1."""
    theta = tabular_agent(args).actor[0].weight.detach().T  # (state, action)
    total = torch.zeros(2, 2, dtype=torch.float64)
    for p, states, actions in mdp.trajectories(theta):
        agent = tabular_agent(args)
        agent.__class__, agent.seen = agent_class, torch.tensor(actions)
        batch = make_batch(agent, episodes_of(mdp, states, actions), args)
        reinforce.update(agent, sgd(agent, 1.0), batch, args)
        total += p * (agent.actor[0].weight.detach().T - theta)
    return total


def gradient_of_the_discounted_objective(mdp, gamma):
    theta = tabular_agent(PLAIN).actor[0].weight.detach().T.clone().requires_grad_()
    return torch.autograd.grad(mdp.objective(theta, gamma), theta)[0]


def gradient_without_gamma_t(mdp, gamma):
    """Sum over t, s, a of P(s_t = s) grad pi(a|s) Q_t(s, a); no discount for the states."""
    theta = tabular_agent(PLAIN).actor[0].weight.detach().T.clone().requires_grad_()
    pi, values, state = theta.softmax(-1), mdp.values(theta, gamma), mdp.start
    total = 0.0
    for t in range(mdp.horizon):
        q = mdp.reward + gamma * mdp.transition @ values[t + 1]
        total = total + (state.unsqueeze(-1) * pi * q).sum()
        state = torch.einsum("s,sa,san->n", state, pi.detach(), mdp.transition)
    return torch.autograd.grad(total, theta)[0]


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("discount", [True, False])
def test_expected_update_is_the_gradient(mdp, baseline, discount):
    args = replace(PLAIN, baseline=baseline, discount_policy_gradient=discount, gamma=0.9)
    objective = gradient_of_the_discounted_objective if discount else gradient_without_gamma_t
    truth = objective(mdp, 0.9)
    torch.testing.assert_close(expected_step(mdp, args), truth, atol=1e-7, rtol=0)
    other = gradient_without_gamma_t if discount else gradient_of_the_discounted_objective
    assert (other(mdp, 0.9) - truth).abs().max() > 1e-2  # the flag makes a difference


def test_a_baseline_that_depends_on_the_action_is_detected(mdp):
    """The test above can fail: here b is V(s) plus the action that was taken."""

    class Biased(Agent):
        def baseline(self, obs, kind):
            return super().baseline(obs, kind) + self.seen.to(obs)

    args = replace(PLAIN, gamma=0.9, discount_policy_gradient=True)
    error = expected_step(mdp, args, Biased) - gradient_of_the_discounted_objective(mdp, 0.9)
    assert error.abs().max() > 1e-2


# The batch


LENGTHS = np.array([9, 4, 6])


def random_episodes(seed=0, lengths=LENGTHS):
    """Episodes of the given lengths; a time limit ended the first two, termination the others."""
    rng = np.random.default_rng(seed)
    lengths, T, N = np.array(lengths), max(lengths), len(lengths)
    live = np.arange(T)[:, None] < lengths
    return Episodes(
        obs=rng.normal(size=(T + 1, N, 2)).astype("f"),
        actions=rng.integers(2, size=(T, N)),
        rewards=(rng.normal(size=(T, N)) * live).astype("f"),
        terminated=(np.arange(T)[:, None] == lengths - 1) & (np.arange(N) >= 2),
        live=live,
    )


THREE = Args(num_envs=3, gamma=0.9)


def make_agent(args=THREE, mean_return=0.7):
    torch.manual_seed(0)
    agent = Agent(2, 2, args)
    agent.mean_return.fill_(mean_return)
    return agent


def returns_by_definition(episodes, gamma, tails):
    """G of each live row, (T, N); `tails` are values after the last steps."""
    returns = np.zeros(episodes.rewards.shape)
    for n, length in enumerate(episodes.live.sum(0)):
        for t in range(length):
            rewards = sum(gamma ** (k - t) * episodes.rewards[k, n] for k in range(t, length))
            returns[t, n] = rewards + gamma ** (length - t) * tails[n]
    return returns


@pytest.mark.parametrize("discount", [True, False])
@pytest.mark.parametrize("bootstrap", [True, False])
@pytest.mark.parametrize("baseline", BASELINES)
def test_batch_by_definition(baseline, bootstrap, discount):
    """Only V estimates the missing tail, after a time limit, at the end of each episode itself."""
    args = replace(THREE, baseline=baseline, bootstrap=bootstrap, discount_policy_gradient=discount)
    agent, episodes = make_agent(args), random_episodes()
    before = copy.deepcopy(episodes)
    batch = make_batch(agent, episodes, args)
    tails = np.zeros(3)
    with torch.no_grad():
        if baseline == "value" and bootstrap:
            tails[:2] = agent.value(torch.from_numpy(episodes.obs[LENGTHS[:2], [0, 1]])).numpy()
        values = agent.value(torch.from_numpy(episodes.obs[:-1])).numpy()
    returns = returns_by_definition(episodes, 0.9, tails)
    b = {"none": 0.0 * values, "mean": 0.0 * values + 0.7, "value": values}[baseline]
    weights = 0.9 ** np.arange(9)[:, None] if discount else 1.0
    advantages = weights * (returns - b)
    assert torch.bincount(batch.episode).tolist() == LENGTHS.tolist()
    for n, length in enumerate(LENGTHS):
        rows = batch.episode == n  # in the order of time
        assert np.array_equal(batch.obs[rows], episodes.obs[:length, n])
        assert np.array_equal(batch.actions[rows], episodes.actions[:length, n])
        np.testing.assert_allclose(batch.returns[rows], returns[:length, n], atol=1e-5)
        np.testing.assert_allclose(batch.advantages[rows], advantages[:length, n], atol=1e-5)
    assert not any(field.requires_grad for field in batch)
    assert {field.dtype for field in batch} == {torch.float32, torch.int64}
    for field, old in zip(episodes, before):  # the rewards are copied before V is added
        np.testing.assert_array_equal(field, old)


@pytest.mark.parametrize("baseline", BASELINES)
def test_rows_after_the_end_of_an_episode_are_not_learned_from(baseline):
    args, episodes = replace(THREE, baseline=baseline), random_episodes()
    live = episodes.live
    reached = np.arange(len(episodes.obs))[:, None] <= LENGTHS  # with the one after the last step
    other = episodes._replace(
        obs=np.where(reached[..., None], episodes.obs, 9.0).astype("f"),
        actions=np.where(live, episodes.actions, 1),
        terminated=np.where(live, episodes.terminated, True),
    )
    one, two = updated(args, episodes), updated(args, other)
    assert distance(one.agent, two.agent) == 0.0
    assert one.losses == two.losses


# The best share of the episodes: the cross-entropy method

ELITE = replace(PLAIN, baseline="none", gamma=0.5)
# Undiscounted returns 4, 3, 2, 3. Discounted with gamma 0.5, they would be 0.5, 3, 1.5, 3.
REWARDS = [[0, 0, 0, 4], [3], [1, 1], [3, 0]]


def elite_weights(rewards, **changes):
    """The weights of each episode's steps, given its rewards."""
    lengths = [len(column) for column in rewards]
    args = replace(ELITE, num_envs=len(rewards), **changes)
    episodes = random_episodes(lengths=lengths)
    for n, column in enumerate(rewards):
        episodes.rewards[: len(column), n] = column
    batch = make_batch(make_agent(args), episodes, args)
    assert torch.bincount(batch.episode).tolist() == lengths  # no rows after the end
    return [batch.advantages[batch.episode == n].tolist() for n in range(len(rewards))]


@pytest.mark.parametrize(
    ("share", "elite"),
    [
        (0.001, [0]),  # at least one
        (0.25, [0]),
        (0.3, [0]),  # of 1.2
        (0.4, [0, 1, 3]),  # of 1.6, so 2, but the second shares its return with another
        (0.5, [0, 1, 3]),
        (0.75, [0, 1, 3]),
        (1.0, [0, 1, 2, 3]),
    ],
)
def test_the_best_episodes_have_the_weight_1_and_all_others_0(share, elite):
    want = [[float(n in elite)] * len(column) for n, column in enumerate(REWARDS)]
    assert elite_weights(REWARDS, elite_share=share) == want


def test_the_best_of_negative_returns():
    """The zeros after the end of a short episode are not rewards."""
    rewards = [[-1, -1, -1], [-2], [-1, -3]]
    assert elite_weights(rewards, elite_share=0.3) == [[0, 0, 0], [1], [0, 0]]


def test_if_all_returns_are_equal_all_episodes_count():
    assert elite_weights([[1, 1], [2], [0, 2]], elite_share=0.3) == [[1, 1], [1], [1, 1]]


def test_equal_returns_are_ties_in_whatever_order_the_rewards_came():
    """Sums in float32 would be 1.3 and 1.3000001."""
    rewards = [
        [0.1, 0.2, 0.3, 0.7],
        [0.7, 0.3, 0.2, 0.1],
        [0.3, 0.7, 0.1, 0.2],
        [0.2, 0.1, 0.7, 0.3],
    ]
    sums = {float(np.sum(np.array(row, np.float32), dtype=np.float64)) for row in rewards}
    assert len(sums) == 1
    assert elite_weights(rewards, elite_share=0.5) == [[1] * 4] * 4


def test_the_weights_of_the_best_episodes_are_discounted_on_request():
    weights = elite_weights(REWARDS, elite_share=0.25, discount_policy_gradient=True)
    assert weights == [[1, 0.5, 0.25, 0.125], [0], [0, 0], [0, 0]]


@pytest.mark.parametrize("share", [0.05, 0.3, 0.7, 1.0])
def test_elite_gradient_by_definition(mdp, share):
    """1/N times the sum of grad log pi(a|s) = onehot(a) - pi(s) over the steps of the elite."""
    args = replace(ELITE, num_envs=12, elite_share=share, gamma=0.9)
    agent = tabular_agent(args)
    theta = agent.actor[0].weight.detach().T.clone()  # (state, action)
    # Every 11th of the 128 trajectories; neighbours differ in the state after the last step.
    played = [(states, actions) for _, states, actions in mdp.trajectories(theta)][::11]
    columns = [episodes_of(mdp, *trajectory) for trajectory in played]
    joined = (np.concatenate(fields, 1) for fields in zip(*columns))
    batch = make_batch(agent, Episodes(*joined), args)
    reinforce.update(agent, sgd(agent, 1.0), batch, args)

    def total(states, actions):
        return sum(mdp.reward[s, a].item() for s, a in zip(states, actions))

    worst = sorted((total(*pair) for pair in played), reverse=True)[max(1, round(12 * share)) - 1]
    want, pi, count = torch.zeros(2, 2, dtype=torch.float64), theta.softmax(-1), 0
    for states, actions in played:
        if total(states, actions) >= worst - 1e-9:
            count += 1
            for s, a in zip(states, actions):
                want[s] += (torch.eye(2)[a] - pi[s]) / 12
    assert len(played) == 12
    # The returns 0.8 of the 8th, 9th and 10th are equal.
    assert count == {0.05: 1, 0.3: 4, 0.7: 10, 1.0: 12}[share]
    torch.testing.assert_close(agent.actor[0].weight.detach().T - theta, want, atol=1e-9, rtol=0)


# The update


def updated(args, episodes=None, mean_return=0.0):
    """One update with SGD at rate 0.1: the agent after and before it, the batch, the losses."""
    agent = make_agent(args, mean_return)
    before = copy.deepcopy(agent)
    batch = make_batch(agent, episodes or random_episodes(), args)
    losses = reinforce.update(agent, sgd(agent, 0.1), batch, args)
    return SimpleNamespace(agent=agent, before=before, batch=batch, losses=losses)


@pytest.mark.parametrize("ent_coef", [0.0, 0.5])
def test_the_policy_takes_one_gradient_step_on_the_sum_over_each_episode(ent_coef):
    """Both terms are summed over an episode's steps and averaged over the episodes."""
    args = replace(THREE, ent_coef=ent_coef, max_grad_norm=np.inf)
    result = updated(args)
    logits = result.before.actor(result.batch.obs)
    log_pi = logits - logits.exp().sum(-1, keepdim=True).log()
    policy_loss, bonus, entropies = 0.0, 0.0, []
    for n in range(3):
        for i in (result.batch.episode == n).nonzero()[:, 0]:
            entropies.append(-(log_pi[i].exp() * log_pi[i]).sum())
            chosen = log_pi[i, result.batch.actions[i]]
            policy_loss = policy_loss - result.batch.advantages[i] * chosen / 3
            bonus = bonus + entropies[-1] / 3
    parameters = list(result.before.actor.parameters())
    gradients = torch.autograd.grad(policy_loss - ent_coef * bonus, parameters)
    for new, old, g in zip(result.agent.actor.parameters(), parameters, gradients):
        torch.testing.assert_close(new, old - 0.1 * g, atol=1e-5, rtol=1e-4)
    # The logged entropy is the mean of one step's; the logged policy loss is without the bonus.
    assert result.losses["policy_loss"] == pytest.approx(policy_loss.item(), rel=1e-4)
    mean = sum(entropies).item() / 19
    assert result.losses["entropy"] == pytest.approx(mean, rel=1e-5)
    assert 0 < mean < np.log(2)


def test_policy_uses_the_baseline_from_before_its_training():
    few, many = (updated(replace(THREE, critic_updates=k)) for k in (1, 50))
    assert distance(few.agent.actor, many.agent.actor) == 0.0
    assert distance(few.agent.critic, many.agent.critic) > 0.0
    assert few.losses["policy_loss"] == many.losses["policy_loss"]
    args = replace(THREE, baseline="mean", mean_decay=0.9)
    result, without = updated(args), updated(replace(args, baseline="none"))
    assert result.losses["policy_loss"] == without.losses["policy_loss"]  # the average was still 0
    episodes = random_episodes()
    mean = returns_by_definition(episodes, 0.9, np.zeros(3))[episodes.live].mean()
    assert result.agent.mean_return.item() == pytest.approx(0.1 * mean, rel=1e-5)
    result = updated(args, mean_return=2.0)
    assert result.agent.mean_return.item() == pytest.approx(0.9 * 2 + 0.1 * mean, rel=1e-5)


def test_value_learns_the_returns():
    """Compare with one step of SGD at rate 0.1 that is written out here."""
    result = updated(replace(THREE, critic_updates=1, max_grad_norm=np.inf))
    loss = (result.batch.returns - result.before.value(result.batch.obs)).pow(2).mean()
    parameters = list(result.before.critic.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    for new, old, g in zip(result.agent.critic.parameters(), parameters, gradients):
        torch.testing.assert_close(new, old - 0.1 * g)
    assert result.losses["value_loss"] == pytest.approx(loss.item())


def test_without_a_value_baseline_the_critic_is_not_trained():
    for baseline in ("none", "mean"):
        result = updated(replace(THREE, baseline=baseline))
        assert distance(result.agent.critic, result.before.critic) == 0.0
        assert distance(result.agent.actor, result.before.actor) > 0.0
        assert "value_loss" not in result.losses


def test_each_update_takes_one_step_of_the_policy_and_k_of_the_value():
    args = replace(THREE, critic_updates=3)
    agent = Agent(2, 2, args)
    optimizer = torch.optim.Adam(agent.parameters())
    for seed in range(2):
        batch = make_batch(agent, random_episodes(seed), args)
        reinforce.update(agent, optimizer, batch, args)
    for network, steps in ((agent.actor, 2), (agent.critic, 6)):
        assert {int(optimizer.state[weight]["step"]) for weight in network.parameters()} == {steps}


def test_each_update_starts_without_the_gradients_of_the_last_one():
    args = replace(THREE, max_grad_norm=np.inf)
    agent = make_agent(args)
    optimizer = sgd(agent, 0.1)
    for seed in range(2):
        twin = copy.deepcopy(agent)  # without gradients
        batch = make_batch(agent, random_episodes(seed), args)
        reinforce.update(agent, optimizer, batch, args)
    reinforce.update(twin, sgd(twin, 0.1), batch, args)
    assert distance(agent, twin) == 0.0


def test_gradients_are_clipped():
    episodes = random_episodes()
    episodes = episodes._replace(rewards=1000 * episodes.rewards)
    free = updated(replace(THREE, critic_updates=1, max_grad_norm=np.inf), episodes)
    clipped = updated(replace(THREE, critic_updates=1, max_grad_norm=0.5), episodes)
    moves = [
        distance(getattr(free.agent, name), getattr(free.before, name)) ** 0.5 / 0.1
        for name in ("actor", "critic")
    ]
    assert min(moves) > 5
    # The logged norm is that of both gradients before they are clipped.
    for result in free, clipped:
        assert result.losses["grad_norm"] == pytest.approx(np.hypot(*moves), rel=1e-3)
    for name in ("actor", "critic"):
        move = distance(getattr(clipped.agent, name), getattr(clipped.before, name)) ** 0.5 / 0.1
        assert move == pytest.approx(0.5, rel=1e-4)


def test_entropy_bonus_makes_the_policy_more_random():
    args = replace(THREE, baseline="none", ent_coef=1.0)
    episodes = random_episodes()
    episodes = episodes._replace(rewards=0 * episodes.rewards)  # only the bonus remains
    agent = make_agent(args)
    agent.actor[-1].weight.data.mul_(100)
    batch, optimizer = make_batch(agent, episodes, args), sgd(agent, 0.1)
    one, two = (reinforce.update(agent, optimizer, batch, args)["entropy"] for _ in range(2))
    assert two > one + 1e-4


def test_gradient_variance_by_definition():
    """Variance of a mean over N episodes: the sum of squared distances over N (N - 1)."""
    agent = Agent(2, 2, PLAIN)
    batch = reinforce.EpisodeBatch(
        obs=torch.randn(30, 2),
        actions=torch.randint(2, (30,)),
        returns=torch.randn(30),
        advantages=torch.randn(30),
        episode=torch.arange(30) % 5,
    )
    gradients = []
    for n in range(5):
        rows = batch.episode == n
        agent.zero_grad()
        log_probs, _ = agent.log_prob_and_entropy(batch.obs[rows], batch.actions[rows])
        reinforce_loss(log_probs, batch.advantages[rows], 1).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in agent.actor.parameters()]))
    gradients = torch.stack(gradients)
    want = (gradients - gradients.mean(0)).pow(2).sum().item() / (5 * 4)
    assert gradient_variance(agent, batch, 5) == pytest.approx(want, rel=1e-5)


def test_advantages_are_constants_in_the_loss():
    log_probs, advantages = torch.zeros(3, requires_grad=True), torch.ones(3, requires_grad=True)
    reinforce_loss(log_probs, advantages, 2).backward()
    assert advantages.grad is None
    assert log_probs.grad.tolist() == [-0.5, -0.5, -0.5]


def test_loss_refuses_shapes_that_would_broadcast():
    with pytest.raises(AssertionError):
        reinforce_loss(torch.zeros(4), torch.zeros(4, 1), 1)


@pytest.mark.parametrize("baseline", BASELINES)
def test_diagnostics_by_definition(baseline):
    args = replace(THREE, baseline=baseline)
    agent = make_agent(args)
    batch = make_batch(agent, random_episodes(), args)
    errors = batch.advantages.numpy()  # G - b, because gamma^t is omitted
    explained = 1 - np.var(errors) / np.var(batch.returns.numpy())
    found = reinforce.diagnostics(agent, batch, args)
    assert found["explained_variance"] == pytest.approx(explained, abs=1e-4)
    assert found["policy_gradient_variance"] == gradient_variance(agent, batch, 3) > 0
    # The explained variance is about G and b, with gamma^t or without.
    weighted = make_batch(agent, random_episodes(), replace(args, discount_policy_gradient=True))
    found = reinforce.diagnostics(agent, weighted, args)
    assert found["explained_variance"] == pytest.approx(explained, abs=1e-4)
    args = replace(args, num_envs=1)
    one = make_batch(agent, random_episodes(lengths=LENGTHS[:1]), args)
    found = reinforce.diagnostics(agent, one, args)
    assert "policy_gradient_variance" not in found  # one episode has no variance


# Episodes


@pytest.fixture
def batches_of(tmp_path, monkeypatch):
    """Train; return for each update its episodes, batch, rates, losses and the agent before it."""

    def run(**changes):
        records = []

        def spy_make_batch(agent, episodes, args):
            batch = original_make_batch(agent, episodes, args)
            records.append(SimpleNamespace(episodes=episodes, batch=batch))
            return batch

        def spy_update(agent, optimizer, batch, args):
            records[-1].rates = [group["lr"] for group in optimizer.param_groups]
            records[-1].before = copy.deepcopy(agent)
            records[-1].losses = original_update(agent, optimizer, batch, args)
            return records[-1].losses

        original_make_batch, original_update = reinforce.make_batch, reinforce.update
        with monkeypatch.context() as patch:
            patch.setattr(reinforce, "make_batch", spy_make_batch)
            patch.setattr(reinforce, "update", spy_update)
            changes = {"log_dir": str(tmp_path), "eval_episodes": 1} | changes
            agent, episodes = reinforce.train(Args(**changes))
        return records, agent, episodes

    return run


def test_the_actions_that_are_learned_from_are_those_that_were_played(batches_of, played):
    records, _, _ = batches_of(env_id="Scripted-v0", num_envs=3, total_timesteps=60)
    actions = np.concatenate([record.episodes.actions for record in records])
    np.testing.assert_array_equal(played, actions + 5)  # the actions of Scripted begin at 5


def test_each_environment_plays_one_whole_episode(batches_of):
    records, _, listed = batches_of(num_envs=5, total_timesteps=1500)
    assert len(listed) == 5 * len(records)
    want, start, lengths = [], 0, set()
    for episodes in (record.episodes for record in records):
        live = episodes.live
        end = live.sum(0), np.arange(5)
        last_obs = episodes.obs[end]
        assert live[0].all()
        assert (np.diff(live.astype(int), axis=0) <= 0).all()  # an episode that ended stays ended
        assert live.any(1).all()  # and nothing is played after the last one ended
        np.testing.assert_array_equal(episodes.rewards, live)  # CartPole pays 1 for each step
        assert (np.abs(episodes.obs[0]) <= 0.05).all()  # all episodes begin with a reset
        fallen = (np.abs(last_obs[:, 0]) > 2.4) | (np.abs(last_obs[:, 2]) > 0.20943)  # 12 degrees
        np.testing.assert_array_equal(fallen, episodes.terminated[end[0] - 1, end[1]])
        # Listed at the step at which all have ended, environment by environment.
        lengths |= set(live.sum(0))
        start += live.sum()
        want += [(start, float(length), length) for length in live.sum(0)]
    assert len(lengths) > 5
    assert listed == want


def test_a_time_limit_is_distinguished_from_a_terminal_state():
    """Of Scripted's episodes the first is terminated, the second truncated, the third both."""
    args = Args(env_id="Scripted-v0", num_envs=2)
    envs, _ = reinforce.make_envs(args)
    agent = Agent(2, 3, args)
    for episode, (length, by_time) in enumerate([(3, False), (2, True), (4, False)]):
        episodes = reinforce.play(agent, envs)
        assert episodes.terminated[-1].tolist() == [not by_time] * 2
        assert not episodes.terminated[:-1].any()
        for n in range(2):
            assert episodes.obs[:, n].tolist() == [[episode, t] for t in range(length + 1)]
        assert episodes.live.sum(0).tolist() == [length] * 2
        np.testing.assert_array_equal(episodes.rewards[:, 0], np.arange(1, length + 1))


def test_rewards_after_the_end_are_not_counted():
    """These environments pay 7 for a reset step."""
    args = Args(num_envs=4)
    envs, _ = with_paid_resets(reinforce.make_envs, 7.0)(args)
    envs.reset(seed=0)
    episodes = reinforce.play(Agent(4, 2, args), envs)
    assert not episodes.live.all()
    np.testing.assert_array_equal(episodes.rewards, episodes.live)


# Training


@pytest.mark.parametrize("baseline", BASELINES)
def test_logged_values_are_those_from_before_the_update(
    batches_of, monkeypatch, set_clock, baseline
):
    """With a report for every update."""
    logged = {}

    def log(self, tag, value, step):
        logged.setdefault(step, {})[tag.removeprefix("losses/")] = float(value)

    set_clock(reinforce, 1.5)
    monkeypatch.setattr(reinforce.SummaryWriter, "add_scalar", log)
    records, _, _ = batches_of(num_envs=3, total_timesteps=400, baseline=baseline)
    ends = np.cumsum([len(record.batch.obs) for record in records])
    assert list(logged) == ends.tolist()
    assert len(records) > 3
    for record, got in zip(records, logged.values()):
        assert got.items() >= record.losses.items()
        with torch.no_grad():
            errors = record.batch.returns - record.before.baseline(record.batch.obs, baseline)
        explained = 1 - np.var(errors.numpy()) / np.var(record.batch.returns.numpy())
        assert got["explained_variance"] == pytest.approx(explained, abs=1e-4)
        variance = gradient_variance(record.before, record.batch, 3)
        assert got["policy_gradient_variance"] == pytest.approx(variance, rel=1e-4)


def test_the_last_update_still_has_a_learning_rate(batches_of):
    """The rates decrease linearly with the steps before each iteration."""
    args = {"env_id": "Scripted-v0", "num_envs": 2, "total_timesteps": 100}
    args |= {"actor_lr": 0.01, "critic_lr": 0.03}
    records, _, _ = batches_of(**args)
    ends = np.cumsum([0] + [len(record.batch.obs) for record in records])
    assert ends[-1] >= 100
    for record, start in zip(records, ends):
        assert record.rates == pytest.approx([0.01 * (1 - start / 100), 0.03 * (1 - start / 100)])
        assert min(record.rates) > 0
    records, _, _ = batches_of(**args, anneal_lr=False)
    assert all(record.rates == [0.01, 0.03] for record in records)


def test_the_moving_average_is_saved_and_restored(batches_of, capsys):
    args = {"baseline": "mean", "num_envs": 2, "total_timesteps": 200}
    _, agent, _ = batches_of(**args)
    path = checkpoint_of(capsys.readouterr().out)
    mean = agent.mean_return.item()
    assert mean > 1
    assert torch.load(path, weights_only=True)["agent"]["mean_return"].item() == mean
    records, _, _ = batches_of(**args | {"total_timesteps": 300}, resume=path)
    batch = records[0].batch
    torch.testing.assert_close(batch.advantages, batch.returns - mean)


def test_the_seed_determines_the_initial_weights(batches_of):
    args = {"env_id": "Scripted-v0", "num_envs": 2, "total_timesteps": 1}
    first, again, other = (batches_of(**args, seed=seed)[0][0].before for seed in (0, 0, 1))
    for name in "actor", "critic":
        assert distance(getattr(first, name), getattr(again, name)) == 0.0
        assert distance(getattr(first, name), getattr(other, name)) > 0.0


def test_the_seed_determines_the_actions(batches_of, monkeypatch):
    """The policy is uniform for all seeds, so that only the samples can differ."""

    def make_uniform(self, *args):
        original(self, *args)
        self.actor[-1].weight.data.zero_()

    original = Agent.__init__
    monkeypatch.setattr(Agent, "__init__", make_uniform)

    def actions_of(seed):
        args = {"env_id": "Scripted-v0", "num_envs": 2, "total_timesteps": 90, "actor_lr": 0.0}
        records, _, _ = batches_of(**args, seed=seed)
        return torch.cat([record.batch.actions for record in records]).tolist()

    assert actions_of(0) == actions_of(0) != actions_of(1)


@pytest.mark.parametrize("checkpoint_interval", [0, 1e9])
@pytest.mark.parametrize("critic_updates", [1, 3])
@pytest.mark.parametrize("name", ["value", "log_prob_and_entropy"])
def test_nan_in_a_gradient_stops_the_run_in_the_same_update(
    tmp_path, monkeypatch, set_clock, name, critic_updates, checkpoint_interval
):
    """The gradient of the value baseline or of the policy is NaN from the second update on."""

    def update(*args):
        updates.append(1)
        return original_update(*args)

    def method(self, *args):
        result = original(self, *args)
        output = result if name == "value" else result[0]
        if len(updates) == 2 and output.requires_grad:
            output.register_hook(lambda gradient: gradient * np.nan)
        return result

    updates, original_update, original = [], reinforce.update, getattr(Agent, name)
    monkeypatch.setattr(reinforce, "update", update)
    monkeypatch.setattr(Agent, name, method)
    set_clock(reinforce, 1.5)  # a report after every update, and a checkpoint if the interval is 0
    args = Args(env_id="Scripted-v0", num_envs=2, log_dir=str(tmp_path))
    args = replace(args, critic_updates=critic_updates, checkpoint_interval=checkpoint_interval)
    # Two environments play episodes of length 3, then of length 2.
    with pytest.raises(FloatingPointError, match="step 10: NaN or inf in "):
        reinforce.train(args)
    checkpoints = list(tmp_path.glob("*/checkpoint.pt"))
    assert len(checkpoints) == (checkpoint_interval == 0)
    for path in checkpoints:
        state = torch.load(path, weights_only=True)
        assert state["global_step"] == 6
        assert all(weight.isfinite().all() for weight in state["agent"].values())


# Learning


@pytest.mark.parametrize("baseline", BASELINES)
def test_learns_the_identity(tmp_path, baseline):
    """Measured over seeds 0 to 9: 25 of 25, with all three."""
    args = Args(
        env_id="Identity-v0",
        baseline=baseline,
        num_envs=8,
        total_timesteps=12_000,
        gamma=0.4,
        log_dir=str(tmp_path),
    )
    agent, _ = reinforce.train(args)
    _, env = reinforce.make_envs(args)
    assert min(reinforce.evaluate(agent, env, 3)) > 20


def test_learns_the_identity_from_the_best_episodes(tmp_path):
    """Measured over seeds 0 to 9: 25 of 25, also with the shares 0.1 and 0.5."""
    args = Args(
        env_id="Identity-v0",
        baseline="none",
        elite_share=0.25,
        num_envs=16,
        total_timesteps=20_000,
        actor_lr=1e-2,
        log_dir=str(tmp_path),
    )
    agent, _ = reinforce.train(args)
    _, env = reinforce.make_envs(args)
    assert min(reinforce.evaluate(agent, env, 3)) > 20


# Bad input


@pytest.mark.parametrize("baseline", BASELINES)
def test_the_best_share_needs_no_baseline(baseline):
    if baseline == "none":
        Args(baseline="none", elite_share=0.2)
    else:
        with pytest.raises(reinforce.InputError, match="--elite-share requires --baseline none"):
            Args(baseline=baseline, elite_share=0.2)
    Args(baseline=baseline, elite_share=0.0)


BAD_INPUT = [
    (["--baseline", "median"], ["--baseline", "value"]),
    (["--mean-decay", "2"], ["--mean-decay must be in [0, 1], got 2"]),
    (["--elite-share", "0.2"], ["--elite-share requires --baseline none"]),
    (["--elite-share", "1.5"], ["--elite-share must be in [0, 1], got 1.5"]),
    (["--num-envs", "0"], ["--num-envs must be in [1, inf], got 0"]),
]


@pytest.mark.parametrize(("flags", "words"), BAD_INPUT, ids=[" ".join(x) for x, _ in BAD_INPUT])
def test_bad_input(cli, tmp_path, flags, words):
    assert_refused(cli(SCRIPT, *flags), tmp_path, words)

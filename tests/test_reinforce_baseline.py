"""reinforce_baseline.py: returns, the policy gradient and its variance, sessions and update."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import reinforce_baseline as reinforce
from reinforce_baseline import Agent, Args, discounted_returns, gradient_variance, reinforce_loss
from tests.conftest import assert_refused, distance

SCRIPT = "reinforce_baseline.py"
BASELINES = ["none", "mean", "value"]
PLAIN = Args(hidden_sizes=(), max_grad_norm=np.inf, critic_updates=1)


# Returns


def test_returns_by_hand():
    """Rewards 7 6, 1 2 and 3 4 5 of three sessions, gamma 0.1."""
    rewards = np.array([[7, 1, 3], [6, 2, 4], [0, 0, 5]], float)
    want = [[7.6, 1.2, 3.45], [6, 2, 4.5], [0, 0, 5]]
    np.testing.assert_allclose(discounted_returns(rewards, 0.1), want)


def test_returns_of_one_session_of_whole_numbers():
    np.testing.assert_allclose(discounted_returns(np.array([0, 0, 1]), 0.9), [0.81, 0.9, 1])


def test_returns_by_definition():
    rewards = np.random.default_rng(0).normal(size=(20, 3))
    returns = discounted_returns(rewards, 0.9)
    for t in range(20):
        want = sum(0.9**k * rewards[t + k] for k in range(20 - t))
        np.testing.assert_allclose(returns[t], want)


# The policy gradient is unbiased, whatever the baseline: exactly, over all trajectories


def sessions_of(mdp, states, actions):
    """One trajectory of the tiny MDP as a batch of one session, in float64."""
    obs = np.eye(2)[states][:, None]
    rewards = mdp.reward[states[:-1], actions].numpy()[:, None]
    live = np.ones((mdp.horizon, 1), bool)
    return obs[:-1], np.array(actions)[:, None], rewards, live, obs[-1], np.zeros(1, bool)


def tabular_agent(args):
    """One weight for each state and action, and a value for each state."""
    torch.manual_seed(1)
    agent = Agent(2, 2, args).double()
    agent.actor[0].weight.data = torch.tensor([[0.3, 0.5], [-0.2, 0.1]], dtype=torch.float64)
    agent.mean_return.fill_(0.7)
    return agent


def expected_step(mdp, args, agent_class=Agent):
    """Sum over all trajectories of p(tau) times the step that `update` makes on tau at rate 1."""
    before = tabular_agent(args)
    theta = before.actor[0].weight.detach().T  # (state, action)
    total = torch.zeros(2, 2, dtype=torch.float64)
    for p, states, actions in mdp.trajectories(theta):
        agent = tabular_agent(args)
        agent.__class__ = agent_class
        optimizer = torch.optim.SGD(agent.actor.parameters(), lr=1.0)
        sessions = sessions_of(mdp, states, actions)
        reinforce.update(agent, optimizer, sessions, args, report=False)
        total += p * (agent.actor[0].weight.detach().T - theta)
    return total


def gradient_of_the_discounted_objective(mdp, gamma):
    theta = tabular_agent(PLAIN).actor[0].weight.detach().T.clone().requires_grad_()
    return torch.autograd.grad(mdp.objective(theta, gamma), theta)[0]


def gradient_without_gamma_t(mdp, gamma):
    """Sum over t and s of P(s_t = s) sum over a of grad pi(a|s) Q_t(s, a): states undiscounted."""
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
    torch.testing.assert_close(expected_step(mdp, args), truth, atol=1e-6, rtol=0)
    other = gradient_without_gamma_t if discount else gradient_of_the_discounted_objective
    assert (other(mdp, 0.9) - truth).abs().max() > 1e-2  # the flag makes a difference


def test_undiscounted_both_objectives_agree(mdp):
    one, two = gradient_of_the_discounted_objective(mdp, 1.0), gradient_without_gamma_t(mdp, 1.0)
    torch.testing.assert_close(one, two, atol=1e-9, rtol=0)


def test_a_baseline_that_depends_on_the_action_is_found(mdp, monkeypatch):
    """The test above can fail: here b is V(s) plus the action that was taken."""

    class Cheating(Agent):
        def baseline(self, obs, kind):
            return super().baseline(obs, kind) + self.seen.to(obs)

    args = replace(PLAIN, gamma=0.9, discount_policy_gradient=True)
    honest = reinforce.update

    def update(agent, optimizer, sessions, *rest, **kwargs):
        agent.seen = torch.from_numpy(sessions[1][:, 0])
        return honest(agent, optimizer, sessions, *rest, **kwargs)

    monkeypatch.setattr(reinforce, "update", update)
    error = expected_step(mdp, args, Cheating) - gradient_of_the_discounted_objective(mdp, 0.9)
    assert error.abs().max() > 1e-2


# The update


def random_sessions(seed=0, lengths=(9, 4, 6), obs_size=2):
    rng = np.random.default_rng(seed)
    T, N = max(lengths), len(lengths)
    live = np.arange(T)[:, None] < lengths
    obs, last_obs = rng.normal(size=(T, N, obs_size)), rng.normal(size=(N, obs_size))
    actions, rewards = rng.integers(2, size=(T, N)), rng.normal(size=(T, N)) * live
    cut = np.arange(N) == 0
    return [x.astype("f") if x.dtype == float else x for x in (obs, actions, rewards, live)] + [
        last_obs.astype("f"),
        cut,
    ]


def updated(args, sessions, report=False):
    torch.manual_seed(0)
    agent = Agent(2, 2, args)
    groups = [{"params": list(part.parameters())} for part in (agent.actor, agent.critic)]
    logs = reinforce.update(agent, torch.optim.SGD(groups, lr=0.1), sessions, args, report)
    return agent, logs


@pytest.mark.parametrize("baseline", BASELINES)
def test_rows_after_the_end_of_a_session_are_not_learned_from(baseline):
    args = Args(baseline=baseline)
    obs, actions, rewards, live, last_obs, cut = random_sessions()
    others = np.where(live[..., None], obs, 9.0), np.where(live, actions, 1)
    one, _ = updated(args, (obs, actions, rewards, live, last_obs, cut))
    two, _ = updated(args, (others[0].astype("f"), others[1], rewards, live, last_obs, cut))
    assert distance(one, two) == 0.0


def test_policy_uses_the_baseline_from_before_its_training():
    few, many = (updated(Args(critic_updates=k), random_sessions())[0] for k in (1, 50))
    assert distance(few.actor, many.actor) == 0.0
    assert distance(few.critic, many.critic) > 0.0
    args = Args(baseline="mean", mean_decay=0.9)
    agent, logs = updated(args, random_sessions())
    _, without = updated(replace(args, baseline="none"), random_sessions())
    assert logs["policy_loss"] == without["policy_loss"]  # the average was still 0
    rewards, live = random_sessions()[2:4]
    mean = discounted_returns(rewards, args.gamma)[live].mean()
    assert agent.mean_return.item() == pytest.approx(0.1 * mean, rel=1e-5)


def test_value_learns_the_returns():
    """One step of SGD at rate 0.1, written out a second time."""
    args = Args(critic_updates=1, max_grad_norm=np.inf, bootstrap=False)
    obs, _, rewards, live, _, _ = sessions = random_sessions()
    agent, logs = updated(args, sessions)
    torch.manual_seed(0)
    before = Agent(2, 2, args)
    returns = torch.from_numpy(discounted_returns(rewards, args.gamma)[live])
    values = before.value(torch.from_numpy(obs[live]))
    loss = (returns - values).pow(2).mean()
    for new, old, g in zip(
        agent.critic.parameters(),
        before.critic.parameters(),
        torch.autograd.grad(loss, before.critic.parameters()),
    ):
        torch.testing.assert_close(new, old - 0.1 * g)
    torch.testing.assert_close(logs["value_loss"], loss)
    explained = 1 - (returns - values).var(correction=0) / returns.var(correction=0)
    torch.testing.assert_close(logs["explained_variance"], explained)


def test_in_every_update_the_policy_makes_one_step_and_the_value_k():
    args = Args(critic_updates=3)
    agent = Agent(2, 2, args)
    groups = [{"params": list(part.parameters())} for part in (agent.actor, agent.critic)]
    optimizer = torch.optim.Adam(groups)
    for seed in range(2):
        reinforce.update(agent, optimizer, random_sessions(seed), args, report=False)
    for network, steps in ((agent.actor, 2), (agent.critic, 6)):
        assert {int(optimizer.state[weight]["step"]) for weight in network.parameters()} == {steps}


def test_gradients_are_clipped():
    sessions = random_sessions()
    sessions[2] *= 1000
    torch.manual_seed(0)
    before = Agent(2, 2, Args())
    for limit in (0.5, np.inf):
        agent, logs = updated(Args(critic_updates=1, max_grad_norm=limit), sessions)
        assert logs["grad_norm"] > 5  # that of the policy's gradient before it is clipped
        for new, old in ((agent.actor, before.actor), (agent.critic, before.critic)):
            move = distance(new, old) ** 0.5 / 0.1  # the rate
            assert move == pytest.approx(0.5, rel=1e-4) if limit == 0.5 else move > 5


def test_entropy_bonus_makes_the_policy_less_decided():
    args = Args(baseline="none", ent_coef=1.0)
    sessions = random_sessions()
    sessions[2] *= 0  # no rewards: the bonus is all that there is
    agent = Agent(2, 2, args)
    agent.actor[-1].weight.data.mul_(100)
    optimizer = torch.optim.SGD(agent.actor.parameters(), lr=0.1)
    one, two = (
        reinforce.update(agent, optimizer, sessions, args, report=False)["entropy"]
        for _ in range(2)
    )
    assert two > one + 1e-4


def test_only_sessions_that_were_cut_off_are_bootstrapped(monkeypatch):
    seen = []
    original = reinforce.discounted_returns
    monkeypatch.setattr(
        reinforce, "discounted_returns", lambda r, g: seen.append(r.copy()) or original(r, g)
    )
    sessions = random_sessions()
    _, _, rewards, _, last_obs, _ = sessions
    torch.manual_seed(0)
    rest = Agent(2, 2, Args()).value(torch.from_numpy(last_obs[0])).item()
    updated(Args(), sessions)
    want = rewards.copy()
    want[8, 0] += 0.99 * rest  # session 0, cut off after 9 steps
    np.testing.assert_allclose(seen[-1], want, rtol=1e-5)
    for changes in ({"bootstrap": False}, {"baseline": "mean"}, {"baseline": "none"}):
        updated(Args(**changes), sessions)
        np.testing.assert_array_equal(seen[-1], rewards)


def test_gradient_variance_by_definition():
    """Of the mean over N: the sum of squared distances over N (N - 1)."""
    agent = Agent(2, 2, PLAIN)
    obs, actions, advantages = torch.randn(30, 2), torch.randint(2, (30,)), torch.randn(30)
    rows = [torch.arange(30) % 5 == n for n in range(5)]
    gradients = []
    for mask in rows:
        agent.zero_grad()
        log_probs, _ = agent.log_prob_and_entropy(obs[mask], actions[mask])
        reinforce_loss(log_probs, advantages[mask], 1).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in agent.actor.parameters()]))
    gradients = torch.stack(gradients)
    want = (gradients - gradients.mean(0)).pow(2).sum() / (5 * 4)
    variance = gradient_variance(agent, obs, actions, advantages, rows)
    torch.testing.assert_close(variance, want)
    _, logs = updated(Args(), random_sessions(), report=True)
    assert logs["policy_gradient_variance"] > 0


def test_loss_refuses_shapes_that_would_broadcast():
    with pytest.raises(AssertionError):
        reinforce_loss(torch.zeros(4), torch.zeros(4, 1), 1)


# Sessions


def test_whole_sessions_one_of_each_environment(tmp_path, monkeypatch):
    batches = []

    def spy(agent, optimizer, sessions, args, report):
        batches.append(sessions)
        return original(agent, optimizer, sessions, args, report)

    original = reinforce.update
    monkeypatch.setattr(reinforce, "update", spy)
    args = Args(num_envs=5, total_timesteps=1500, eval_episodes=1, log_dir=str(tmp_path))
    _, episodes = reinforce.train(args)
    assert len(episodes) == 5 * len(batches)
    lengths = np.concatenate([live.sum(0) for _, _, _, live, _, _ in batches])
    assert len(set(lengths)) > 5
    for obs, _, rewards, live, last_obs, cut in batches:
        assert live[0].all()
        assert (np.diff(live.astype(int), axis=0) <= 0).all()  # once over, over
        assert live.any(1).all()  # and not played on when the last one is through
        assert rewards.sum() == live.sum()  # CartPole pays 1 for each step
        assert (np.abs(obs[0]) <= 0.05).all()  # they begin with a reset
        fallen = (np.abs(last_obs[:, 0]) > 2.4) | (np.abs(last_obs[:, 2]) > 0.20943)  # 12 degrees
        np.testing.assert_array_equal(fallen, ~cut)
    assert [length for _, _, length in episodes] == list(lengths)
    assert episodes[-1][0] == lengths.sum()


def test_a_time_limit_is_told_from_an_end():
    """Of Scripted's episodes the first is terminated, the second truncated, the third both."""
    args = Args(env_id="Scripted-v0", num_envs=2)
    envs, _ = reinforce.make_envs(args)
    agent = Agent(2, 3, args)
    for episode, (length, by_time) in enumerate([(3, False), (2, True), (4, False)]):
        _, _, rewards, live, last_obs, cut = reinforce.play(agent, envs)
        assert cut.tolist() == [by_time] * 2
        assert last_obs.tolist() == [[episode, length]] * 2
        assert live.sum(0).tolist() == [length] * 2
        np.testing.assert_array_equal(rewards[:, 0], np.arange(1, length + 1))


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


# Bad input


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--baseline", "median"], ["--baseline", "value"]),
        (["--mean-decay", "2"], ["--mean-decay must lie in [0, 1], got 2"]),
        (["--num-envs", "0"], ["--num-envs", "got 0"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_bad_input(cli, tmp_path, flags, words):
    assert_refused(cli(SCRIPT, *flags), tmp_path, words)

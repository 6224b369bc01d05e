"""a2c_discrete.py: its equations, its rollout, its update."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

import a2c_discrete as a2c
from a2c_discrete import Agent, Args, compute_gae, policy_gradient_loss, value_loss
from tests.conftest import assert_refused, checkpoint_of, distance
from tests.toys import with_paid_resets

SCRIPT = "a2c_discrete.py"
SMALL = Args(env_id="Identity-v0", num_envs=4, num_steps=8, total_timesteps=1000, eval_episodes=1)


def column(*numbers, dtype=torch.float64):
    return torch.tensor(numbers, dtype=dtype).unsqueeze(-1)


def small_args(tmp_path, **changes):
    return replace(SMALL, log_dir=str(tmp_path), **changes)


# Generalised advantage estimation


def test_gae_against_slm_lab():
    done = column(0, 0, 1, 1, 0, 0, 0, 0, dtype=torch.bool)
    values = column(1.1, 0.1, 1.1, 1.1, 0.1, 1.1, 1.1, 1.1, 1.1)
    advantages = compute_gae(column(1, 0, 1, 1, 0, 1, 1, 1), values, done, done, 0.99, 0.95)
    want = column(0.84070045, 0.89495, -0.1, -0.1, 3.616724, 2.7939649, 1.9191545, 0.989)
    torch.testing.assert_close(advantages, want, atol=1e-6, rtol=0)


@pytest.fixture
def rollout():
    """Random rewards, values and ends, (20, 3); terminated and truncated overlap in places."""
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(20, 3)), rng.normal(size=(21, 3))
    terminated, truncated = rng.random((2, 20, 3)) < 0.2
    return rewards, values, terminated, terminated | truncated


def test_gae_against_its_definition(rollout):
    """The sum of eq. 16 written out; at lambda 1 also the k-step return less the value."""
    rewards, values, terminated, done = rollout
    for lam in (0.0, 0.5, 0.9, 1.0):
        advantages = compute_gae(rewards, values, terminated, done, 0.9, lam)
        for t, n in np.ndindex(20, 3):
            total, factor, k_step, discount = 0.0, 1.0, -values[t, n], 1.0
            for s in range(t, 20):
                bootstrap = 0.0 if terminated[s, n] else values[s + 1, n]
                total += factor * (rewards[s, n] + 0.9 * bootstrap - values[s, n])
                k_step += discount * rewards[s, n]
                factor, discount = factor * 0.9 * lam, discount * 0.9
                if done[s, n]:
                    break
            assert advantages[t, n] == pytest.approx(total)
            if lam == 1.0:
                assert total == pytest.approx(k_step + discount * bootstrap)


def test_gae_limits_and_tensors(rollout):
    rewards, values, terminated, _ = rollout
    one_step = rewards + 0.9 * np.where(terminated, 0, values[1:]) - values[:-1]
    np.testing.assert_allclose(compute_gae(*rollout, 0.9, 0.0), one_step)
    np.testing.assert_allclose(compute_gae(*rollout, 0.0, 0.7), rewards - values[:-1])
    tensors = [torch.from_numpy(array) for array in rollout]
    from_arrays, from_tensors = (compute_gae(*r, 0.9, 0.7) for r in (rollout, tensors))
    np.testing.assert_allclose(from_tensors, from_arrays, atol=1e-6)


def test_truncation_bootstraps_and_termination_does_not():
    zero, yes, no = np.zeros((1, 1)), np.ones((1, 1), bool), np.zeros((1, 1), bool)
    values = np.array([[2.0], [10.0]])
    assert compute_gae(zero, values, yes, yes, 0.5, 0.9).item() == -2.0  # both: terminated wins
    assert compute_gae(zero, values, no, yes, 0.5, 0.9).item() == 0.5 * 10 - 2


# The policy gradient is unbiased, exactly where the theory says so


def expected_gradient(mdp, theta, values, lam):
    """Sum over all trajectories of p(tau) times the gradient of the script's own loss."""
    loss, steps = 0.0, range(mdp.horizon)
    done = column(*[t == mdp.horizon - 1 for t in steps], dtype=torch.bool)
    log_pi = theta.log_softmax(-1)
    for p, states, actions in mdp.trajectories(theta.detach()):
        rewards = mdp.reward[states[:-1], actions].unsqueeze(-1)
        v = torch.stack([values[t, s] for t, s in enumerate(states)]).unsqueeze(-1)
        advantages = compute_gae(rewards, v, done, done, 1.0, lam).squeeze(-1)
        # The loss is a mean over the steps, the objective a sum.
        loss += p * mdp.horizon * policy_gradient_loss(log_pi[states[:-1], actions], advantages)
    return -torch.autograd.grad(loss, theta)[0]


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_policy_gradient_on_every_trajectory(mdp, lam):
    theta = torch.tensor([[0.3, -0.2], [0.5, 0.1]], dtype=torch.float64, requires_grad=True)
    (truth,) = torch.autograd.grad(mdp.objective(theta, 1.0), theta)
    exact = mdp.values(theta, 1.0)
    torch.testing.assert_close(expected_gradient(mdp, theta, exact, lam), truth, atol=1e-9, rtol=0)
    wrong = exact + torch.tensor([[0.5, -0.3]]) * torch.tensor([[1.0], [2.0], [0.5], [0.0]])
    error = (expected_gradient(mdp, theta, wrong, lam) - truth).abs().max()
    if lam == 1.0:  # then the critic is no more than a baseline
        assert error < 1e-9
    else:  # and here its error is the bias of the actor
        assert error > 1e-2


def test_gradient_is_that_of_ppo_at_ratio_one():
    log_probs = torch.randn(50, dtype=torch.float64, requires_grad=True)
    advantages = torch.randn(50, dtype=torch.float64)
    ratio = (log_probs - log_probs.detach()).exp()
    clipped = ratio.clamp(0.8, 1.2)
    ppo = -torch.minimum(ratio * advantages, clipped * advantages).mean()
    a2c_loss = policy_gradient_loss(log_probs, advantages)
    torch.testing.assert_close(*(torch.autograd.grad(x, log_probs) for x in (ppo, a2c_loss)))


# Losses and distribution


def test_losses_refuse_shapes_that_would_broadcast():
    for loss in (policy_gradient_loss, lambda a, b: value_loss(a, b, "mse")):
        with pytest.raises(AssertionError):
            loss(torch.zeros(4), torch.zeros(4, 1))


def test_targets_and_advantages_are_constants():
    values, target = torch.zeros(3, requires_grad=True), torch.ones(3, requires_grad=True)
    (value_loss(values, target, "mse") + policy_gradient_loss(values, target)).backward()
    assert target.grad is None
    torch.testing.assert_close(values.grad, torch.full((3,), -2 / 3 - 1 / 3))


def test_huber_grows_linearly():
    values = torch.tensor([0.0, 0.5, 10.0], requires_grad=True)
    value_loss(values, torch.zeros(3), "huber").backward()
    torch.testing.assert_close(values.grad * 3, torch.tensor([0.0, 0.5, 1.0]))


def test_distribution():
    """Log-probability, entropy, sampling and the greedy choice, against torch.distributions."""
    torch.manual_seed(0)
    agent = Agent(3, 4, Args(hidden_sizes=(8,)))
    agent.actor[-1].weight.data.mul_(200)  # far from uniform
    obs = torch.randn(6, 3)
    categorical = torch.distributions.Categorical(logits=agent.actor(obs))
    actions = torch.tensor([0, 1, 2, 3, 0, 1])
    log_probs, entropy = agent.log_prob_and_entropy(obs, actions)
    torch.testing.assert_close(log_probs, categorical.log_prob(actions))
    torch.testing.assert_close(entropy, categorical.entropy())
    samples = agent.act(obs.expand(20_000, 6, 3))
    frequency = torch.nn.functional.one_hot(samples, 4).double().mean(0)
    # The deviation of a frequency is at most 0.5 / sqrt(20000) = 0.0035; five of them.
    torch.testing.assert_close(frequency, categorical.probs.double(), atol=0.018, rtol=0)
    assert torch.equal(agent.act(obs, greedy=True), categorical.probs.argmax(-1))


def test_first_policy_is_nearly_uniform():
    probs = Agent(8, 4, Args()).actor(torch.randn(100, 8)).softmax(-1)
    assert (probs - 0.25).abs().max() < 0.02


# The update


def random_rollout(args, seed=0, obs_size=3, num_actions=3):
    rng = np.random.default_rng(seed)
    shape = (args.num_steps, args.num_envs)
    obs = rng.normal(size=(shape[0] + 1, shape[1], obs_size)).astype(np.float32)
    live = rng.random(shape) < 0.8
    terminated, truncated = rng.random((2, *shape)) < 0.1
    rewards, actions = rng.normal(size=shape), rng.integers(num_actions, size=shape)
    done = (terminated | truncated) & live
    # As in a real rollout, the row after the end of an episode is the reset's.
    live[1:] = ~done[:-1]
    live[0] = True
    done &= live
    return obs, actions, rewards.astype(np.float32), terminated & live, done, live


def updated(args, rollout, seed=0):
    """The agent before and after one update, and the losses."""
    torch.manual_seed(seed)
    before, after = (Agent(3, 3, args) for _ in range(2))
    after.load_state_dict(before.state_dict())
    optimizer = a2c.make_optimizer(after, args)
    for group, rate in zip(optimizer.param_groups, (args.actor_lr, args.critic_lr)):
        group["lr"] = rate
    return before, after, a2c.update(after, optimizer, rollout, args)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
@pytest.mark.parametrize("updates", [1, 3])
def test_reset_rows_are_not_learned_from(optimizer, updates):
    args = Args(num_envs=5, num_steps=12, optimizer=optimizer, critic_updates=updates)
    obs, actions, rewards, terminated, done, live = random_rollout(args)
    assert not live.all()
    actions_2, rewards_2 = np.where(live, actions, 0), np.where(live, rewards, 1e6)
    _, one, _ = updated(args, (obs, actions, rewards, terminated, done, live))
    _, two, _ = updated(args, (obs, actions_2, rewards_2.astype("f"), terminated, done, live))
    assert distance(one, two) == 0.0


@pytest.mark.parametrize("updates", [1, 3])
def test_gradients_are_those_of_the_equations(updates):
    """SGD shows the gradients: written out here a second time, for B rows.

    Each of the K steps has new targets, and the actor joins in the last, with its advantages.
    """
    args = Args(num_envs=4, num_steps=6, norm_adv=False, max_grad_norm=np.inf, ent_coef=1.0)
    args = replace(args, critic_updates=updates)
    rollout = obs, actions, rewards, terminated, done, live = random_rollout(args)
    torch.manual_seed(0)
    agent = Agent(3, 3, args)
    agent.actor[-1].weight.data.mul_(100)  # far from uniform, where the entropy has no slope
    twin = Agent(3, 3, args)
    twin.load_state_dict(agent.state_dict())
    losses = a2c.update(agent, torch.optim.SGD(agent.parameters(), lr=0.3), rollout, args)

    s, a = torch.from_numpy(obs[:-1][live]), torch.from_numpy(actions[live])
    for k in range(updates):
        v = twin.value(torch.from_numpy(obs)).detach().numpy()
        advantages = torch.from_numpy(compute_gae(rewards, v, terminated, done, 0.99, 0.95)[live])
        errors = twin.critic(s)[:, 0] - (advantages + torch.from_numpy(v[:-1][live]))
        loss = value_loss = errors.pow(2).mean()
        loss = 0.5 * loss
        if k == updates - 1:
            pi = torch.distributions.Categorical(logits=twin.actor(s))
            policy_loss, entropy = -(pi.log_prob(a) * advantages).mean(), pi.entropy().mean()
            loss = loss + policy_loss - args.ent_coef * entropy
        twin.zero_grad()
        loss.backward()
        for weight in twin.parameters():
            if weight.grad is not None:
                weight.data -= 0.3 * weight.grad
    for new, want in zip(agent.parameters(), twin.parameters()):
        torch.testing.assert_close(new, want, atol=1e-5, rtol=1e-4)
    returns = advantages + torch.from_numpy(v[:-1][live])
    unexplained = errors.var(correction=0) / returns.var(correction=0)
    want = {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "explained_variance": 1 - unexplained,
        "grad_norm": torch.nn.utils.get_total_norm([w.grad for w in twin.parameters()]),
    }
    torch.testing.assert_close(losses, want, atol=1e-4, rtol=1e-4)


def test_gradients_are_clipped_for_each_network():
    args = Args(critic_updates=1, max_grad_norm=0.5)
    obs, actions, rewards, terminated, done, live = random_rollout(args)
    rollout, norms = (obs, actions, 1000 * rewards, terminated, done, live), {}
    for limit in (0.5, np.inf):
        torch.manual_seed(0)
        agent = Agent(3, 3, replace(args, norm_adv=False))
        before = copy.deepcopy(agent)
        parts = (agent.actor, agent.critic)
        groups = [{"params": list(part.parameters())} for part in parts]
        optimizer = torch.optim.SGD(groups, lr=1.0)
        changes = {"norm_adv": False, "max_grad_norm": limit}
        norms[limit] = a2c.update(agent, optimizer, rollout, replace(args, **changes))["grad_norm"]
        moves = [distance(*two) ** 0.5 for two in zip(parts, (before.actor, before.critic))]
        if limit == 0.5:
            assert moves == pytest.approx([0.5, 0.5], rel=1e-4)
        else:
            assert min(moves) > 5
    assert norms[0.5] == norms[np.inf]  # what is logged is the norm before


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_in_every_update_the_actor_makes_one_step_and_the_critic_k(optimizer):
    """Not even with a gradient of zeros does the actor move before its turn: it has momentum."""
    args = Args(critic_updates=3, optimizer=optimizer)
    agent = Agent(3, 3, args)
    optimizer = a2c.make_optimizer(agent, args)
    for seed in range(2):
        a2c.update(agent, optimizer, random_rollout(args, seed), args)
    for network, steps in ((agent.actor, 2), (agent.critic, 6)):
        assert {int(optimizer.state[weight]["step"]) for weight in network.parameters()} == {steps}


def test_critic_learns_and_the_actor_moves_once():
    """With every episode over at once the targets are the rewards, whatever the critic says."""
    one, many = (Args(critic_lr=1e-2, critic_updates=k) for k in (1, 100))
    obs, actions, _, _, _, live = random_rollout(one)
    over = np.ones_like(live)
    rollout = obs, actions, obs[:-1, :, 0], over, over, over
    before, after_one, losses_one = updated(one, rollout)
    _, after_many, losses_many = updated(many, rollout)
    assert losses_many["value_loss"] < 0.5 * losses_one["value_loss"]  # the critic has a gradient
    assert (
        distance(before.critic, after_one.critic) < distance(before.critic, after_many.critic) / 9
    )
    # Adam's first step moves no weight by more than the learning rate: one step, whatever K.
    for after in (after_one, after_many):
        pairs = zip(before.actor.parameters(), after.actor.parameters())
        moves = torch.cat([(p - q).abs().flatten() for p, q in pairs])
        assert 0.5 * one.actor_lr < moves.max() <= 1.001 * one.actor_lr


def test_entropy_bonus_makes_the_policy_less_decided():
    args = Args(ent_coef=10.0)
    obs, actions, rewards, terminated, done, live = random_rollout(args)
    torch.manual_seed(0)
    agent = Agent(3, 3, args)
    agent.actor[-1].weight.data.mul_(100)
    optimizer = a2c.make_optimizer(agent, args)
    entropies = [
        a2c.update(agent, optimizer, (obs, actions, rewards, terminated, done, live), args)
        for _ in range(20)
    ]
    assert entropies[-1]["entropy"] > entropies[0]["entropy"] + 0.01


def test_proximal_term_acts_from_the_second_step_on():
    moved = {}
    for updates in (1, 5):
        for kappa in (0.0, 100.0):
            args = Args(critic_updates=updates, proximal_coef=kappa)
            before, after, _ = updated(args, random_rollout(args))
            moved[updates, kappa] = distance(before.critic, after.critic)
    assert moved[1, 100.0] == moved[1, 0.0]
    assert moved[5, 100.0] < 0.5 * moved[5, 0.0]


def test_shared_body_learns_both_heads():
    args = Args(shared_body=True, critic_updates=1)
    before, after, _ = updated(args, random_rollout(args))
    assert after.actor[0] is after.critic[0]
    for part in (0, -1):
        assert distance(before.actor[part], after.actor[part]) > 0
        assert distance(before.critic[part], after.critic[part]) > 0


@pytest.mark.parametrize("norm_adv", [True, False])
def test_advantage_scale(norm_adv):
    """With normalisation, rewards in cents or in euros move the actor alike."""
    args = Args(norm_adv=norm_adv, max_grad_norm=np.inf, ent_coef=0.0, optimizer="rmsprop")
    obs, actions, rewards, terminated, done, live = random_rollout(args)
    agents = []
    for scale in (1.0, 100.0):
        torch.manual_seed(0)
        agent = Agent(3, 3, args)
        agent.critic[-1].weight.data.zero_()
        optimizer = torch.optim.SGD(agent.actor.parameters(), lr=1.0)
        a2c.update(agent, optimizer, (obs, actions, rewards * scale, terminated, done, live), args)
        agents.append(agent)
    assert (distance(agents[0].actor, agents[1].actor) < 1e-6) == norm_adv


def test_advantages_are_centred():
    """In episodes of one step, with V = 0, a constant that is added to all rewards is nothing."""
    args = Args(max_grad_norm=np.inf, ent_coef=0.0)
    obs, actions, rewards, _, _, live = random_rollout(args)
    over, agents = np.ones_like(live), []
    for shift in (0.0, 5.0):
        torch.manual_seed(0)
        agent = Agent(3, 3, args)
        agent.critic[-1].weight.data.zero_()
        optimizer = torch.optim.SGD(agent.actor.parameters(), lr=1.0)
        a2c.update(agent, optimizer, (obs, actions, rewards + shift, over, over, over), args)
        agents.append(agent)
    assert distance(agents[0].actor, agents[1].actor) < 1e-8


def test_batch_of_one_gives_no_nan():
    args = Args(num_envs=1, num_steps=2, critic_updates=1)
    obs, actions, rewards, terminated, done, live = random_rollout(args)
    live[0], done[0] = False, False
    _, after, _ = updated(args, (obs, actions, rewards, terminated, done, live))
    assert all(p.isfinite().all() for p in after.parameters())


# The rollout


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_rollout_of_scripted_episodes(tmp_path, monkeypatch, mode):
    """Ends of all kinds, at the edge of a rollout too; the reset rows; what is counted."""
    rollouts = []

    def spy(agent, optimizer, rollout, args):
        rollouts.append([array.copy() for array in rollout])
        return original(agent, optimizer, rollout, args)

    original = a2c.update
    monkeypatch.setattr(a2c, "update", spy)
    args = small_args(tmp_path, env_id="Scripted-v0", num_envs=2, num_steps=7, total_timesteps=90)
    _, episodes = a2c.train(replace(args, vectorization=mode))

    obs = np.concatenate([r[0][:-1] for r in rollouts])
    successors = np.concatenate([r[0][1:] for r in rollouts])
    rewards, terminated, done, live = (
        np.concatenate([r[i] for r in rollouts]) for i in range(2, 6)
    )
    # Lengths 3, 2, 4, ... each followed by a reset row; kinds t, u, b.
    want_obs, want_live, want_terminated, want_done = [], [], [], []
    for episode in range(len(obs)):
        length, end = (3, 2, 4)[episode % 3], "tub"[episode % 3]
        want_obs += [[episode, t] for t in range(length + 1)]
        want_live += [True] * length + [False]
        want_done += [False] * (length - 1) + [True, False]
        want_terminated += [False] * (length - 1) + [end in "tb", False]
    for n in range(2):
        np.testing.assert_array_equal(obs[:, n], want_obs[: len(obs)])
        np.testing.assert_array_equal(live[:, n], want_live[: len(obs)])
        np.testing.assert_array_equal(done[:, n], want_done[: len(obs)])
        np.testing.assert_array_equal(terminated[:, n], want_terminated[: len(obs)])
        # The successor is the true one wherever there is a transition.
        step_on = obs[:, n] + [0, 1]
        np.testing.assert_array_equal(successors[live[:, n], n], step_on[live[:, n]])
        np.testing.assert_array_equal(rewards[~live[:, n], n], 0)
    edges = np.arange(6, len(obs), 7)
    assert done[edges].any(), "no episode ended at the edge of a rollout"
    # One return for each finished episode: 1 + 2 + ... + length.
    assert [(r, length) for _, r, length in episodes[::2]] == [
        [(6.0, 3), (3.0, 2), (10.0, 4)][i % 3] for i in range(len(episodes) // 2)
    ]
    # Reported at the step at which it ended, of those of all environments.
    steps = live.sum(1).cumsum()
    assert [step for step, _, _ in episodes] == [steps[t] for t, _ in np.argwhere(done)]


def test_a_reward_for_a_reset_is_not_counted(tmp_path, monkeypatch):
    args = small_args(tmp_path, env_id="Scripted-v0", total_timesteps=300)
    agent, episodes = a2c.train(args)
    monkeypatch.setattr(a2c, "make_envs", with_paid_resets(a2c.make_envs))
    twin, twin_episodes = a2c.train(args)
    assert len(episodes) > 50
    assert twin_episodes == episodes
    assert distance(twin, agent) == 0.0


def physics(envs, resets):
    """(resets, N, 4): gravity, wind, wind power, turbulence after each of some episodes."""
    names = ("gravity", "enable_wind", "wind_power", "turbulence_power")
    envs.reset(seed=7)
    rows = []
    for _ in range(resets):
        rows.append([envs.get_attr(name) for name in names])
        envs.reset()
    envs.close()
    return np.array(rows, float).transpose(0, 2, 1)


def test_domain_randomization():
    args = Args(env_id="LunarLander-v3", randomize_domain=True, num_envs=3)
    drawn = physics(a2c.make_envs(replace(args, vectorization="sync"))[0], 30)
    again = physics(a2c.make_envs(replace(args, vectorization="async"))[0], 30)
    np.testing.assert_array_equal(drawn, again)
    gravity, wind, power, turbulence = drawn.transpose(2, 0, 1)
    assert len(np.unique(power)) > 80  # anew at every episode and in every environment
    assert set(wind.ravel()) == {0, 1}
    for values, low, high in ((gravity, -12, 0), (power, 0, 20), (turbulence, 0, 2)):
        assert low < values.min() < values.max() < high
    # 90 draws: the deviation of their mean is 0.2; the clip of gravity at -11.99 raises it by 0.17.
    assert abs(power.mean() - 15) < 1
    assert abs(gravity.mean() + 10 - 0.17) < 1


def test_domain_randomization_is_drawn_at_the_automatic_reset():
    args = Args(env_id="LunarLander-v3", randomize_domain=True, num_envs=2, vectorization="sync")
    envs, eval_env = a2c.make_envs(args)
    assert eval_env.unwrapped.gravity == -10.0  # the evaluation plays the standard task
    envs.reset(seed=0)
    first = envs.get_attr("gravity")
    done = np.zeros(2, bool)
    while not done.all():
        _, _, terminated, truncated, _ = envs.step(np.zeros(2, int))
        done |= terminated | truncated
    envs.step(np.zeros(2, int))
    assert all(a != b for a, b in zip(first, envs.get_attr("gravity")))


# Learning


def test_learns_the_identity(tmp_path):
    """Measured over seeds 0 to 9: 24.9 to 25 of 25 in the last training episodes."""
    args = small_args(tmp_path, total_timesteps=12_000, eval_episodes=3, gamma=0.4)
    agent, episodes = a2c.train(args)
    assert np.mean([r for _, r, _ in episodes[-40:]]) > 23
    _, env = a2c.make_envs(args)
    assert min(a2c.evaluate(agent, env, 3)) == 25


def test_learns_cartpole(cli):
    """A third of the default steps. Measured over seeds 0 to 9: 152 to 393; untrained: 10."""
    outcome = cli(SCRIPT, "--total-timesteps", 50_000, "--eval-episodes", 5)
    assert outcome.status == 0
    assert float(outcome.out.splitlines()[-1].split()[2]) > 100


def test_shared_body_can_be_named_again_when_resumed(cli):
    flags = ("--shared-body", "--total-timesteps", 600, "--eval-episodes", 1)
    first = cli(SCRIPT, "--critic-updates", 1, *flags)
    assert cli(SCRIPT, "--resume", checkpoint_of(first.out), *flags).status == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--num-envs", "0"], ["--num-envs", "got 0"]),
        (["--num-steps", "1"], ["--num-steps", "[2, inf]"]),
        (["--optimizer", "sgd"], ["--optimizer", "rmsprop"]),
        (["--shared-body", "--critic-updates", "2"], ["--shared-body", "--critic-updates 1"]),
        (["--randomize-domain"], ["--randomize-domain", "LunarLander"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_bad_input(cli, tmp_path, flags, words):
    assert_refused(cli(SCRIPT, *flags), tmp_path, words)

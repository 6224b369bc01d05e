"""ac_td0.py: the two updates, the training loop, the logged values and the seed."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import ac_td0
from ac_td0 import Agent, Args, Transition, td_error, two_rate_optimizer
from tests.conftest import assert_refused, checkpoint_of, distance
from tests.toys import Scripted

SCRIPT = "ac_td0.py"
GAMMA = 0.9
KINDS = ["v", "q"]
PLAIN = Args(gamma=GAMMA, hidden_sizes=(), optimizer="sgd", actor_lr=1.0, critic_lr=1.0)


def test_td_error_by_hand():
    assert td_error(1.0, 2.0, 10.0, False, 0.5) == 1 + 5 - 2
    assert td_error(1.0, 2.0, 10.0, True, 0.5) == 1 - 2  # V = 0 in a terminal state


def fixed_policy(logits):
    """A replacement for Agent.__init__ whose policy has these logits in every state."""
    original = Agent.__init__

    def init(self, *args):
        original(self, *args)
        self.actor[-1].weight.data.zero_()
        self.actor[-1].bias.data = torch.tensor(logits)

    return init


LOGITS = [0.0, 1.0, -1.0]


def test_act_samples_from_the_softmax(monkeypatch):
    monkeypatch.setattr(Agent, "__init__", fixed_policy(LOGITS))
    agent = Agent(2, 3, PLAIN)
    actions = agent.act(torch.randn(20_000, 2))
    assert actions.shape == (20_000,)
    shares = torch.bincount(actions, minlength=3) / 20_000
    # The standard deviation of a share is at most 0.5 / sqrt(20000) = 0.0035. Allow five.
    torch.testing.assert_close(shares, torch.tensor(LOGITS).softmax(-1), atol=0.018, rtol=0)
    assert (agent.act(torch.randn(100, 2), greedy=True) == 1).all()
    assert agent.act(torch.randn(2)).shape == ()


def test_initial_policy_is_nearly_uniform():
    probs = Agent(8, 4, Args()).actor(torch.randn(100, 8)).softmax(-1)
    assert (probs - 0.25).abs().max() < 0.02


# The updates, exactly, on the tiny MDP. An observation is the one-hot code of (step, state).


def tabular_agent(theta, args, table):
    """A policy with the same logits at each step, and a critic that is a table (step, state)."""
    agent = Agent(8, 2, args).double()
    agent.actor[0].weight.data = theta.T.repeat(1, 4)
    agent.critic[0].weight.data = table
    return agent


def one_hot(t, state):
    return torch.eye(8, dtype=torch.float64)[[2 * t + state]]


def one_update(agent, optimizer, mdp, t, states, actions, args):
    """Apply the script's update to step t of a trajectory."""
    terminated = t == mdp.horizon - 1
    obs = one_hot(t, states[t])
    step = Transition(
        log_pi=agent.actor(obs).log_softmax(-1),
        values=agent.critic(obs),
        action=actions[t],
        reward=mdp.reward[states[t], actions[t]].item(),
        next_obs=one_hot(t + 1, states[t + 1]),
        next_action=0 if terminated else actions[t + 1],
        terminated=terminated,
    )
    return ac_td0.update(agent, optimizer, step, GAMMA**t, args)


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


@pytest.mark.parametrize("kind", KINDS)
def test_expected_actor_update_is_the_gradient(mdp, theta, kind):
    """With an exact critic and I = gamma^t, it ascends the discounted value of the start state."""
    args, variable = replace(PLAIN, critic=kind), theta.clone().requires_grad_()
    (truth,) = torch.autograd.grad(mdp.objective(variable, GAMMA), variable)
    exact = exact_critic(mdp, theta, kind)

    def expected(table):
        total = torch.zeros(2, 2, dtype=torch.float64)
        for p, states, actions in mdp.trajectories(theta):
            for t in range(mdp.horizon):
                agent = tabular_agent(theta, args, table.clone())
                before = agent.actor[0].weight.detach().clone()
                one_update(agent, two_rate_optimizer(agent, args), mdp, t, states, actions, args)
                step = (agent.actor[0].weight.detach() - before).reshape(2, 4, 2).sum(1).T
                total += p * step
        return total

    torch.testing.assert_close(expected(exact), truth, atol=1e-12, rtol=0)
    wrong = exact + torch.linspace(-1, 1, exact.numel()).reshape(exact.shape)
    assert (expected(wrong) - truth).abs().max() > 1e-2  # a wrong critic biases the gradient


def test_tabular_critic_converges_to_the_values(mdp, theta):
    """Apply every transition in turn; the rate is its probability times a decreasing factor."""
    pi, state, transitions = theta.softmax(-1), mdp.start, []
    for t in range(mdp.horizon):
        p = state[:, None, None] * pi[:, :, None] * mdp.transition  # (s, a, s')
        transitions += [(t, *index, p[index].item()) for index in np.ndindex(2, 2, 2)]
        state = p.sum((0, 1))
    agent = tabular_agent(theta, PLAIN, torch.zeros(1, 8, dtype=torch.float64))
    agent.critic[0].bias.requires_grad_(False)
    optimizer = two_rate_optimizer(agent, replace(PLAIN, actor_lr=0.0))
    for sweep in range(150):
        for t, s, a, s_next, p in transitions:
            states, actions = [s] * (t + 1) + [s_next] * mdp.horizon, [a] * mdp.horizon
            optimizer.param_groups[1]["lr"] = p / (1 + sweep / 10)
            one_update(agent, optimizer, mdp, t, states, actions, PLAIN)
    error = agent.critic[0].weight.detach().reshape(4, 2) - mdp.values(theta, GAMMA)
    assert error.abs().max() < 1e-2


@pytest.mark.parametrize("terminated", [False, True])
@pytest.mark.parametrize(("action", "next_action"), [*itertools.product(range(2), repeat=2)])
@pytest.mark.parametrize("kind", KINDS)
def test_both_updates_use_one_delta_from_before_either(
    mdp, theta, kind, action, next_action, terminated
):
    """The actions have different values, so that Q(S', A') is not max Q(S', .) or Q(S', A)."""
    args = replace(PLAIN, critic=kind)
    table = torch.arange(8.0, dtype=torch.float64).reshape(1, 8) / 10
    table = torch.cat((table, 1 - table**2)) if kind == "q" else table
    row, next_row = (action, next_action) if kind == "q" else (0, 0)
    t = 2 if terminated else 1
    here, there = 2 * t + 1, 2 * (t + 1)
    agent = tabular_agent(theta, args, table.clone())
    before = agent.actor[0].weight.detach().clone()
    states, actions = [1] * t + [1, 0, 0], [0] * t + [action, next_action]
    losses = one_update(agent, two_rate_optimizer(agent, args), mdp, t, states, actions, args)
    value = table[row, here].item()
    next_value = 0.0 if terminated else table[next_row, there].item()
    delta = mdp.reward[1, action].item() + GAMMA * next_value - value
    log_pi = theta[1].log_softmax(-1)
    want = {"delta": delta, "value": value, "log_prob": log_pi[action].item()}
    assert losses == pytest.approx(want)
    # The critic moves by delta at S (and A) and nowhere else: no gradient through the target.
    expected = torch.zeros_like(table)
    expected[row, here] = delta
    torch.testing.assert_close(agent.critic[0].weight.detach() - table, expected)
    # The actor moves by I delta grad log pi, or I Q grad log pi, with the old critic's values.
    weight = GAMMA**t * (delta if kind == "v" else value)
    expected = torch.zeros_like(before)
    expected[:, here] = weight * (torch.eye(2)[action] - log_pi.exp())
    torch.testing.assert_close(agent.actor[0].weight.detach() - before, expected)


# The loop


@pytest.fixture
def steps_of(tmp_path, monkeypatch):
    """Train on Scripted-v0; return each step with its observation, I and losses, and the episodes.

    The lengths are 3, 2, 4; the ends are termination, truncation, both.
    """

    def run(**changes):
        steps, observations = [], []

        def init(self, *sizes_and_args):
            original_init(self, *sizes_and_args)
            self.critic.register_forward_pre_hook(lambda _, inputs: observations.append(*inputs))

        def update(agent, optimizer, step, gamma_t, args):
            obs = observations[-1]  # the critic's latest input
            with torch.no_grad():
                next_values = agent.critic(step.next_obs)[0]
            losses = original_update(agent, optimizer, step, gamma_t, args)
            gradient = torch.cat([w.grad.flatten() for w in agent.parameters()])
            record = step._asdict() | losses | {"obs": obs, "gamma_t": gamma_t}
            record |= {"next_values": next_values, "grad_norm": gradient.norm().item()}
            steps.append(SimpleNamespace(**record))
            return losses

        original_init, original_update = Agent.__init__, ac_td0.update
        with monkeypatch.context() as patch:
            patch.setattr(Agent, "__init__", init)
            patch.setattr(ac_td0, "update", update)
            args = Args(env_id="Scripted-v0", eval_episodes=1, total_timesteps=90, gamma=GAMMA)
            _, episodes = ac_td0.train(replace(args, log_dir=str(tmp_path), **changes))
        return steps, episodes

    return run


def scripted_steps():
    """(episode, t, length, terminated) of 30 episodes of Scripted-v0, 90 steps."""
    for episode in range(30):
        length, end = (3, 2, 4)[episode % 3], "tub"[episode % 3]
        for t in range(length):
            yield episode, t, length, t == length - 1 and end in "tb"


@pytest.mark.parametrize("kind", KINDS)
def test_steps_of_scripted_episodes(steps_of, kind):
    steps, episodes = steps_of(critic=kind, discount_policy_gradient=True)
    assert len(steps) == 90
    for step, (episode, t, _, terminated) in zip(steps, scripted_steps()):
        assert step.obs.tolist() == [[episode, t]]
        assert step.next_obs.tolist() == [[episode, t + 1]]  # the true successor, not a reset
        assert (step.reward, step.terminated) == (1.0 + t, terminated)
        assert step.gamma_t == pytest.approx(GAMMA**t)  # I = 1 at the start of each episode
    returns = [{3: 6.0, 2: 3.0, 4: 10.0}[length] for _, _, length in episodes]
    assert [r for _, r, _ in episodes] == returns
    assert [step for step, _, _ in episodes][:3] == [3, 5, 9]


@pytest.mark.parametrize("kind", KINDS)
def test_a_time_limit_is_bootstrapped_and_a_terminal_state_is_not(steps_of, kind):
    steps, _ = steps_of(critic=kind)
    limits = 0
    for step, (_, t, length, terminated) in zip(steps, scripted_steps()):
        next_value = step.next_values[step.next_action if kind == "q" else 0].item()
        target = step.reward + (0.0 if terminated else GAMMA * next_value)
        assert step.delta == pytest.approx(target - step.value, rel=1e-4, abs=1e-5)
        limits += t == length - 1 and not terminated and abs(next_value) > 1e-2
    assert limits > 5


def test_by_default_the_policy_gradient_is_not_discounted(steps_of):
    steps, _ = steps_of()
    assert {step.gamma_t for step in steps} == {1.0}


def test_qac_takes_the_action_it_learned_with(steps_of):
    """A' of one step is A of the next, except that each episode samples its first action."""
    steps, _ = steps_of(critic="q")
    pairs = list(zip(steps, steps[1:]))
    inside = [one.next_action == two.action for one, two in pairs if two.obs[0, 1] > 0]
    across = [one.next_action == two.action for one, two in pairs if two.obs[0, 1] == 0]
    assert len(inside) > 50
    assert all(inside)
    assert not all(across)
    assert {step.action for step in steps} == {0, 1, 2}


@pytest.mark.parametrize("kind", KINDS)
def test_the_actions_that_are_learned_from_are_those_that_were_played(steps_of, monkeypatch, kind):
    played, step = [], Scripted.step

    def record(env, action):
        played.append(action)
        return step(env, action)

    monkeypatch.setattr(Scripted, "step", record)
    steps, _ = steps_of(critic=kind)
    # The actions of Scripted begin at 5. Those of the evaluation follow.
    assert [step.action + 5 for step in steps] == played[: len(steps)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_loop_samples_from_the_policy(steps_of, monkeypatch, kind):
    """Both the first action of an episode and the later ones, which Q samples elsewhere."""
    monkeypatch.setattr(Agent, "__init__", fixed_policy(LOGITS))
    steps, _ = steps_of(critic=kind, actor_lr=0.0, total_timesteps=900)
    first = [step.action for step in steps if step.obs[0, 1] == 0]
    later = [step.action for step in steps if step.obs[0, 1] > 0]
    for actions in first, later:
        shares = torch.bincount(torch.tensor(actions), minlength=3) / len(actions)
        # The standard deviation of a share is at most 0.5 / sqrt(300) = 0.029. Allow five.
        torch.testing.assert_close(shares, torch.tensor(LOGITS).softmax(-1), atol=0.145, rtol=0)


@pytest.mark.parametrize("tick", [1e-6, 0.06], ids=["one report", "many reports"])
@pytest.mark.parametrize("kind", KINDS)
def test_logged_values_are_those_of_the_steps_since_the_last_report(
    steps_of, monkeypatch, set_clock, kind, tick
):
    logged = {}
    set_clock(ac_td0, tick)

    def log(self, tag, value, step):
        logged.setdefault(step, {})[tag.removeprefix("losses/")] = float(value)

    monkeypatch.setattr(ac_td0.SummaryWriter, "add_scalar", log)
    steps, _ = steps_of(critic=kind, discount_policy_gradient=True)
    assert len(logged) == 1 if tick == 1e-6 else len(logged) > 10
    assert max(logged) == 90
    for start, end in zip([0, *logged], logged):
        window, got = steps[start:end], logged[end]
        weights = [step.delta if kind == "v" else step.value for step in window]
        terms = [w * step.gamma_t * step.log_prob for w, step in zip(weights, window)]
        assert got["policy_loss"] == pytest.approx(-np.mean(terms), rel=1e-5)
        deltas = np.array([step.delta for step in window])
        assert got["value_loss"] == pytest.approx(np.mean(deltas**2), rel=1e-5)
        entropy = [-(step.log_pi.exp() * step.log_pi).sum().item() for step in window]
        assert got["entropy"] == pytest.approx(np.mean(entropy), rel=1e-5)
        assert 0 < got["entropy"] <= np.log(3) + 1e-6
        assert got["grad_norm"] == pytest.approx(window[-1].grad_norm, rel=1e-5)
        if len(window) > 1:
            targets = deltas + [step.value for step in window]
            explained = 1 - np.var(deltas) / np.var(targets)
            assert got["explained_variance"] == pytest.approx(explained, abs=1e-4)


# Seeds: each source of randomness alone


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_determines_the_initial_weights(tmp_path, kind):
    args = Args(env_id="Scripted-v0", eval_episodes=1, total_timesteps=1, critic=kind)
    args = replace(args, actor_lr=0.0, critic_lr=0.0, log_dir=str(tmp_path))  # nothing is learned
    first, again, other = (ac_td0.train(replace(args, seed=seed))[0] for seed in (0, 0, 1))
    for name in "actor", "critic":
        assert distance(getattr(first, name), getattr(again, name)) == 0.0
        assert distance(getattr(first, name), getattr(other, name)) > 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_determines_the_actions(steps_of, monkeypatch, kind):
    """The policy is the same for all seeds, so that only the samples can differ."""
    monkeypatch.setattr(Agent, "__init__", fixed_policy([0.0, 0.0, 0.0]))

    def actions_of(seed):
        steps, _ = steps_of(critic=kind, actor_lr=0.0, seed=seed)
        starts = [step.obs[0, 1] == 0 for step in steps]
        first = [step.action for step, start in zip(steps, starts) if start]
        return first, [step.action for step, start in zip(steps, starts) if not start]

    one, again, other = (actions_of(seed) for seed in (0, 0, 1))
    assert one == again
    assert one[0] != other[0]
    assert one[1] != other[1]


# Learning


@pytest.mark.parametrize("kind", KINDS)
def test_learns_the_identity(tmp_path, kind):
    """Measured over seeds 0 to 9: 25 of 25, with both critics."""
    args = Args(env_id="Identity-v0", critic=kind, total_timesteps=4_000, gamma=0.4)
    agent, _ = ac_td0.train(replace(args, actor_lr=2e-3, log_dir=str(tmp_path)))
    assert min(ac_td0.evaluate(agent, ac_td0.make_env(args), 3)) > 20


# Bad input and broken numbers


BAD_INPUT = [
    (["--critic", "w"], ["--critic", "('v', 'q')"]),
    (["--optimizer", "rmsprop"], ["--optimizer", "sgd"]),
    (["--total-timesteps", "0"], ["--total-timesteps must be in [1, inf], got 0"]),
]


@pytest.mark.parametrize(("flags", "words"), BAD_INPUT, ids=[" ".join(x) for x, _ in BAD_INPUT])
def test_bad_input(cli, tmp_path, flags, words):
    assert_refused(cli(SCRIPT, *flags), tmp_path, words)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_optimizer(tmp_path, capsys, optimizer):
    args = Args(env_id="Identity-v0", total_timesteps=50, eval_episodes=1, log_dir=str(tmp_path))
    ac_td0.train(replace(args, optimizer=optimizer))
    state = torch.load(checkpoint_of(capsys.readouterr().out), weights_only=True)["optimizer"]
    assert any("exp_avg" in moments for moments in state["state"].values()) == (optimizer == "adam")


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_each_network_has_its_own_learning_rate(optimizer):
    args = replace(PLAIN, optimizer=optimizer, actor_lr=0.25, critic_lr=0.5)
    agent = Agent(2, 3, args)
    groups = two_rate_optimizer(agent, args).param_groups
    rates = {id(weight): group["lr"] for group in groups for weight in group["params"]}
    for network, rate in ((agent.actor, 0.25), (agent.critic, 0.5)):
        assert {rates[id(weight)] for weight in network.parameters()} == {rate}


@pytest.mark.parametrize("kind", KINDS)
def test_nan_in_the_actor_stops_the_run_at_once(tmp_path, monkeypatch, kind):
    """An actor with NaN weights does not affect the critic, so the TD error stays finite."""

    def break_actor(self, *args):
        original(self, *args)
        self.actor[-1].bias.data.fill_(np.nan)

    original = Agent.__init__
    monkeypatch.setattr(Agent, "__init__", break_actor)
    args = Args(env_id="Identity-v0", total_timesteps=50, critic=kind, log_dir=str(tmp_path))
    with pytest.raises(FloatingPointError, match="step 1: NaN or inf in log_prob"):
        ac_td0.train(args)
    assert not list(tmp_path.glob("*/checkpoint.pt"))


@pytest.mark.parametrize("network", ["actor", "critic"])
def test_nan_in_a_gradient_is_not_saved(tmp_path, monkeypatch, set_clock, network):
    """The losses are from before the step, so they are still finite when the weights are not."""

    def update(agent, optimizer, step, *rest):
        updates.append(1)
        if len(updates) == 30:
            output = step.log_pi if network == "actor" else step.values
            output.register_hook(lambda gradient: gradient * np.nan)
        return original(agent, optimizer, step, *rest)

    updates, original = [], ac_td0.update
    monkeypatch.setattr(ac_td0, "update", update)
    set_clock(ac_td0, 1.0)  # a report and a checkpoint after every step
    args = Args(env_id="Scripted-v0", checkpoint_interval=0, log_dir=str(tmp_path))
    with pytest.raises(FloatingPointError, match="step 30: NaN or inf in weights"):
        ac_td0.train(args)
    (checkpoint,) = tmp_path.glob("*/checkpoint.pt")
    state = torch.load(checkpoint, weights_only=True)
    assert state["global_step"] == 29
    assert all(weight.isfinite().all() for weight in state["agent"].values())


def test_weights_that_overflow_are_not_saved(tmp_path, set_clock):
    """Either the weights overflow first, in a step whose TD error is still finite, or a value."""
    rates = {"optimizer": "sgd", "actor_lr": 1.0, "critic_lr": 1.0, "activation": "relu"}
    args = Args(total_timesteps=600, checkpoint_interval=0, log_dir=str(tmp_path), **rates)
    set_clock(ac_td0, 1.0)
    with pytest.raises(FloatingPointError, match=r"NaN or inf in (weights|delta)") as error:
        ac_td0.train(args)
    (checkpoint,) = tmp_path.glob("*/checkpoint.pt")
    state = torch.load(checkpoint, weights_only=True)
    assert str(error.value).startswith(f"step {state['global_step'] + 1}: ")
    assert all(weight.isfinite().all() for weight in state["agent"].values())

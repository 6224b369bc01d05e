"""Situations from public bug reports, rebuilt with small environments."""

import builtins
import concurrent.futures
import multiprocessing
import random
import re
import shlex
import signal
import sys
import time
from contextlib import nullcontext
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from tests import toys
from tests.conftest import CASES, ROOT, VECTOR_CASES, assert_refused, checkpoint_of, distance

EVALUATION = re.compile(r"^evaluation: return (\S+) \+- (\S+) over (\d+) episodes$", re.M)
DISCRETE = {case.file for case in CASES if not case.is_box}
CONTINUOUS = {case.file for case in CASES if case.is_box}
MODES = [(case, "auto") for case in CASES if case not in VECTOR_CASES]
MODES += [(case, mode) for case in VECTOR_CASES for mode in ("sync", "async")]
in_each_mode = pytest.mark.parametrize(
    ("case", "mode"), MODES, ids=[f"{case.name}-{mode}" for case, mode in MODES]
)


def flags_for(mode):
    """Flags for the given vectorization, where a script has parallel environments."""
    return {} if mode == "auto" else {"vectorization": mode, "num_envs": 2}


def toy_kwargs(case):
    return {"box": True} if case.is_box else {}


@pytest.fixture
def start_method():
    """Set the start method of multiprocessing for one test."""
    before = multiprocessing.get_start_method(allow_none=True)
    yield lambda method: multiprocessing.set_start_method(method, force=True)
    multiprocessing.set_start_method(before, force=True)


# Environments that sample from the global generators


@in_each_mode
def test_global_generators_are_seeded(case, mode, tmp_path, capsys):
    results = []
    for seed in (1, 1, 2):
        np.random.seed(len(results))  # the state before a run must not matter
        random.seed(len(results))
        flags = {"total_timesteps": 100, "seed": seed, "eval_episodes": 2} | flags_for(mode)
        env_id = case.toy.replace("Identity", "GlobalRandom")
        _, episodes = case.module.train(case.args(tmp_path, env_id=env_id, **flags))
        results.append((episodes, EVALUATION.search(capsys.readouterr().out).groups()))
    assert results[0] == results[1]
    assert results[0][0] != results[2][0]
    # Parallel environments play different episodes.
    first_episodes = results[0][0][: flags_for(mode).get("num_envs", 1)]
    assert len({total for _, total, _ in first_episodes}) == len(first_episodes)


@pytest.mark.parametrize(
    ("case", "mode", "method"),
    [(case, "sync", "fork") for case in VECTOR_CASES]
    + [(case, "async", "fork") for case in VECTOR_CASES]
    + [(VECTOR_CASES[0], "async", method) for method in ("forkserver", "spawn")],
    ids=lambda value: getattr(value, "name", value),
)
@pytest.mark.usefixtures("time_limit")
def test_parallel_environments_start_differently(case, mode, method, tmp_path, start_method):
    start_method(method)
    env_id = case.toy.replace("Identity", "GlobalRandom")
    args = case.args(tmp_path, env_id=env_id, vectorization=mode, num_envs=3)
    if method != "fork":  # each worker imports torch, which takes seconds
        args = replace(args, num_envs=2)
    handler = signal.getsignal(signal.SIGINT)
    envs, env = case.module.make_envs(args)
    assert signal.getsignal(signal.SIGINT) == handler
    try:
        # Only the parent handles Ctrl-C, unless it ignores it, as in a shell's background job.
        ignores = mode == "async" or handler == signal.SIG_IGN
        assert envs.unwrapped.call("ignores_ctrl_c") == (ignores,) * args.num_envs
        found = [envs.reset(seed=seed)[0] for seed in (5, 5, 6)]
    finally:
        envs.close()
        env.close()
    assert len({tuple(obs) for obs in found[0]}) == args.num_envs
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


# The evaluation


class Constant(torch.nn.Linear):
    """An agent that always takes the same action."""

    def __init__(self, case):
        super().__init__(1, 1)
        self.action = torch.zeros(1) if case.is_box else torch.tensor(0)

    def act(self, obs, greedy=False):
        return self.action


@pytest.mark.filterwarnings("ignore:.*render_modes")
def test_a_long_time_limit_does_not_cut_the_evaluation(case, register, capsys):
    register("Long-v0", "tests.toys:Steady", max_episode_steps=20_000, **toy_kwargs(case))
    env = case.module.make_env(case.args("nowhere", env_id="Long-v0"))
    assert case.module.evaluate(Constant(case), env, 1) == [20_000.0]
    assert capsys.readouterr().err == ""


@pytest.mark.filterwarnings("ignore:.*render_modes")
def test_the_evaluation_says_where_it_cuts_an_episode(case, capsys):
    env = gym.make(case.toy.replace("Identity", "Steady"))
    flat = gym.wrappers.FlattenObservation(env)
    assert case.module.evaluate(Constant(case), flat, 2) == [10_000.0] * 2
    lines = capsys.readouterr().err.splitlines()
    words = [f"evaluation: episode {number} was cut off after 10000 steps" for number in range(2)]
    assert lines == words


def test_evaluates_an_environment_without_a_spec(case):
    agent = case.agent(3, 1 if case.is_box else 3)
    env = toys.Identity("box", **toy_kwargs(case))
    assert env.spec is None
    returns = case.module.evaluate(agent, env, 2)
    assert len(returns) == 2
    assert all(0 <= value <= 25 for value in returns)


# Info and errors in workers


@pytest.mark.parametrize("changes", ["shape", "type"])
@in_each_mode
@pytest.mark.usefixtures("time_limit")
def test_info_that_changes_does_no_harm(case, mode, changes, tmp_path, register):
    register("Talk-v0", "tests.toys:Talkative", changes=changes, **toy_kwargs(case))
    flags = {"env_id": "Talk-v0", "total_timesteps": 200} | flags_for(mode)
    _, episodes = case.module.train(case.args(tmp_path, **flags))
    assert len(episodes) >= 4


@pytest.mark.parametrize("where", ["step", "reset"])
@in_each_mode
@pytest.mark.usefixtures("time_limit")
@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium prints the error of the worker
def test_an_error_of_the_environment_ends_the_run(case, mode, where, tmp_path, register, capsys):
    """With this error and with a checkpoint."""
    register("Crash-v0", "tests.toys:Crashing", where=where, **toy_kwargs(case))
    with pytest.raises(RuntimeError, match="the environment is broken"):
        case.module.train(case.args(tmp_path, env_id="Crash-v0", **flags_for(mode)))
    path = checkpoint_of(capsys.readouterr().out)
    state = torch.load(path, weights_only=True)
    assert all(weight.isfinite().all() for weight in state["agent"].values())
    assert not multiprocessing.active_children()


@pytest.mark.usefixtures("time_limit")
def test_a_worker_that_dies_ends_the_run(vector_case, tmp_path, register):
    register("Crash-v0", "tests.toys:Crashing", where="exit", **toy_kwargs(vector_case))
    with pytest.raises((EOFError, OSError)):
        vector_case.module.train(
            vector_case.args(tmp_path, env_id="Crash-v0", **flags_for("async"))
        )
    assert not multiprocessing.active_children()


# Without PlainEnv.call, Gymnasium's worker would send no error, and the parent would wait forever.
@pytest.mark.usefixtures("time_limit")
@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium prints the error of the worker
def test_an_error_that_cannot_be_pickled_ends_the_run(tmp_path, register):
    case = VECTOR_CASES[0]
    register("Crash-v0", "tests.toys:Crashing", where="unpicklable", **toy_kwargs(case))
    with pytest.raises(Exception, match="the environment is broken"):
        case.module.train(case.args(tmp_path, env_id="Crash-v0", **flags_for("async")))


# Actions in a loss


@pytest.mark.parametrize("greedy", [True, False])
def test_actions_may_be_used_in_a_loss(case, greedy):
    """As in imitation learning; inference tensors would raise RuntimeError."""
    agent, obs = case.agent(3, 2), torch.randn(5, 3)
    student = torch.nn.Linear(3, 2)
    actions = agent.act(obs, greedy=greedy)
    if case.is_box:
        loss = torch.nn.functional.mse_loss(student(obs), actions)
    else:
        loss = torch.nn.functional.cross_entropy(student(obs), actions)
    loss.backward()
    assert student.weight.grad.abs().sum() > 0
    assert not actions.requires_grad
    assert all(weight.grad is None for weight in agent.parameters())


# Spaces


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ("odd", ["cannot flatten <", "OddSpace"]),
        ("dict with an odd space", ["cannot flatten Dict", "OddSpace"]),
        ("dict with an image", ["observations must be vectors"]),
        ("tuple with an image", ["observations must be vectors"]),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium's, about the spaces
def test_observations_that_are_no_vectors_are_refused(case, cli, tmp_path, register, space, words):
    register("Odd-v0", "tests.toys:Identity", space=space, **toy_kwargs(case))
    assert_refused(cli(case.file, "--env-id", "Odd-v0"), tmp_path, ["--env-id Odd-v0", *words])


@pytest.mark.parametrize(("space", "size"), [("matrix", 6), ("column", 3), ("dict of a matrix", 6)])
@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium's, about the shape of a Box
def test_boxes_with_two_dimensions_are_flattened(case, tmp_path, register, space, size):
    register("Flat-v0", "tests.toys:Identity", space=space, **toy_kwargs(case))
    agent, _ = case.module.train(case.args(tmp_path, env_id="Flat-v0", total_timesteps=100))
    assert agent.actor[0].in_features == size


ACTION_SPACES = {
    "Discrete": spaces.Discrete(2),
    "vector": spaces.Box(-1, 1, (2,)),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(2),
    "unbounded": spaces.Box(-np.inf, np.inf, (2,)),
    "matrix": spaces.Box(-1, 1, (2, 2)),
    "integers": spaces.Box(0, 5, (2,), np.int64),
    "Dict": spaces.Dict({"x": spaces.Discrete(2)}),
}


@pytest.mark.parametrize("name", ACTION_SPACES)
def test_hints_do_not_lead_in_a_circle(case, cli, tmp_path, register, name):
    """A refused action space is sent only to scripts that accept it."""
    register("Hint-v0", "tests.toys:Actions", space=ACTION_SPACES[name])

    def refusal(other):
        try:
            other.module.make_env(other.args("nowhere", env_id="Hint-v0")).close()
        except other.module.InputError as error:
            return str(error)
        return None

    message = refusal(case)
    fitting = {"Discrete": DISCRETE, "vector": CONTINUOUS}.get(name, set())
    assert (message is None) == (case.file in fitting)
    if message:
        assert_refused(cli(case.file, "--env-id", "Hint-v0"), tmp_path, ["--env-id Hint-v0"])
        named = {other.file for other in CASES if other.file in message}
        assert named <= fitting, message
        assert named or not fitting, message
        is_expected = case.is_box and name != "Discrete"
        assert ("must be bounded vectors of floats" in message) == is_expected


# Rendering


@pytest.mark.parametrize("error", ["no display was found", None])
@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium's, about the missing frame
def test_rendering_that_fails_is_reported_before_training(case, cli, tmp_path, register, error):
    """Whether render() raises an error or returns no frame."""
    register("Dark-v0", "tests.toys:Undrawable", error=error, **toy_kwargs(case))
    outcome = cli(case.file, "--env-id", "Dark-v0", "--capture-video")
    words = ["--env-id Dark-v0 --capture-video: ", error or "rgb_array", "MUJOCO_GL"]
    assert_refused(outcome, tmp_path, words)


def test_a_missing_moviepy_is_reported_before_training(case, cli, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "moviepy", None)
    outcome = cli(case.file, "--capture-video")
    assert_refused(outcome, tmp_path, ["--capture-video: ", "moviepy"])
    assert "module:Name" not in outcome.err  # a package is missing, not a module of the user's


# Rewards


@pytest.mark.parametrize("shape", [(1,), (), (1, 1)])
@in_each_mode
@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium's, about the type of the reward
def test_rewards_may_be_arrays_of_one_number(case, mode, shape, tmp_path, register, capsys):
    register("Pay-v0", "tests.toys:PayingOddly", shape=shape, **toy_kwargs(case))
    flags = {"env_id": "Pay-v0", "total_timesteps": 100} | flags_for(mode)
    _, episodes = case.module.train(case.args(tmp_path, **flags))
    assert {total for _, total, _ in episodes} == {25.0}
    assert EVALUATION.search(capsys.readouterr().out)[1] == "25.00"


# Vector forms


@pytest.mark.parametrize("differs", ["observation", "action", "arguments", "autoreset"])
def test_another_vector_form_is_refused(vector_case, cli, tmp_path, register, differs):
    kwargs = toy_kwargs(vector_case)

    def make_vector(num_envs, space="box", **rest):
        return toys.OtherVectorForm(num_envs, differs, **rest)

    form = {"vector_entry_point": make_vector, "space": "box"}
    register("Form-v0", "tests.toys:Identity", **form, **kwargs)
    outcome = cli(vector_case.file, "--env-id", "Form-v0")
    lines = [line for line in outcome.err.splitlines() if not line.startswith("warning: ")]
    outcome = outcome._replace(err="\n".join(lines))
    assert_refused(outcome, tmp_path, ["--env-id Form-v0", "use --vectorization sync"])
    flags = [*vector_case.flags, "--env-id", "Form-v0", "--total-timesteps", 100]
    assert cli(vector_case.file, *flags, "--vectorization", "sync").status == 0


# Notebooks


def test_runs_pasted_into_a_notebook(case, tmp_path, monkeypatch, capsys):
    """A cell has the name __main__, no __file__, and arguments of the kernel in sys.argv."""
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
    cell = {"__name__": "__main__", "__builtins__": builtins}
    exec((ROOT / case.file).read_text(), cell)
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    args = cell["Args"](
        env_id=case.toy, total_timesteps=100, eval_episodes=1, log_dir=str(tmp_path), **case.small
    )
    _, episodes = cell["train"](args)
    out = capsys.readouterr().out
    assert len(episodes) >= 4
    assert EVALUATION.search(out)
    assert cell["load"](checkpoint_of(out), args)["global_step"] >= 100


# Episodes that never end


@pytest.mark.filterwarnings("ignore:.*render_modes")
def test_reinforce_baseline_warns_where_no_time_limit_is_registered(register, capsys):
    (case,) = (case for case in CASES if case.name == "reinforce_baseline")
    register("Limited-v0", "tests.toys:Endless", max_episode_steps=30)
    for env_id, warned in (("Endless-v0", True), ("Limited-v0", False), ("CartPole-v1", False)):
        envs, env = case.module.make_envs(case.args("nowhere", env_id=env_id))
        envs.close()
        env.close()
        lines = capsys.readouterr().err.splitlines()
        found = [line for line in lines if f"{env_id} has no time limit" in line]
        assert len(found) == warned


# Folders


def test_folders_are_expanded_quoted_and_accepted(case, cli, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    first = cli(case.file, *case.flags, "--total-timesteps", 50, "--log-dir", "~/my runs")
    assert first.status == 0, first.err
    assert [path.name for path in tmp_path.iterdir()] == ["my runs"]
    folder = tmp_path / "my runs"
    line = first.out.splitlines()[1].removeprefix("to watch it: ")
    assert shlex.split(line) == ["tensorboard", "--logdir", str(folder)]
    (run,) = folder.iterdir()
    for path in (run, f"~/my runs/{run.name}", run / "checkpoint.pt"):
        again = cli(case.file, "--resume", path, "--log-dir", tmp_path / "again")
        assert again.out.splitlines()[-1] == first.out.splitlines()[-1], again.err


def test_an_unknown_module_says_that_it_must_be_installed_or_local(case, cli, tmp_path):
    outcome = cli(case.file, "--env-id", "no_such_module:Env-v0")
    assert_refused(outcome, tmp_path, ["no_such_module", "installed or local module"])


@pytest.mark.parametrize("env_id", ["Missing-v0", "missing/Missing-v0"])
def test_an_unknown_name_says_how_to_import_its_module(case, cli, tmp_path, env_id):
    """Gymnasium does not import installed packages by itself, so ALE/Pong-v5 is unknown, too."""
    words = [f"--env-id {env_id}: ", "use --env-id module:Name", "registers it"]
    assert_refused(cli(case.file, "--env-id", env_id), tmp_path, words)


def test_an_error_without_a_message_is_located(case, cli, tmp_path, register):
    """As in FetchReach-v4 of gymnasium_robotics, which fails with recent versions of MuJoCo."""
    register("Silent-v0", "tests.toys:Silent")
    words = ["--env-id Silent-v0: AssertionError() in ", "toys.py", "assert joint in"]
    assert_refused(cli(case.file, "--env-id", "Silent-v0"), tmp_path, words)


@pytest.mark.filterwarnings("ignore:.*render_modes")
def test_an_environment_may_change_the_working_directory(
    case, cli, tmp_path, register, monkeypatch
):
    """As simulators do that write files; --log-dir is relative to where the script was started."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    register("Moving-v0", "tests.toys:Moving", folder=tmp_path / "elsewhere", **toy_kwargs(case))
    flags = [*case.flags, "--env-id", "Moving-v0", "--total-timesteps", 100, "--log-dir", "here"]
    outcome = cli(case.file, *flags)
    assert outcome.status == 0, outcome.err
    assert len(list(tmp_path.glob("here/*/checkpoint.pt"))) == 1
    assert list((tmp_path / "elsewhere").iterdir()) == []


# Signals that are swallowed


def test_a_signal_may_be_swallowed(case, monkeypatch):
    """By a bare `except`, for example; a later signal then stops the run."""

    def train(_):
        for seconds, stops in ((0, True), (5, False), (11, True)):
            monkeypatch.setattr(time, "monotonic", lambda now=start + seconds: now)
            with pytest.raises(SystemExit) if stops else nullcontext():
                signal.raise_signal(signal.SIGTERM)

    def unhandled(*_):
        raise AssertionError("main() has set no handler")

    start = time.monotonic()
    signal.signal(signal.SIGTERM, unhandled)  # otherwise, the signal would end pytest
    monkeypatch.setattr(case.module, "train", train)
    monkeypatch.setattr(sys, "argv", [case.file])
    case.module.main()


# Devices


def test_the_cpu_is_chosen_without_looking_for_an_accelerator(case, monkeypatch):
    """Looking for one can make it unusable in processes that are forked later."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", None)
    assert case.module.pick_device("cpu") == torch.device("cpu")


# Loading a policy


@pytest.mark.parametrize("env_id", ["FrozenLake-v1", "Blackjack-v1", "Identity of a Dict"])
def test_a_policy_is_loaded_and_evaluated(case, env_id, tmp_path, register, capsys):
    """make_env flattens the observations as in training."""
    if env_id == "Identity of a Dict":
        register("Dict-v0", "tests.toys:Identity", space="dict", **toy_kwargs(case))
        env_id = "Dict-v0"
    elif case.is_box:
        pytest.skip("has Discrete actions")
    flags = {"env_id": env_id, "total_timesteps": 100, "eval_episodes": 5}
    case.module.train(case.args(tmp_path, **flags))
    out = capsys.readouterr().out
    state = case.module.load(checkpoint_of(out))
    args = case.module.Args(**state["args"])
    env = case.module.make_env(args)
    actions = env.action_space.shape[0] if case.is_box else int(env.action_space.n)
    agent = case.module.Agent(env.observation_space.shape[0], actions, args)
    agent.load_state_dict(state["agent"])
    returns = case.module.evaluate(agent, env, 5)
    assert EVALUATION.search(out)[1] == f"{np.mean(returns):.2f}"


# The default dtype


def test_another_default_dtype_does_no_harm(case, tmp_path):
    torch.set_default_dtype(torch.float64)
    try:
        agent, episodes = case.module.train(case.args(tmp_path, total_timesteps=200))
    finally:
        torch.set_default_dtype(torch.float32)
    assert len(episodes) >= 4
    assert {weight.dtype for weight in agent.parameters()} == {torch.float32}


# Crashes


def test_a_crash_saves_a_checkpoint_and_keeps_the_traceback(case, launch, tmp_path):
    """Early in a run, long before the first checkpoint would be due."""
    env_id = case.toy.replace("Identity", "Crashing")
    job = launch(case.file, *case.flags, "--env-id", env_id)
    status, out, err = job.wait()
    assert status == 1
    assert err.rstrip().endswith("RuntimeError: the environment is broken")
    assert "Traceback (most recent call last)" in err
    assert "toys.py" in err  # the traceback leads to the environment
    (path,) = tmp_path.glob("*/checkpoint.pt")
    step = torch.load(path, weights_only=True)["global_step"]
    # Episodes are counted when all of a batch have ended.
    assert step == (25 if case.name == "reinforce_baseline" else 39) * case.num_envs
    line = f"stopped at step {step}: continue with --resume {shlex.quote(str(path))}"
    assert out.splitlines()[-1] == line


# Found while reviewing the cases


class Doubled(gym.ObservationWrapper):
    """Observe each number twice; given as a wrapper of a registered environment."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = gym.spaces.Box(0, 1, (6,), np.float64)

    def observation(self, observation):
        return np.repeat(observation, 2)


def test_an_environment_registered_with_wrappers_trains(vector_case, tmp_path, monkeypatch):
    """Its vector form is compared with the wrapped environment, not with the bare one."""
    case = vector_case
    wrapper = gym.envs.registration.WrapperSpec("Doubled", "tests.test_cases:Doubled", {})
    kwargs = gym.spec(case.toy).kwargs | {"space": "box"}
    spec = gym.envs.registration.EnvSpec(
        "Doubled-v0", "tests.toys:Identity", kwargs=kwargs, additional_wrappers=(wrapper,)
    )
    monkeypatch.setitem(gym.registry, "Doubled-v0", spec)
    agent, _ = case.module.train(case.args(tmp_path, env_id="Doubled-v0", total_timesteps=100))
    assert agent.actor[0].in_features == 6


def test_workers_can_be_started_from_a_thread(vector_case, tmp_path):
    """Only the main thread may change what Ctrl-C does."""
    case = vector_case
    args = case.args(tmp_path, total_timesteps=100, vectorization="async", num_envs=2)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        _, episodes = pool.submit(case.module.train, args).result(timeout=60)
    assert episodes


class Reused(toys.Identity):
    """Returns the same array each time, with new numbers in it."""

    def __init__(self, box=False):
        super().__init__("box", box=box)
        self.observation_space = spaces.Box(0, 1, (3,), np.float32)
        self.array = np.zeros(3, np.float32)

    def observe(self):
        self.array[:] = super().observe()
        return self.array


def test_an_environment_may_reuse_its_observation_array(case, tmp_path, register):
    """The result is that of an environment that returns a new array each time."""
    register("Reused-v0", "tests.test_cases:Reused", **toy_kwargs(case))
    register("Fresh-v0", "tests.toys:Identity", space="box", **toy_kwargs(case))
    agents = [
        case.module.train(case.args(tmp_path, env_id=env_id, total_timesteps=300))[0]
        for env_id in ("Reused-v0", "Fresh-v0")
    ]
    assert distance(*agents) == 0.0


# Long films


class Filmed(toys.Steady):
    """Renders a small black picture."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 100}  # noqa: RUF012

    def __init__(self, render_mode=None, box=False):
        super().__init__("box", box=box)
        self.render_mode = render_mode

    def render(self):
        return np.zeros((16, 16, 3), np.uint8)


def test_a_film_holds_at_most_2000_frames_but_the_evaluation_goes_on(
    tmp_path, register, capsys, monkeypatch
):
    clips = pytest.importorskip("moviepy.video.io.ImageSequenceClip")
    films, original = [], clips.ImageSequenceClip.__init__

    def init(self, frames, **kwargs):
        films.append(len(frames))
        original(self, frames, **kwargs)

    monkeypatch.setattr(clips.ImageSequenceClip, "__init__", init)
    register("Filmed-v0", Filmed, max_episode_steps=2_500)
    (case,) = (case for case in CASES if case.name == "a2c_discrete")
    args = case.args(tmp_path, env_id="Filmed-v0", total_timesteps=64, capture_video=True)
    case.module.train(replace(args, eval_episodes=2))
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert last_line == "evaluation: return 2500.00 +- 0.00 over 2 episodes"
    assert films == [2_001, 2_001]  # RecordVideo counts steps, and adds the first frame
    assert len(list(tmp_path.glob("*/videos/*.mp4"))) == 2

"""What all scripts promise: flags, output, checkpoints, resuming, interrupts, errors."""

import copy
import enum
import importlib
import itertools
import json
import multiprocessing
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from tests import toys
from tests.conftest import (
    CASES,
    ROOT,
    VECTOR_CASES,
    assert_refused,
    checkpoint_of,
    distance,
)
from tests.test_repository import SCRIPTS


def test_every_script_is_tested():
    assert {case.file for case in CASES} == {*SCRIPTS}


# Reproducibility


def test_same_seed_same_result_bit_for_bit(case, tmp_path):
    train = case.module.train
    flags = {"total_timesteps": 500}
    runs = [train(case.args(tmp_path / str(i), seed=i // 2, **flags)) for i in range(3)]
    assert distance(runs[0][0], runs[1][0]) == 0.0
    assert runs[0][1] == runs[1][1]
    assert distance(runs[0][0], runs[2][0]) > 0.0
    assert runs[0][1] != runs[2][1]


def test_the_initial_weights_depend_on_the_seed(case, tmp_path):
    """With learning rates of 0 the agent keeps its initial weights."""
    flags = {"total_timesteps": 50, "actor_lr": 0.0, "critic_lr": 0.0}
    agents = [case.module.train(case.args(tmp_path, seed=seed, **flags))[0] for seed in (1, 1, 2)]
    assert distance(agents[0], agents[1]) == 0.0
    assert distance(agents[0].actor, agents[2].actor) > 0.01


def test_seeds(case, tmp_path, monkeypatch, capsys):
    """Only the first reset is seeded.

    Adjacent seeds share no episodes, and a resumed run repeats none. The evaluation uses the seeds
    0, 1, ... in every run.
    """
    seeds, states, original = [], [], toys.Identity.reset

    def reset(self, *, seed=None, options=None):
        seeds.append(seed)
        states.append(torch.get_rng_state())
        return original(self, seed=seed, options=options)

    def run(**changes):
        seeds.clear()
        states.clear()
        flags = {"total_timesteps": 400, "eval_episodes": 3} | changes
        case.module.train(case.args(tmp_path, **flags))
        assert seeds[-3:] == [0, 1, 2]
        path = checkpoint_of(capsys.readouterr().out)
        assert len([seed for seed in seeds if seed is None]) > 2
        return [seed for seed in seeds[:-3] if seed is not None], path

    monkeypatch.setattr(toys.Identity, "reset", reset)
    one, path = run(seed=1)
    two, _ = run(seed=2)
    more, _ = run(seed=1, resume=path, total_timesteps=800)
    # A resumed run also continues with the state of the generator, unless its seed is another one.
    saved = torch.load(path, weights_only=True)["rng"]
    assert torch.equal(states[0], saved)
    run(seed=2)
    fresh = states[0]
    run(seed=2, resume=path, total_timesteps=800)
    assert not torch.equal(states[0], saved)
    assert not torch.equal(states[0], fresh)
    assert [len(found) for found in (one, two, more)] == [case.num_envs] * 3
    assert len({*one, *two, *more}) == 3 * len(one)


def test_train_restores_every_setting_of_the_process(case, tmp_path, monkeypatch):
    """train() keeps denormal mode and handlers, and restores threads and random generators.

    --torch-threads holds from the initial weights to the evaluation, so that the caller's number
    of threads cannot change a result.
    """
    numbers, threads = (signal.SIGINT, signal.SIGTERM), []

    def watch(owner, name):
        original = getattr(owner, name)

        def spy(*args, **kwargs):
            threads.append((name, torch.get_num_threads()))
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, spy)

    def settings():
        random_states = random.getstate(), np.random.get_state()[1].tolist()
        handlers = [signal.getsignal(number) for number in numbers]
        return random_states, torch.get_rng_state().tolist(), handlers, torch.get_num_threads()

    torch.set_num_threads(1)
    watched = [(torch.nn.Linear, "__init__"), (case.module, "update"), (case.module, "evaluate")]
    for owner, name in watched:
        watch(owner, name)
    before = settings()
    case.module.train(case.args(tmp_path, total_timesteps=30, torch_threads=2))
    assert set(threads) == {(name, 2) for _, name in watched}
    assert settings() == before
    assert (torch.tensor([1e-40]) * 1).item() > 0


TWO_RUNS = """
import importlib, multiprocessing, sys
script = importlib.import_module(sys.argv[1])
args = script.Args(total_timesteps=100, eval_episodes=1, log_dir=sys.argv[2])
script.train(args)
with multiprocessing.get_context("fork").Pool(1) as pool:
    pool.map(script.train, [args])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forking is not safe elsewhere")
def test_train_works_in_a_forked_process_after_train(case, tmp_path):
    """A forked process cannot use OpenMP's threads, so train() must not have started any."""
    command = [sys.executable, "-c", TWO_RUNS, case.name, str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, check=True, timeout=60, capture_output=True)
    assert len(list(tmp_path.glob("*/checkpoint.pt"))) == 2


def test_the_command_line_flushes_denormal_numbers(case, cli):
    assert cli(case.file, "--log-dir", "/dev/null").status == 2
    assert (torch.tensor([1e-40]) * 1).item() == 0


# Output


def test_output_and_tensorboard(case, cli):
    flags = [*case.flags, "--total-timesteps", 50_000, "--target-return", case.target]
    outcome = cli(case.file, *flags, "--eval-episodes", 2, "--seed", 3)
    lines = outcome.out.splitlines()
    folder = lines[0].removeprefix("run folder: ")
    assert f"/{case.toy}__{case.name}__3__" in folder
    assert lines[1].startswith("to watch it: tensorboard --logdir ")
    assert re.fullmatch(r"trained: \d+ steps in \d+\.\d\d s", lines[-3])
    pattern = rf"target return {case.target} reached at step (\d+) after \d+\.\d\d s"
    reached = re.fullmatch(pattern, lines[-2])
    number = r"-?\d+\.\d\d"
    assert re.fullmatch(rf"evaluation: return {number} \+- {number} over 2 episodes", lines[-1])
    assert "step" in outcome.err  # the progress bar
    events = EventAccumulator(folder).Reload()
    tags = ["policy_loss", "value_loss", "grad_norm", "explained_variance"]
    tags += ["entropy"] if case.entropy else []
    want = {f"losses/{tag}" for tag in tags}
    want |= {"charts/SPS", "charts/episodic_return", "charts/episodic_length"}
    assert want <= set(events.Tags()["scalars"])
    last = events.Scalars("charts/episodic_return")[-1]  # the last report is at the end of training
    assert last.step == int(reached[1])
    assert {e.value for e in events.Scalars("charts/episodic_length")} == {25.0}
    (text,) = events.Tensors("hyperparameters/text_summary")
    assert "\n|seed|3|\n" in text.tensor_proto.string_val[0].decode()


def test_logged_return_is_the_mean_since_the_last_report(case, tmp_path, monkeypatch):
    points, calls = [], itertools.count()

    def spy(writer, tag, value, step):
        if tag == "charts/episodic_return":
            points.append((step, float(value)))

    monkeypatch.setattr(SummaryWriter, "add_scalar", spy)
    # With this clock each report covers several episodes, on slow machines too.
    tick = 0.6 if case.name == "reinforce_baseline" else 0.004 * case.num_envs
    monkeypatch.setattr(time, "perf_counter", lambda: tick * next(calls))
    _, episodes = case.module.train(case.args(tmp_path, total_timesteps=1000))
    start, covered = 0, []
    for step, value in points:
        new = [r for at, r, _ in episodes if start < at <= step]
        assert value == pytest.approx(np.mean(new))
        covered.append(len(new))
        start = step
    assert [at for at, _, _ in episodes if at > start] == []
    assert len(points) > 2
    assert np.median(covered) > 1
    assert len({r for _, r, _ in episodes}) > 1  # otherwise any single return would pass


def test_runs_that_follow_at_once_have_their_own_folders(case, tmp_path, capsys):
    for _ in range(5):
        with case.module.Run(
            case.args(tmp_path), gym.Env(), gym.Env(), agent=torch.nn.Linear(1, 1)
        ):
            pass
    out = capsys.readouterr().out
    folders = re.findall(r"^run folder: (.*)$", out, re.M)
    assert len(set(folders)) == 5
    assert all(Path(folder, "checkpoint.pt").is_file() for folder in folders)


def test_video(case, cli, tmp_path):
    flags = ["--total-timesteps", 600, "--capture-video", "--eval-episodes", 2]
    outcome = cli(case.file, *flags)
    assert outcome.status == 0, outcome.err
    videos = list(tmp_path.glob("*/videos/*.mp4"))
    assert len(videos) == 2
    assert min(video.stat().st_size for video in videos) > 1000


def test_runs_alone_in_an_empty_folder(case, tmp_path):
    shutil.copy(ROOT / case.file, tmp_path)
    command = [sys.executable, case.file, "--total-timesteps", "600", "--eval-episodes", "1"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("evaluation: return ")
    assert sorted(p.name for p in tmp_path.iterdir()) == [case.file, "runs"]


# The stopping rule


def test_target_return_stops_at_the_mean_of_100(case, tmp_path, capsys):
    train = case.module.train
    args = case.args(tmp_path / "a", target_return=case.target, total_timesteps=50_000)
    _, episodes = train(args)
    returns = [r for _, r, _ in episodes]
    ends = {step: number for number, (step, _, _) in enumerate(episodes, 1) if number >= 100}
    reached = [np.mean(returns[end - 100 : end]) >= case.target for end in ends.values()]
    assert reached == [False] * (len(reached) - 1) + [True]
    # A resumed run has already reached the target and is evaluated at once.
    path = checkpoint_of(capsys.readouterr().out)
    _, episodes = train(replace(args, resume=path, log_dir=str(tmp_path / "b")))
    assert len(episodes) == 100
    # However low the target is, it takes 100 episodes.
    _, episodes = train(
        case.args(tmp_path, target_return=-1.0, total_timesteps=50_000, **case.idle)
    )
    assert 100 <= len(episodes) < 100 + case.num_envs


@pytest.mark.parametrize(
    ("returns", "solved"),
    [
        ([0.0] * 50 + [10.0] * 100, True),
        ([0.0] + [10.0] * 99, False),
        ([20.0] * 50 + [0.0] * 50, True),
        ([10.0] * 99, False),
        ([1000.0] + [9.9] * 100, False),
        ([0.0] * 99 + [999.0], False),
    ],
)
def test_the_target_is_compared_with_the_mean_of_the_last_100(case, tmp_path, returns, solved):
    args = case.args(tmp_path, target_return=10.0)
    with case.module.Run(args, gym.Env(), gym.Env(), agent=torch.nn.Linear(1, 1)) as run:
        run.episodes = [(25 * i, value, 25) for i, value in enumerate(returns)]
        assert run.is_solved() == solved


# Evaluation during training


@pytest.fixture
def noisy_resets(monkeypatch):
    """Each reset of a toy consumes numbers from all global generators."""
    original = toys.Identity.reset

    def reset(self, *, seed=None, options=None):
        torch.rand(1), np.random.random(), random.random()
        return original(self, seed=seed, options=options)

    monkeypatch.setattr(toys.Identity, "reset", reset)


@pytest.mark.usefixtures("noisy_resets")
def test_evaluation_does_not_change_the_course_of_training(case, tmp_path):
    for env_id in (case.toy, case.toy.replace("Identity", "GlobalRandom")):
        args = case.args(tmp_path, env_id=env_id, eval_episodes=3)
        agent, episodes = case.module.train(args)
        other, other_episodes = case.module.train(replace(args, eval_interval=150))
        assert episodes == other_episodes
        assert distance(agent, other) == 0.0


def test_evaluations_are_logged_and_the_best_policy_is_kept(case, tmp_path, monkeypatch, capsys):
    """Returns of -5, -1, -1 and -3 in the order of the evaluations: the second is the best."""
    agents, scalars = [], []

    def evaluate(agent, env, num_episodes):
        agents.append(copy.deepcopy(agent))
        mean = [-5.0, -1.0, -1.0, -3.0, -6.0][len(agents) - 1]
        return [mean - 1, mean + 1]

    def add_scalar(writer, tag, value, step):
        if tag == "charts/eval_return":
            scalars.append((step, value))

    original = case.module.evaluate
    monkeypatch.setattr(case.module, "evaluate", evaluate)
    monkeypatch.setattr(SummaryWriter, "add_scalar", add_scalar)
    args = case.args(tmp_path, total_timesteps=1000, eval_interval=300)
    case.module.train(args)
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "evaluation: return -6.00 +- 1.00 over 2 episodes"
    assert [value for _, value in scalars] == [-5.0, -1.0, -1.0, -3.0]
    # Evaluate at the first update at or after each multiple of 300, and at the end.
    for (step, _), wanted in zip(scalars, (300, 600, 900, 1000)):
        assert wanted <= step <= wanted + case.steps * case.num_envs
    best = Path(checkpoint_of(out)).with_name("best.pt")
    state = case.module.load(best, args)
    assert state["global_step"] == scalars[1][0]
    loaded = copy.deepcopy(agents[1])
    loaded.load_state_dict(state["agent"])
    assert distance(loaded, agents[1]) == 0.0
    assert distance(loaded, agents[2]) > 0.0
    # It can be resumed from, and its first evaluation is at the next multiple of 300.
    monkeypatch.setattr(case.module, "evaluate", original)
    scalars.clear()
    case.module.train(replace(args, resume=str(best), total_timesteps=950))
    assert len(scalars) == 2
    assert 900 <= scalars[0][0] <= scalars[1][0]
    # With a budget that is already used up, it is only evaluated.
    capsys.readouterr()
    case.module.train(replace(args, resume=str(best), total_timesteps=1))
    assert "trained: 0 steps in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("step", "due"), [(0, 300), (299, 300), (300, 600), (310, 600), (900, 1200), (1000, 1200)]
)
def test_evaluations_are_due_at_multiples_of_the_interval(case, tmp_path, monkeypatch, step, due):
    monkeypatch.setattr(case.module, "evaluate", lambda *_: [0.0])
    args = case.args(tmp_path, eval_interval=300)
    with case.module.Run(args, gym.Env(), gym.Env(), agent=torch.nn.Linear(1, 1)) as run:
        run.step = step
        run.report({})
        assert run.eval_step == due


def test_without_eval_interval_there_is_one_evaluation(case, tmp_path, monkeypatch, capsys):
    calls, evaluate = [], case.module.evaluate
    monkeypatch.setattr(case.module, "evaluate", lambda *a: calls.append(a) or evaluate(*a))
    case.module.train(case.args(tmp_path))
    assert len(calls) == 1
    assert not Path(checkpoint_of(capsys.readouterr().out)).with_name("best.pt").exists()


# Arguments of the environment


@pytest.mark.filterwarnings("ignore:.*render_modes")
def test_env_kwargs_reach_every_environment(case, tmp_path, monkeypatch, capsys):
    made, original = [], toys.Identity.__init__

    def init(self, *args, **kwargs):
        made.append(kwargs)
        original(self, *args, **kwargs)

    monkeypatch.setattr(toys.Identity, "__init__", init)
    kwargs = {"n": 5, "space": "box", "max_episode_steps": 7}
    args = case.args(tmp_path, env_kwargs=json.dumps(kwargs), total_timesteps=300)
    agent, episodes = case.module.train(args)
    assert agent.actor[0].in_features == 5
    assert {length for _, _, length in episodes} == {7}
    assert len(made) == case.num_envs + 1
    assert all(found | {"n": 5, "space": "box"} == found for found in made)
    state = torch.load(checkpoint_of(capsys.readouterr().out), weights_only=True)
    assert json.loads(state["args"]["env_kwargs"]) == kwargs


def test_an_environment_that_raises_anything_over_its_arguments(case, cli, tmp_path):
    flags = ["--env-id", case.toy, "--env-kwargs", '{"space": "nowhere"}']  # KeyError
    words = [f"--env-id {case.toy} ", '--env-kwargs {"space": "nowhere"}: ']
    assert_refused(cli(case.file, *flags), tmp_path, words)


@pytest.mark.parametrize("limit", [None, -1])
def test_a_time_limit_may_be_null_or_absent(limit, tmp_path):
    """Null keeps the registered limit, -1 removes it. CartPole's vector form supports neither."""
    (case,) = (case for case in CASES if case.name == "a2c_discrete")
    kwargs = json.dumps({"max_episode_steps": limit})
    args = case.args(tmp_path, env_id="CartPole-v1", env_kwargs=kwargs)
    envs, env = case.module.make_envs(args)
    assert env.spec.max_episode_steps == (500 if limit is None else None)
    assert isinstance(envs.unwrapped, gym.vector.SyncVectorEnv)
    _, episodes = case.module.train(args)
    assert min(length for _, _, length in episodes) > 5


def test_env_kwargs_of_an_environment_with_a_vector_form(case, tmp_path):
    """CartPole's native vector environment has its own time limit."""
    if case.is_box:
        pytest.skip("CartPole has discrete actions")
    args = case.args(tmp_path, env_id="CartPole-v1", env_kwargs='{"max_episode_steps": 9}')
    _, episodes = case.module.train(args)
    lengths = [length for _, _, length in episodes]
    assert max(lengths) == 9
    assert np.median(lengths) == 9


# Checkpoints and resuming


def test_checkpoint_holds_the_whole_agent(case, tmp_path, capsys):
    """Every weight and every buffer, so that a loaded agent acts like the trained one."""
    agent, _ = case.module.train(case.args(tmp_path))
    state = torch.load(checkpoint_of(capsys.readouterr().out), weights_only=True)
    rest = {"script", "args", "global_step", "rng", "episodes"}
    assert state.keys() == case.parts | rest
    saved = {**dict(agent.named_parameters()), **dict(agent.named_buffers())}
    assert state["agent"].keys() == saved.keys()
    assert all(torch.equal(state["agent"][name], value) for name, value in saved.items())
    obs_size, act_size = agent.actor[0].in_features, agent.actor[-1].out_features
    loaded = case.module.Agent(obs_size, act_size, case.module.Args(**state["args"]))
    for name, value in loaded.named_buffers():  # training has changed each of them
        assert not torch.equal(value, saved[name]), name
    loaded.load_state_dict(state["agent"])
    obs = torch.eye(obs_size)
    assert torch.equal(loaded.act(obs, greedy=True), agent.act(obs, greedy=True))
    assert distance(loaded, agent) == 0.0


def test_resume_continues_and_overwrites_nothing(case, cli):
    first = cli(case.file, *case.flags, "--total-timesteps", 500, "--actor-lr", 0.003)
    path = checkpoint_of(first.out)
    content = Path(path).read_bytes()
    # A finished run goes straight to the evaluation, with the agent that was saved.
    done = cli(case.file, "--resume", path)
    assert done.out.splitlines()[-1] == first.out.splitlines()[-1]
    old = torch.load(path, weights_only=True)
    same = torch.load(checkpoint_of(done.out), weights_only=True)
    assert same["global_step"] == old["global_step"]
    assert all(torch.equal(same["agent"][key], old["agent"][key]) for key in old["agent"])
    # With more steps, omitted flags come from the checkpoint and the count continues.
    more = cli(case.file, "--resume", path, "--total-timesteps", 1500)
    new = torch.load(checkpoint_of(more.out), weights_only=True)
    assert new["args"]["actor_lr"] == 0.003
    assert new["args"]["env_id"] == case.toy
    assert new["global_step"] >= 1500
    ratio = new["global_step"] / old["global_step"]
    pairs = zip(case.optimizer_states(old), case.optimizer_states(new))
    for before, after in pairs:
        assert before["state"].keys() == after["state"].keys() != set()
        for key, state in after["state"].items():
            steps = float(before["state"][key]["step"])
            assert float(state["step"]) == pytest.approx(ratio * steps, rel=0.05)
    assert Path(path).read_bytes() == content


def test_resume_with_a_new_rate(case, tmp_path, capsys):
    """A learning rate that is given now replaces the one in the optimizer's state."""
    constant = {"anneal_lr": False} if "anneal_lr" in case.module.Args.__annotations__ else {}
    args = case.args(tmp_path, total_timesteps=200, **constant)
    case.module.train(args)
    path = checkpoint_of(capsys.readouterr().out)
    case.module.train(replace(args, total_timesteps=400, actor_lr=2 * args.actor_lr, resume=path))
    state = torch.load(checkpoint_of(capsys.readouterr().out), weights_only=True)
    groups = [group for s in case.optimizer_states(state) for group in s["param_groups"]]
    assert [group["lr"] for group in groups] == [2 * args.actor_lr, args.critic_lr]


def test_foreign_checkpoints_are_refused(case, cli, tmp_path):
    first = cli(case.file, "--total-timesteps", 600, "--eval-episodes", 1)
    path = checkpoint_of(first.out)
    folders = len(list(tmp_path.iterdir()))

    def refused(path, *flags):
        outcome = cli(case.file, "--resume", path, *flags)
        assert outcome.status == 2
        assert len(outcome.err.strip().splitlines()) == 1
        assert outcome.err.startswith(f"error: --resume {path}: ")
        return outcome.err

    args = case.module.Args()
    other = {"tanh": "relu", "relu": "tanh"}[args.activation]
    for flags, words in (
        (["--env-id", case.other_task], f"made with env_id {args.env_id}, not {case.other_task}"),
        (["--hidden-sizes", "16", "16"], f"made with hidden_sizes {args.hidden_sizes}, not (16, 1"),
        (["--activation", other], f"made with activation {args.activation}, not {other}"),
    ):
        assert words in refused(path, *flags)
    state = torch.load(path, weights_only=True)
    torch.save(state | {"script": "foreign"}, tmp_path / "foreign.pt")
    words = f"made with script foreign, not {case.name}"
    assert words in refused(tmp_path / "foreign.pt")
    torch.save(state | {"args": state["args"] | {"old_flag": 1}}, tmp_path / "old.pt")
    assert "made by a version with other flags: ['old_flag']" in refused(tmp_path / "old.pt")
    with pytest.raises(case.module.InputError, match=r"other flags: \['old_flag'\]"):
        case.module.train(case.module.Args(resume=str(tmp_path / "old.pt")))
    damaged = {name: value for name, value in state.items() if name != "agent"}
    sizes = state | {"agent": {name: w.unsqueeze(0) for name, w in state["agent"].items()}}
    for content in (damaged, sizes):  # the environment's spaces may have changed, too
        torch.save(content, tmp_path / "damaged.pt")
        words = f"does not match these flags or the spaces of {case.default_task}"
        assert words in refused(tmp_path / "damaged.pt")
    assert len(list(tmp_path.iterdir())) == folders + 3


def test_a_flag_that_a_checkpoint_lacks_takes_its_default(case, tmp_path, capsys):
    """After adding a flag to a copy of a script, its earlier checkpoints can still be used."""
    args = case.args(tmp_path, total_timesteps=100)
    case.module.train(args)
    path = checkpoint_of(capsys.readouterr().out)
    state = torch.load(path, weights_only=True)
    del state["args"]["gamma"]
    torch.save(state, tmp_path / "older.pt")
    assert case.module.Args(**case.module.load(tmp_path / "older.pt")["args"]).gamma == 0.99
    case.module.train(replace(args, total_timesteps=200, resume=tmp_path / "older.pt"))
    assert torch.load(checkpoint_of(capsys.readouterr().out))["global_step"] >= 200


def test_load_compares_the_flags_that_fix_the_networks(case, tmp_path, capsys):
    """load(path) accepts any checkpoint of the script, load(path, args) only a matching one."""
    args = case.args(tmp_path, total_timesteps=100, hidden_sizes=(8, 8))
    case.module.train(args)
    path = checkpoint_of(capsys.readouterr().out)
    assert case.module.load(path)["args"]["hidden_sizes"] == (8, 8)
    case.module.load(path, replace(args, seed=5, total_timesteps=200))
    for name in ("env_id", "hidden_sizes", "activation", "optimizer"):
        if name in args.__dataclass_fields__:
            other = {
                "env_id": case.other_task,
                "hidden_sizes": (8,),
                "activation": "relu" if args.activation == "tanh" else "tanh",
                "optimizer": {"adam": "rmsprop", "rmsprop": "adam"}.get(getattr(args, name)),
            }[name]
            if case.name == "ac_td0" and name == "optimizer":
                other = "sgd"
            with pytest.raises(case.module.InputError, match=f"made with {name} "):
                case.module.load(path, replace(args, **{name: other}))


@pytest.mark.usefixtures("report_every_update")
def test_a_save_that_fails_keeps_the_checkpoint(case, tmp_path, monkeypatch):
    saves, original = [], torch.save

    def save(state, path):
        saves.append(path)
        if len(saves) > 2:
            Path(path).write_bytes(b"half of it")
            raise OSError("disk full")
        original(state, path)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(case.module.InputError, match="cannot write"):
        case.module.train(case.args(tmp_path, checkpoint_interval=0))
    (path,) = tmp_path.glob("*/checkpoint.pt")
    assert torch.load(path, weights_only=True)["global_step"] > 0


@pytest.mark.usefixtures("report_every_update")
@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("reward", np.nan),
        ("reward", -np.inf),
        ("obs", np.nan),
        ("obs", np.inf),
        ("last obs", np.nan),
        ("first obs", np.nan),
    ],
)
def test_nan_stops_the_run_and_keeps_the_checkpoint(case, cli, tmp_path, register, where, value):
    kwargs = gym.spec(case.toy).kwargs | {"where": where, "value": value}
    register("Poison-v0", "tests.toys:Poisoned", **kwargs)
    flags = [*case.flags, "--env-id", "Poison-v0", "--checkpoint-interval", 0]
    with np.errstate(invalid="ignore"):
        outcome = cli(case.file, *flags)
    assert outcome.status == 2
    assert "Traceback" not in outcome.err
    step = case.num_envs * (25 + {"last obs": 25, "first obs": 0}.get(where, 12))
    if case.name == "reinforce_baseline":  # checks a batch of episodes when all have ended
        step = case.num_envs * 50
    name = "reward" if where == "reward" else "observation"
    message = outcome.err.strip().splitlines()[-1]
    assert message == f"error: step {step}: NaN or inf in {name}"
    (path,) = tmp_path.glob("*/checkpoint.pt")
    state = torch.load(path, weights_only=True)
    assert 0 < state["global_step"] < step + (where == "first obs")  # the reset is not a step
    assert all(w.isfinite().all() for w in state["agent"].values())


@pytest.mark.parametrize(
    ("case", "name"),
    [pytest.param(case, name, id=f"{case.name}-{name}") for case in CASES for name in case.losses],
)
def test_nan_in_a_loss_stops_the_run(case, tmp_path, monkeypatch, name):
    losses, update = [], case.module.update

    def spoiled(*args, **kwargs):
        losses.append(update(*args, **kwargs))
        assert name in losses[-1]
        return losses[-1] | {name: np.nan} if len(losses) == 3 else losses[-1]

    monkeypatch.setattr(case.module, "update", spoiled)
    with pytest.raises(FloatingPointError, match=rf"^step \d+: NaN or inf in {name}$"):
        case.module.train(case.args(tmp_path))
    assert len(losses) == 3


@pytest.mark.usefixtures("report_every_update")
def test_weights_that_are_not_finite_are_never_saved(case, tmp_path, monkeypatch):
    updates, update = [], case.module.update

    def spoil(agent, *args, **kwargs):
        losses = update(agent, *args, **kwargs)
        updates.append(losses)
        if len(updates) == 3:
            next(agent.actor.parameters()).data[0] = np.nan
        return losses

    def spoil_ddpg(agent, **kwargs):
        return spoil(agent, **kwargs)

    monkeypatch.setattr(case.module, "update", spoil_ddpg if case.name == "ddpg" else spoil)
    with pytest.raises(FloatingPointError, match=r"^step \d+: NaN or inf in \w+$"):
        case.module.train(case.args(tmp_path, checkpoint_interval=0))
    (path,) = tmp_path.glob("*/checkpoint.pt")
    state = torch.load(path, weights_only=True)
    assert all(weight.isfinite().all() for weight in state["agent"].values())


# Networks, learning rates, evaluation


def test_each_network_has_its_own_rate(case, tmp_path):
    agents = {}
    for rates in ((0.0, 0.0), (0.0, 1e-3), (1e-3, 0.0)):
        flags = {"actor_lr": rates[0], "critic_lr": rates[1], "total_timesteps": 200}
        agents[rates], _ = case.module.train(case.args(tmp_path, **flags))
    first = agents[0.0, 0.0]
    for rates, agent in agents.items():
        critics = [getattr(a, "critics", getattr(a, "critic", None)) for a in (agent, first)]
        assert (distance(agent.actor, first.actor) > 0) == (rates[0] > 0)
        assert (distance(*critics) > 0) == (rates[1] > 0)


def test_rates_decrease_linearly_over_all_steps(case, tmp_path, monkeypatch, capsys):
    if "anneal_lr" not in case.args(tmp_path).__dataclass_fields__:
        pytest.skip("has no --anneal-lr")

    def rates_of(**changes):
        rates, update = [], case.module.update

        def spy(agent, *rest):
            optimizers = [x for x in rest if isinstance(x, torch.optim.Optimizer)]
            rates.append([group["lr"] for x in optimizers for group in x.param_groups])
            return update(agent, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(case.module, "update", spy)
            case.module.train(case.args(tmp_path, actor_lr=1e-3, critic_lr=4e-3, **changes))
        return np.array(rates)

    rates = rates_of(total_timesteps=4000)
    path = checkpoint_of(capsys.readouterr().out)
    assert rates[0].tolist() == [1e-3, 4e-3]
    assert np.allclose(rates[:, 1], 4 * rates[:, 0])
    # The learning rate of an update is that at the start of its rollout, apart from reset steps.
    line = np.linspace(1e-3, 0, len(rates) + 1)[:-1]
    assert np.abs(rates[:, 0] - line).max() < 4e-5
    # When resumed with twice the total steps, the run is halfway through.
    rates = rates_of(total_timesteps=8000, resume=path)
    assert 4.5e-4 < rates[0, 0] <= 5.1e-4
    assert (rates_of(anneal_lr=False) == [1e-3, 4e-3]).all()


def test_a_single_update_still_learns(case, tmp_path):
    """Even with annealing, which ends at a learning rate of 0."""
    steps = case.small.get("learning_starts", 1)
    agents = {}
    for rate in (0.0, 1e-2):
        flags = {"actor_lr": rate, "critic_lr": rate, "total_timesteps": steps}
        agents[rate], _ = case.module.train(case.args(tmp_path, **flags))
    assert distance(agents[0.0].actor, agents[1e-2].actor) > 1e-6


def test_evaluation_is_greedy_and_seeded(case):
    agent = case.agent(2, 2 if case.is_box else 3)
    for weight in agent.actor.parameters():
        weight.data.zero_()
    bias = [0.5, -0.5] if case.is_box else [0.0, 0.5, 0.0]
    agent.actor[-1].bias.data = torch.tensor(bias)
    env = gym.make("ScriptedBox-v0" if case.is_box else "Scripted-v0")
    returns = case.module.evaluate(agent, gym.wrappers.FlattenObservation(env), 4)
    assert returns == [6.0, 3.0, 10.0, 6.0]
    assert env.unwrapped.seeds == [0, 1, 2, 3]
    actions = env.unwrapped.actions
    assert len(actions) == 12
    assert all(np.array_equal(action, actions[0]) for action in actions)
    assert case.is_box or actions[0] == 6  # the second action; they start at 5


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_all_networks_use_the_activation(case, activation):
    kinds = {torch.nn.Tanh: "tanh", torch.nn.ReLU: "relu"}
    modules = case.agent(2, 2, activation=activation).modules()
    found = [kinds[type(module)] for module in modules if type(module) in kinds]
    assert found == [activation] * 2 * len(case.args("nowhere").hidden_sizes)


def test_the_value_critic_starts_with_weights_of_norm_1_in_its_last_layer(case):
    if case.name == "ddpg":
        pytest.skip("starts near 0, as in the paper")
    assert case.agent(4, 2).critic[-1].weight.norm().item() == pytest.approx(1)


@pytest.mark.parametrize("space", ["discrete", "multidiscrete", "dict", "box", "number"])
def test_observations_are_flattened(case, tmp_path, register, space):
    register("IdentityOf-v0", "tests.toys:Identity", **gym.spec(case.toy).kwargs, space=space)
    agent, _ = case.module.train(case.args(tmp_path, env_id="IdentityOf-v0", total_timesteps=100))
    size = {"discrete": 3, "multidiscrete": 5, "dict": 5, "box": 3, "number": 1}[space]
    assert agent.actor[0].in_features == size


# Flags


def test_flags_that_may_be_zero_may_be_the_integer_zero(case):
    args = case.module.Args(gamma=0, checkpoint_interval=0, actor_lr=0)
    assert args.gamma == 0
    with pytest.raises(
        case.module.InputError, match=r"--eval-episodes must be in \[1, inf\], got 0"
    ):
        case.module.Args(eval_episodes=0)


def test_numpy_numbers_become_plain_ones(case, tmp_path, capsys):
    """torch.load(weights_only=True) would refuse a checkpoint with NumPy's numbers."""
    numbers = {"seed": np.int64(3), "actor_lr": np.float64(1e-3), "torch_threads": np.int32(1)}
    case.module.train(case.args(tmp_path, total_timesteps=100, **numbers))
    saved = case.module.load(checkpoint_of(capsys.readouterr().out))["args"]
    assert {name: (type(saved[name]), saved[name]) for name in numbers} == {
        "seed": (int, 3),
        "actor_lr": (float, 1e-3),
        "torch_threads": (int, 1),
    }
    with pytest.raises(case.module.InputError, match=r"--seed must be in .* got -1"):
        case.module.Args(seed=np.int64(-1))


def test_paths_become_strings(case, tmp_path, capsys):
    """torch.load(weights_only=True) would refuse a checkpoint with a path."""
    args = case.args(tmp_path, total_timesteps=100)
    first = replace(args, log_dir=tmp_path)
    case.module.train(first)
    folder = Path(checkpoint_of(capsys.readouterr().out)).parent
    case.module.train(replace(first, resume=folder, total_timesteps=150))
    saved = case.module.load(checkpoint_of(capsys.readouterr().out))["args"]
    assert (saved["log_dir"], saved["resume"]) == (str(tmp_path), str(folder))


class DeviceName(str, enum.Enum):
    CPU = "cpu"


def test_whole_floats_become_integers(case):
    assert type(case.module.Args(total_timesteps=1e5).total_timesteps) is int


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"capture_video": "no"}, "--capture-video must be of type bool, got 'no'"),
        ({"eval_episodes": 2.5}, "--eval-episodes must be of type int, got 2.5"),
        ({"eval_interval": True}, "--eval-interval must be of type int, got True"),
        ({"gamma": "0.9"}, "--gamma must be of type float, got '0.9'"),
        ({"target_return": None}, "--target-return must be of type float, got None"),
        ({"hidden_sizes": 64}, "--hidden-sizes must be of type tuple, got 64"),
        ({"env_kwargs": {}}, "--env-kwargs must be of type str, got {}"),
        ({"device": DeviceName.CPU}, "--device must be of type str, got <DeviceName.CPU"),
    ],
)
def test_a_flag_of_another_type_is_refused(case, flags, words):
    """Otherwise it might fail after training, or leave a checkpoint that cannot be read."""
    with pytest.raises(case.module.InputError, match=re.escape(words)):
        case.module.Args(**flags)


@pytest.mark.parametrize("sizes", [[8, 8], np.array([8, 8]), (np.int64(8), 8)])
def test_sizes_become_a_tuple_of_integers(case, tmp_path, capsys, sizes):
    """The command line gives a tuple, so a checkpoint with a list could not be resumed."""
    case.module.train(case.args(tmp_path, total_timesteps=100, hidden_sizes=sizes))
    path = checkpoint_of(capsys.readouterr().out)
    loaded = case.module.load(path, case.args(tmp_path, hidden_sizes=(8, 8)))
    assert loaded["args"]["hidden_sizes"] == (8, 8)
    with pytest.raises(case.module.InputError, match="--hidden-sizes must be in"):
        case.module.Args(hidden_sizes=[8, 0])


def test_unknown_choices_are_refused_from_python_too(case):
    for name in ("activation", "device"):
        with pytest.raises(
            case.module.InputError, match=f"--{name} must be one of .*, got 'nonsense'"
        ):
            case.module.Args(**{name: "nonsense"})


# Bad input: one line that names the flag, exit status 2, no traceback, no new file


BAD_INPUT = [
    (["--env-id", "CartPole-v7"], ["--env-id", "CartPole"]),
    (["--env-id", "CatPole-v1"], ["--env-id", "CartPole"]),
    (["--env-id", "nowhere:CartPole-v1"], ["--env-id", "nowhere"]),
    (["--env-id", "Picture"], ["--env-id Picture", "observations must be vectors", "MLP"]),
    (["--env-id", "Sentence"], ["--env-id Sentence", "observations must be vectors", "MLP"]),
    (["--env-id", "Needy"], ["--env-id Needy", "argument"]),
    (
        ["--seed", "18446744073709551616"],
        ["--seed must be in [0, 18446744073709551615], got 18446744073709551616"],
    ),
    (["--gamma", "1.5"], ["--gamma must be in [0, 1], got 1.5"]),
    (["--gamma", "nan"], ["--gamma must be in [0, 1], got nan"]),
    (["--actor-lr", "-1"], ["--actor-lr", "got -1"]),
    (["--hidden-sizes", "64", "0"], ["--hidden-sizes"]),
    (["--eval-episodes", "0"], ["--eval-episodes", "got 0"]),
    (["--capture-video"], ["--capture-video", "rgb_array"]),
    (["--env-id", "CatPole-v1", "--capture-video"], ["--env-id CatPole-v1", "CartPole"]),
    (["--resume", "nowhere.pt"], ["--resume nowhere.pt", "not found"]),
    (["--resume", "README.md"], ["--resume README.md", "not a readable checkpoint"]),
    (["--resume", "tests"], ["--resume tests", "not found"]),
    (["--log-dir", "/dev/null"], ["--log-dir", "/dev/null"]),
    (["--eval-interval", "-1"], ["--eval-interval", "got -1"]),
    (["--env-kwargs", "n=3"], ["--env-kwargs n=3: must be a JSON object", "is_slippery"]),
    (["--env-kwargs", "[3]"], ["--env-kwargs [3]: must be a JSON object"]),
    (["--env-kwargs", '{"max_episode_steps": 0}'], ["--env-kwargs", "max_episode_steps"]),
    (
        ["--env-kwargs", '{"nonsense": 3}'],
        ['--env-kwargs {"nonsense": 3}', "argument 'nonsense'"],
    ),
    (["--device", "cuda"], ["--device cuda", "cpu"]),
    (["--gama", "1"], ["--gama", "--gamma"]),
]


@pytest.mark.parametrize(("flags", "words"), BAD_INPUT, ids=[" ".join(x) for x, _ in BAD_INPUT])
@pytest.mark.filterwarnings("ignore:.*render_modes")  # Gymnasium's warning about Endless
def test_bad_input(case, cli, tmp_path, monkeypatch, flags, words):
    if flags == ["--device", "cuda"] and torch.cuda.is_available():
        pytest.skip("this machine has cuda")
    if flags[-1] in ("Picture", "Sentence", "Needy"):  # with actions of the script's kind
        flags = ["--env-id", case.toy.replace("Identity", flags[-1])]
    if flags == ["--capture-video"]:
        flags = ["--env-id", case.toy.replace("Identity", "Endless"), *flags]
    monkeypatch.chdir(ROOT)
    outcome = cli(case.file, *flags)
    assert_refused(outcome, tmp_path, words)
    if flags[0] != "--gama":  # tyro prints its own errors in a box
        assert outcome.err.startswith("error: --")


def test_an_environment_for_another_script(case, cli, tmp_path):
    env_id, script = case.other_kind
    assert_refused(cli(case.file, "--env-id", env_id), tmp_path, ["--env-id", script])


# Interrupts

LONG = ["--total-timesteps", 100_000_000, "--checkpoint-interval", 0.05]
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


def assert_interrupted(job, path, number):
    """Assert the exit status, the saved step, and that no process and no traceback is left."""
    status, out, err = job.wait()
    assert status == STATUS[number], err
    assert "Traceback" not in err, err
    step = torch.load(path, weights_only=True)["global_step"]
    line = f"stopped at step {step}: continue with --resume {shlex.quote(str(path))}"
    assert out.splitlines()[-1] == line
    assert job.group_is_empty()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_saves(case, launch, tmp_path, number):
    job = launch(case.file, *LONG)
    path = job.wait_for_checkpoint(tmp_path)
    os.kill(job.pid, number)
    assert_interrupted(job, path, number)


def test_environments_in_their_own_processes_end_quietly(vector_case, launch, tmp_path):
    flags = ["--vectorization", "async", "--num-envs", 2]
    job = launch(vector_case.file, *flags, "--total-timesteps", 100, "--eval-episodes", 1)
    status, out, err = job.wait()
    assert status == 0, err
    assert "Traceback" not in err
    assert out.splitlines()[-1].startswith("evaluation: return ")
    assert job.group_is_empty()
    job = launch(vector_case.file, *flags, log_dir="/dev/null")
    status, _, err = job.wait()
    assert status == 2
    assert len(err.strip().splitlines()) == 1, err
    assert job.group_is_empty()


def interrupts():
    """(script, start method, how the signal is sent, signal); without fork, starting is slow."""
    sent = list(itertools.product([os.killpg, os.kill], [signal.SIGINT, signal.SIGTERM]))
    for case in VECTOR_CASES:
        yield from ((case.name, "fork", *one) for one in sent)
    for method, usual in (
        ("forkserver", (os.kill, signal.SIGTERM)),
        ("spawn", (os.killpg, signal.SIGINT)),
    ):
        for one in sent:
            marks = [] if one == usual else [pytest.mark.slow]
            yield pytest.param("a2c_discrete", method, *one, marks=marks)


@pytest.mark.parametrize(("name", "method", "send", "number"), [*interrupts()])
def test_environments_in_their_own_processes_are_interrupted(
    launch, tmp_path, name, method, send, number
):
    """Ctrl-C in a terminal reaches the workers too, and so may a scheduler's SIGTERM."""
    # A spawned worker imports torch, which takes seconds.
    flags = ["--vectorization", "async", "--num-envs", 1 if method == "spawn" else 2, *LONG]
    job = launch(f"{name}.py", *flags, method=method)
    path = job.wait_for_checkpoint(tmp_path)
    send(job.pid, number)
    assert_interrupted(job, path, number)


@pytest.mark.parametrize("name", ["a2c_discrete", "a2c_continuous", "reinforce_baseline"])
def test_interrupt_in_the_middle_of_a_reply(name, tmp_path, monkeypatch, capsys):
    """Interrupt when only the first 4 bytes of a worker's reply, its length, have been read."""
    script, pipes = importlib.import_module(name), []
    pid, receive = os.getpid(), Connection._recv

    def interrupted(self, size, *rest):
        answer = receive(self, size, *rest)
        if os.getpid() == pid and size == 4:
            pipes.append(self)
        if len(pipes) > 50 and self is pipes[0]:
            pipes.clear()
            time.sleep(0.5)  # by then the other worker has replied, too
            raise KeyboardInterrupt
        return answer

    args = script.Args(num_envs=2, vectorization="async", log_dir=str(tmp_path))
    monkeypatch.setattr(Connection, "_recv", interrupted)
    with pytest.raises(KeyboardInterrupt):
        script.train(args)
    assert "stopped at step" in capsys.readouterr().out
    assert list(tmp_path.glob("*/checkpoint.pt"))
    deadline = time.monotonic() + 30
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not multiprocessing.active_children()

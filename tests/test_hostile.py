"""Hostile input: generated command lines, and environments that break Gymnasium's rules.

A run succeeds with status 0, or ends with one clear message and status 2. An exception of the
environment keeps its traceback. No run hangs or leaves a file that is half written.
"""

import multiprocessing
import re
import shutil
import signal
import traceback
import warnings
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import checkpoint_of
from tests.toys import Identity

EVALUATION = re.compile(r"evaluation: return -?\d+\.\d\d \+- \d+\.\d\d over \d+ episodes")


class Hang(BaseException):
    """Raised by the alarm; no `except Exception` catches it."""


@contextmanager
def guarded(seconds=60):
    """Stop what hangs, and restore what an environment or a script sets for the whole process."""

    def expire(*_):
        raise Hang

    handler, numpy_errors = signal.signal(signal.SIGALRM, expire), np.geterr()
    signal.alarm(seconds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Gymnasium's checker warns of each broken rule
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        np.seterr(**numpy_errors)
        torch.set_flush_denormal(False)  # Hypothesis refuses to draw floats otherwise


def assert_files_are_whole(folder):
    """Every checkpoint can be loaded and has finite weights, and no temporary file is left."""
    assert not list(folder.rglob("tmp"))
    for path in folder.rglob("*.pt"):
        weights = torch.load(path, weights_only=True)["agent"].values()
        assert all(weight.isfinite().all() for weight in weights)


def assert_clear_end(outcome, folder):
    """Status 0 and the evaluation line, or status 2 and a message that names its cause."""
    assert "Traceback" not in outcome.err
    assert_files_are_whole(folder)
    if outcome.status == 0:
        assert EVALUATION.fullmatch(outcome.out.strip().splitlines()[-1]), outcome.out
        return
    assert outcome.status == 2, outcome
    boxed = "For full helptext" in outcome.err  # tyro prints its errors in a box, with a hint
    message = outcome.err if boxed else outcome.err[outcome.err.rindex("error: ") :]
    started = re.fullmatch(r"error: (step|evaluation episode) \d+: NaN or inf in [\w ]+\n", message)
    named = re.search if boxed else re.match
    assert started or named(r"(error: (argument )?|\W)--[a-z]|Unrecognized", message), message
    assert started or not list(folder.rglob("*.pt")), message


# Generated command lines; values larger than these are legitimate, but take minutes or gigabytes.
LARGEST = {"total_timesteps": 150, "num_envs": 6, "num_steps": 40, "eval_episodes": 3}
LARGEST |= {"critic_updates": 6, "actor_updates": 6, "hidden_sizes": 40, "torch_threads": 2}
LARGEST |= {"batch_size": 300, "buffer_size": 100_000}
NO_NUMBERS = ["", " ", "one", "nan", "-nan", "1,5", "0x10", "--1", "½", "None", "[1]"]
NO_INTEGERS = [*NO_NUMBERS, "1.5", "inf", "1e3", "-1", "0", "-0", "+1", "0_1", "1_", "\uff13"]
FLOATS = ["0", "-0.0", "1", "1.0000001", "-1", "inf", "-inf", "infinity", "1e999", "-1e300", "5"]
FLOATS += ["1e30", "1e38", "1e300", "1e-8", "1e-30", "1e-45", "5e-324", "1e-999", "-1e-12", ".5"]
WORDS = ["", " ", "nonsense", "ADAM", "adam ", "0", "ünïcode", "日本", "🙂", "-", "a" * 300, "\t"]
ENV_IDS = ["CartPole-v1", "Pendulum-v1", "CartPole-v0", "CartPole", "cartpole-v1", "CartPole-v99"]
ENV_IDS += [":", "a:b", ":CartPole-v1", "os:CartPole-v1", "CartPole-v1:", ".x:Y-v0", "-v0"]
KWARGS = ["{}", "{", "[]", "null", "1", '"n"', "{'n': 3}", '{"n": }', '{"n": 1' + "0" * 5000 + "}"]
KWARGS += [f'{{"n": {n}}}' for n in ("3", "2.5", "0", "-1", "null", "NaN", "[3]", '3, "n":4')]
KWARGS += [f'{{"max_episode_steps": {n}}}' for n in ("1", "0", "-1", "-2", "2.5", "true", "[]")]
KWARGS += [f'{{"space": "{name}"}}' for name in ("image", "box", "odd", "nonsense", "")]
WRONG = ["", "ü", "self", "id", "num_envs", "wrappers", "vector_kwargs", "render_mode", "spec"]
KWARGS += [f'{{"{name}": {value}}}' for name in WRONG for value in ("1", '"human"', "[]")]
LOG_DIRS = ["new", "new/a/b/", "./.", "with space", "-", "ünï", "🙂", "a\nb", "a" * 300, "x" * 250]
LOG_DIRS += ["file", "file/x", "/dev/null", "/dev/null/x", "/proc/x", "~", "~/x", "$HOME", "a;b'c"]
RESUME = ["nowhere.pt", ".", "..", "file", "file/x", "/dev/null", "/proc/self/mem", "good.pt/x"]
RESUME += ["good", "good.pt", "half.pt", "other.pt", "empty.pt", "a" * 300]
STRINGS = {"env_id": ENV_IDS, "env_kwargs": KWARGS, "log_dir": LOG_DIRS, "resume": RESUME}
UNKNOWN = ["--gama", "--gamma.x", "-x", "--", "x", "---seed", "--Seed 1", "--no-seed", ""]
text = st.text(st.characters(codec="utf-8", exclude_characters="\0/~-"), max_size=8)


def values(name, hint):
    """Strategy for the words after a flag."""
    kind, ((low, high),) = hint, ((0, 0),)
    if hasattr(hint, "__metadata__"):
        kind, ((low, high),) = hint.__origin__, hint.__metadata__
    if get_origin(kind) is tuple:
        item = Annotated[get_args(kind)[0], (low, high)]
        return st.lists(values(name, item).map(lambda words: words[0]), max_size=3)
    if kind is int:
        limits = [str(x + y) for x in (low, high) for y in (-1, 0, 1) if abs(x) < np.inf]
        good = st.integers(low, min(high, LARGEST.get(name, 10**40))).map(str)
        word = st.one_of(*[good] * 4, st.sampled_from(limits), st.sampled_from(NO_INTEGERS))
    elif kind is float:
        good = st.floats(max(low, -1), min(high, 1)).map(str)
        odd = st.one_of(st.sampled_from(NO_NUMBERS), st.floats().map(str))
        word = st.one_of(*[good] * 2, st.sampled_from(FLOATS), odd)
    elif kind is bool:
        return st.sampled_from([[], [], [], ["true"], ["1"], ["maybe"], [""]])
    elif get_origin(kind) is Literal:
        word = st.sampled_from([*get_args(hint) * 5, *WORDS])
    else:
        word = st.one_of(*[st.sampled_from(STRINGS[name])] * 3, text)
    return word.map(lambda word: [word])


def one_flag(name, hint):
    """Strategy for a flag and its words; sometimes --flag=word, and sometimes without a word."""
    flag, off = "--" + name.replace("_", "-"), "--no-" + name.replace("_", "-")
    usual = values(name, hint).map(lambda words: [flag, *words])
    joined = values(name, hint).map(lambda words: [f"{flag}={' '.join(words)}"])
    return st.one_of(*[usual] * 6, joined, st.just([off if hint is bool else flag]))


def command_lines(case):
    """Strategy for one to four flags, seldom an unknown one."""
    hints = get_type_hints(case.module.Args, include_extras=True)
    flags = {name: one_flag(name, hint) for name, hint in hints.items()}
    flags["unknown"] = st.sampled_from(UNKNOWN).map(lambda word: word.split(" "))
    names = st.lists(st.sampled_from(list(flags)), min_size=1, max_size=4, unique=True)
    # The toy is refused, because it cannot render; another environment would take long.
    names = names.filter(lambda names: not {"capture_video", "env_id"} <= {*names})
    rows = names.flatmap(lambda names: st.tuples(*[flags[name] for name in names]))
    return rows.map(lambda rows: [word for row in rows for word in row])


@pytest.mark.parametrize("number", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_generated_command_lines(case, cli, tmp_path, monkeypatch, number):
    files, folder = tmp_path / "files", tmp_path / "folder"
    with guarded():
        first = cli(case.file, *case.flags, "--total-timesteps", 30, "--log-dir", files)
    shutil.move(Path(checkpoint_of(first.out)).parent, files / "good")
    good = (files / "good" / "checkpoint.pt").read_bytes()
    for name, size in {"good.pt": None, "half.pt": 999, "empty.pt": 0, "file": 9}.items():
        (files / name).write_bytes(good[:size])
    state = torch.load(files / "good.pt", weights_only=True)
    torch.save(state | {"script": "ppo"}, files / "other.pt")
    monkeypatch.setenv("HOME", str(folder))  # for ~

    @settings(max_examples=number, derandomize=True, deadline=None, database=None)
    @given(command_lines(case))
    def check(words):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        monkeypatch.chdir(folder)
        for path in files.iterdir():
            (folder / path.name).symlink_to(path)
        log_dir = [] if "--log-dir" in " ".join(words) else ["--log-dir", "runs"]
        with guarded():
            outcome = cli(case.file, *case.flags, "--total-timesteps", 64, *log_dir, *words)
        for path in files.iterdir():
            (folder / path.name).unlink()
        assert_clear_end(outcome, folder)

    check()


# A value for each number and text that differs from all defaults.
UNUSUAL = {"total_timesteps": 90, "num_envs": 3, "num_steps": 7, "critic_updates": 2, "seed": 7}
UNUSUAL |= {"gamma": 0, "gae_lambda": 1, "mean_decay": 1, "tau": 1, "clip_coef": 0, "ent_coef": 9}
UNUSUAL |= {"actor_lr": 1e-30, "critic_lr": 0, "vf_coef": 0, "proximal_coef": 1e30}
UNUSUAL |= {"actor_updates": 2, "max_grad_norm": 0, "log_std_init": -5, "elite_share": 1e-9}
UNUSUAL |= {"exploration_noise": 1e30, "policy_noise": 9, "noise_clip": 0, "policy_frequency": 3}
UNUSUAL |= {"buffer_size": 31, "batch_size": 40, "learning_starts": 2, "eval_episodes": 2}
UNUSUAL |= {"eval_interval": 1, "target_return": -1e300, "checkpoint_interval": 1e300}
UNUSUAL |= {"torch_threads": 2, "log_dir": "ünï code/a", "env_kwargs": '{"n": 5}'}
OTHER_TESTS = {"env_id", "capture_video", "resume", "shared_body", "randomize_domain"}


def test_every_flag_takes_another_value(case, cli, tmp_path, monkeypatch):
    """All of them in one run; OTHER_TESTS are flags that need other environments or flags."""
    monkeypatch.chdir(tmp_path)
    words = []
    for name, hint in get_type_hints(case.module.Args, include_extras=True).items():
        default, flag = getattr(case.module.Args, name), name.replace("_", "-")
        if name in OTHER_TESTS:
            continue
        if isinstance(default, bool):
            words.append(f"--no-{flag}" if default else f"--{flag}")
        elif get_origin(hint) is Literal:
            *_, last = (choice for choice in get_args(hint) if choice != default)
            words += [f"--{flag}", "none" if name == "baseline" else last]  # for --elite-share
        elif name == "hidden_sizes":
            words += ["--hidden-sizes", "1", "3", "1"]
        else:
            words += [f"--{flag}", UNUSUAL[name]]
    outcome = cli(case.file, "--env-id", case.toy, *words)
    assert outcome.status == 0, outcome.err
    assert_clear_end(outcome, tmp_path)
    saved = case.module.load(checkpoint_of(outcome.out))["args"]
    defaults = {name: getattr(case.module.Args, name) for name in saved}
    assert {name for name in saved if saved[name] == defaults[name]} <= OTHER_TESTS


REFUSED = [["--log-dir", "~nobody-here/x"], ["--resume", "~nobody-here/x"], ["--resume", ""]]
REFUSED += [["--env-kwargs", "[" * 50_000], ["--torch-threads", 3_000_000_000]]


@pytest.mark.parametrize("flags", REFUSED, ids=lambda flags: str(flags)[:30])
def test_refused_command_lines(case, cli, tmp_path, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    with guarded():
        outcome = cli(case.file, *case.flags, "--total-timesteps", 64, *flags)
    assert outcome.status == 2
    assert_clear_end(outcome, tmp_path)


def test_sizes_beyond_the_memory(case, cli):
    sizes = {"hidden_sizes", "num_steps"} & get_type_hints(case.module.Args).keys()
    for name in sizes:
        flag = "--" + name.replace("_", "-")
        with guarded():
            outcome = cli(case.file, *case.flags, "--total-timesteps", 64, flag, 10**15)
        assert outcome.status == 2
        assert "Traceback" not in outcome.err
        assert outcome.err.splitlines()[-1].startswith("error: out of memory; reduce sizes")


def test_a_run_with_the_largest_seed_is_resumed(case, cli):
    with guarded():
        first = cli(case.file, *case.flags, "--total-timesteps", 30, "--seed", 2**64 - 1)
        more = cli(case.file, "--resume", checkpoint_of(first.out), "--total-timesteps", 60)
    assert more.status == 0, more.err


class Fault:
    """What an environment does from step `at` of its life on, and how a run then ends.

    It ends well (None), with status 2 and these words, or with an exception. Functions replace an
    observation, a reward, `terminated`, `info`, or what step(), the first or the second reset()
    returns. Spaces of actions are pairs: Discrete for some scripts, Box for others.
    """

    def __init__(self, ends=None, parallel="same", at=9, **changes):
        self.ends, self.parallel, self.at, self.changes = ends, parallel, at, changes


def broken(_):
    raise KeyError("broken")


def divide_by_zero(_):
    np.seterr(all="raise")
    return np.float64(1) / np.float64(0)


NAN_OBS, NAN_REWARD = "NaN or inf in observation", "NaN or inf in reward"
NAN_EVALUATION = "evaluation episode 0: NaN or inf in observation or reward"
WIDE, NARROW = Box(-np.inf, np.inf, (3,), float), Box(0, 1, (0,), float)
PAIR = Dict({"x": WIDE, "y": Discrete(2)})
FAULTS = {  # test_contract.py has NaN in later steps, test_cases.py has more spaces
    "first observation NaN": Fault(NAN_OBS, at=0, obs=lambda x: x * np.nan),
    "first observation -inf": Fault(NAN_OBS, at=0, obs=lambda x: x - np.inf),
    "observation 1e300": Fault(NAN_OBS, obs=lambda x: x + 1e300, space=WIDE),
    "reward 1e39": Fault(NAN_REWARD, reward=lambda r: 1e39),
    "reward None": Fault(NAN_REWARD, reward=lambda r: None),
    "reward 1e8": Fault(at=0, reward=lambda r: 1e8 * r),
    "reward 1e-8": Fault(at=0, reward=lambda r: 1e-8 * r),
    "reward a word": Fault(ValueError, reward=lambda r: "much"),
    "reward of shape (2,)": Fault(ValueError, reward=lambda r: np.array([r, r])),
    "terminated None": Fault(at=0, terminated=lambda end: None),
    "terminated int": Fault(at=0, terminated=int),
    "terminated np.bool_": Fault(at=0, terminated=np.bool_),
    "info None": Fault(info=lambda info: None),
    "info None at first": Fault(AssertionError, at=0, info=lambda info: None),
    "observation a list": Fault(at=0, obs=lambda x: x.tolist()),
    "observation of words": Fault(ValueError, TypeError, obs=lambda x: np.array(["a", "b", "c"])),
    "observation None": Fault(ValueError, obs=lambda x: None),
    "observation of 4": Fault(ValueError, obs=lambda x: np.append(x, 0)),
    "observation of shape ()": Fault(ValueError, obs=lambda x: x[0]),
    "observation of shape (1, n)": Fault(ValueError, obs=lambda x: x[None]),
    "space (0,)": Fault(at=0, obs=lambda x: x[:0], space=NARROW),
    "space (1, n)": Fault(at=0, obs=lambda x: x[None], space=Box(0, 1, (1, 3), float)),
    "space with a missing key": Fault(AssertionError, at=0, obs=lambda x: {"x": x}, space=PAIR),
    "space empty": Fault("--env-id Hostile-v0", at=0, obs=lambda x: {}, space=Dict({})),
    "actions: one": Fault(actions=(Discrete(1), Box(1, 1, (1,)))),
    "actions: none": Fault("--env-id Hostile-v0: action space", actions=(None, None)),
    "actions: huge": Fault(actions=(Discrete(3, start=-(2**40)), Box(-1e308, 1e308, (1,), float))),
    "actions: other ones later": Fault(later_actions=(Discrete(2), Box(-5, 5, (2,)))),
    "episodes of one step": Fault(at=0, step=lambda row: (*row[:2], True, False, {})),
    "terminated and truncated": Fault(at=0, step=lambda row: (*row[:2], True, True, {})),
    "no time limit": Fault(at=0, step=lambda row: (*row[:3], False, {})),
    "step returns four": Fault(ValueError, step=lambda row: row[:4]),
    "step fails": Fault(KeyError, step=broken),
    "reset returns no info": Fault(ValueError, first=lambda row: row[0]),
    "reset fails": Fault(KeyError, first=broken),
    "second reset fails": Fault(KeyError, second=broken),
    "evaluation fails": Fault(KeyError, step=broken),
    "evaluation NaN reward": Fault(NAN_EVALUATION, reward=lambda r: np.nan),
    "evaluation NaN": Fault(NAN_EVALUATION, obs=lambda x: x * np.nan),
    "step divides by zero": Fault(FloatingPointError, reward=divide_by_zero),
}
for kind in (np.float16, np.float64, np.int8, np.int64, np.uint8, np.uint64):
    fault = Fault(at=0, obs=lambda x, kind=kind: x.astype(kind), space=Box(0, 100, (3,), kind))
    FAULTS[f"space of {kind.__name__}"] = fault


class Hostile(Identity):
    """An Identity with a fault, which is met only in evaluations if its name says so."""

    def __init__(self, fault, box=False):
        super().__init__("box", box=box)
        self.at, self.changes, self.box = FAULTS[fault].at, FAULTS[fault].changes, box
        self.only_evaluation, self.count, self.resets = "evaluation" in fault, 0, 0
        self.observation_space = self.changes.get("space", self.observation_space)
        if "actions" in self.changes:
            self.action_space = self.changes["actions"][box]

    def change(self, name, value):
        due = name in self.changes and (self.evaluated or not self.only_evaluation)
        due = due and (self.count >= self.at or name in ("first", "second"))
        return self.changes[name](value) if due else value

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        self.resets, self.evaluated = self.resets + 1, seed in range(10)
        row = self.change("obs", obs), self.change("info", info)
        return self.change({1: "first", 2: "second"}.get(self.resets), row)

    def step(self, action):
        self.count, self.t = self.count + 1, self.t + 1
        if self.count == 9 and "later_actions" in self.changes:
            self.action_space = self.changes["later_actions"][self.box]
        reward = float(np.abs(np.sum(action) - self.wanted) < 0.5)
        obs, reward = self.change("obs", self.observe()), self.change("reward", reward)
        terminated, info = self.change("terminated", False), self.change("info", {})
        return self.change("step", (obs, reward, terminated, self.t == 25, info))


def check_end(case, cli, capsys, folder, name, *flags):
    """Run the script on Hostile-v0, and compare how it ends; return the traceback."""
    fault = FAULTS[name]
    ends = fault.ends if fault.parallel == "same" or case.num_envs == 1 else fault.parallel
    flags = [*case.flags, "--env-id", "Hostile-v0", "--total-timesteps", 40 * case.num_envs, *flags]
    is_error = isinstance(ends, type)
    with guarded(), pytest.raises(ends) if is_error else nullcontext() as caught:
        outcome = cli(case.file, *flags)
    if not is_error:
        assert_clear_end(outcome, folder)
        assert outcome.status == (2 if ends else 0), outcome
        assert (ends or "") in outcome.err
        return ""
    assert_files_are_whole(folder)
    assert len(list(folder.glob("*/checkpoint.pt"))) == 1
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert re.match("trained: " if "evaluation" in name else r"stopped at step \d+: ", last_line)
    return "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("name", FAULTS)
def test_misbehaving_environment(case, cli, capsys, tmp_path, register, name):
    """Parallel environments are synchronous."""
    if name == "no time limit" and case.name not in ("a2c_discrete", "ddpg"):
        pytest.skip("reinforce_baseline plays the first episode for ever; the others take seconds")
    register("Hostile-v0", Hostile, fault=name, box=case.is_box)
    text = check_end(case, cli, capsys, tmp_path, name)
    if "fails" in name:  # the traceback leads to the environment
        assert "test_hostile.py" in text
        assert "in broken" in text


IN_PROCESSES = ["first observation NaN", "reward None", "observation of 4", "step returns four"]
IN_PROCESSES += ["step fails", "second reset fails", "evaluation fails", "info None"]


@pytest.mark.parametrize("name", IN_PROCESSES)
def test_misbehaving_environment_in_a_process(vector_case, cli, capsys, tmp_path, register, name):
    register("Hostile-v0", Hostile, fault=name, box=vector_case.is_box)
    flags = ["--vectorization", "async", "--num-envs", 2]
    check_end(vector_case, cli, capsys, tmp_path, name, *flags)
    assert not multiprocessing.active_children()

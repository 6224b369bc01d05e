"""Faults from outside: kills, signals, a full disk, a clock set back, damaged checkpoints.

The tests marked slow repeat those of kills, signals and disks at more moments:
python -m pytest -m "slow or not slow" tests/test_faults.py
"""

import builtins
import contextlib
import itertools
import os
import pickle
import random
import shlex
import shutil
import signal
import time
import zipfile
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import CASES, assert_refused, checkpoint_of, distance
from tests.test_cases import MODES
from tests.test_contract import LONG, STATUS, assert_interrupted

# There is at most one report every 0.25 s, so with LONG's shorter interval each report saves.
SAVE_BUFFER = {"ddpg": ["--save-buffer"]}
REST = {"script", "args", "global_step", "rng", "episodes"}  # of a checkpoint, besides the parts


def numbered(count, by_default):
    """Run a test with the numbers 0, 1, ...; those from `by_default` on are slow."""
    marks = [[] if number < by_default else [pytest.mark.slow] for number in range(count)]
    return pytest.mark.parametrize(
        "number", [pytest.param(number, marks=mark) for number, mark in enumerate(marks)]
    )


def flags_of(mode):
    return [] if mode == "auto" else ["--vectorization", mode, "--num-envs", 2]


def wait_for(condition, timeout=60):
    """Wait until the condition holds, with pauses shorter than a save."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(0.0002)


def run_folder(folder):
    """The folder of the only run, or None if it has not been made yet."""
    found = list(folder.glob("*__*"))
    assert len(found) <= 1
    return found[0] if found else None


def wait_until(kind, job, folder, rng):
    """Wait for a random moment of the given kind in a run."""
    if kind == "start":
        time.sleep(rng.uniform(0.0, 2.0))
        return
    if kind == "folder":
        wait_for(lambda: run_folder(folder))
        return
    path = job.wait_for_checkpoint(folder)
    if kind == "save":
        wait_for(path.with_name("tmp").exists)
        time.sleep(rng.uniform(0.0, 0.003))
    else:
        time.sleep(rng.uniform(0.0, 1.0))


def assert_whole(path, case):
    """Assert that a checkpoint has all its entries and each file in it the right checksum."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    state = torch.load(path, weights_only=True)
    assert state.keys() == case.parts | REST
    return state


def reported_steps(folder):
    """The steps of a run's reports, that TensorBoard can read."""
    events = EventAccumulator(str(folder)).Reload()
    tags = events.Tags()["scalars"]
    return [e.step for e in events.Scalars("charts/SPS")] if "charts/SPS" in tags else []


# Kills


@numbered(20, by_default=2)
def test_kill_at_any_moment_loses_at_most_one_interval(case, number, launch, tmp_path, cli):
    """The checkpoint is whole, and at most the last report's steps are not in it.

    Each report first writes its curves and then saves. When the curves of a report are on the disk,
    the previous report has saved its checkpoint. The test compares steps, not times, so it also
    holds on a slow machine. Workers whose parent was killed end by themselves.
    """
    rng = random.Random(f"{case.name} {number}")
    mode = "async" if case.num_envs > 1 and number % 2 else "auto"
    flags = [*flags_of(mode), *SAVE_BUFFER.get(case.name, [])]
    job = launch(case.file, *LONG, *flags)
    wait_until(["save", "later", "start"][number % 3], job, tmp_path, rng)
    os.kill(job.pid, signal.SIGKILL)
    assert job.wait().status == -signal.SIGKILL
    assert job.group_is_empty()
    folder = run_folder(tmp_path)
    steps = reported_steps(folder) if folder else []
    path = folder and folder / "checkpoint.pt"
    if not folder or not path.exists():
        assert len(steps) < 2
        return
    step = assert_whole(path, case)["global_step"]
    assert step >= [0, 0, *steps][-2]
    flags = ["--resume", path, "--total-timesteps", step + 200, "--eval-episodes", 1]
    outcome = cli(case.file, *flags)
    assert outcome.status == 0, outcome.err
    assert assert_whole(checkpoint_of(outcome.out), case)["global_step"] >= step + 200


# Signals


@pytest.mark.parametrize(
    ("case", "mode", "number"),
    [
        pytest.param(
            *(case, mode, number),
            id=f"{case.name}-{mode}-{number}",
            # test_contract.py interrupts the other modes, always after the first checkpoint.
            marks=[] if (mode, number) == ("sync", CASES.index(case)) else [pytest.mark.slow],
        )
        for case, mode in MODES
        for number in range(12)
    ],
)
def test_interrupt_at_any_moment(case, mode, number, launch, tmp_path):
    """Ctrl-C and SIGTERM trigger a save, even during another save; no process or traceback is left.

    Before the first step there is nothing to save.
    """
    rng = random.Random(f"{case.name} {mode} {number}")
    kind, sent = (
        ["save", "later", "folder"][number % 3],
        [signal.SIGINT, signal.SIGTERM][number % 2],
    )
    job = launch(case.file, *LONG, *flags_of(mode))
    wait_until(kind, job, tmp_path, rng)
    os.kill(job.pid, sent)
    path = run_folder(tmp_path) / "checkpoint.pt"
    if kind != "folder":
        assert_interrupted(job, path, sent)
        assert_whole(path, case)
        return
    status, _, err = job.wait()
    assert status == STATUS[sent], err
    assert "Traceback" not in err, err
    assert job.group_is_empty()
    if path.exists():
        assert_whole(path, case)


@pytest.mark.parametrize(
    ("name", "mode", "sent"),
    [
        ("ac_td0", "auto", signal.SIGINT),
        ("a2c_discrete", "async", signal.SIGTERM),
        pytest.param("ac_td0", "auto", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("a2c_discrete", "async", signal.SIGINT, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "name", value),
)
@pytest.mark.parametrize(
    "pause", [0.01, *(pytest.param(pause, marks=pytest.mark.slow) for pause in (0.0, 0.003, 0.03))]
)
def test_an_impatient_user(name, mode, sent, pause, launch, tmp_path):
    """Three signals in a row have the same effect as one."""
    (case,) = (case for case in CASES if case.name == name)
    job = launch(case.file, *LONG, *flags_of(mode))
    path = job.wait_for_checkpoint(tmp_path)
    for _ in range(3):
        with contextlib.suppress(ProcessLookupError):
            os.kill(job.pid, sent)
        time.sleep(pause)
    assert_interrupted(job, path, sent)


# A disk that is full, and a folder that is gone

needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")

TWO_SCRIPTS = pytest.mark.parametrize(  # by default; this code is the same in all five
    "case",
    [
        pytest.param(
            case,
            id=case.name,
            marks=[] if case.name in ("a2c_discrete", "ddpg") else [pytest.mark.slow],
        )
        for case in CASES
    ],
)


def assert_says_what_to_do(outcome, folder, words):
    """Assert status 2 and no traceback; the last line names folder, reason and what to do."""
    assert "Traceback" not in outcome.err, outcome.err
    assert outcome.status == 2
    last_line = outcome.err.rstrip().splitlines()[-1]
    assert last_line.startswith("error: step ")
    assert f"cannot write to {folder}: " in last_line
    assert any(word in last_line for word in ("No such file", "No space left", "disk full")), (
        last_line
    )
    assert all(word in last_line for word in words), last_line


@needs_dev_full
@pytest.mark.parametrize("what", ["checkpoint", pytest.param("curves", marks=pytest.mark.slow)])
@TWO_SCRIPTS
def test_a_full_disk_ends_the_run_and_keeps_the_checkpoint(case, what, launch, tmp_path):
    """It may concern the checkpoint or the curves. A link to /dev/full simulates a full disk."""
    job = launch(case.file, *LONG)
    path = job.wait_for_checkpoint(tmp_path)
    folder, link = path.parent, tmp_path / "link"
    link.symlink_to("/dev/full")
    if what == "curves":
        (events,) = folder.glob("events*")
        link.replace(events)
    else:

        def placed():
            with contextlib.suppress(FileExistsError):  # a save is under way
                os.link(link, folder / "tmp", follow_symlinks=False)
                return True

        wait_for(placed)
        content = path.read_bytes()  # from now on, no save can succeed
    outcome = job.wait()
    assert_says_what_to_do(outcome, folder, [f"--resume {shlex.quote(str(path))}"])
    assert job.group_is_empty()
    assert what == "curves" or path.read_bytes() == content
    assert_whole(path, case)


@needs_dev_full
def test_a_full_disk_at_the_end_of_training(case, cli, tmp_path, monkeypatch):
    """When there is no earlier checkpoint, the line says so."""
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda state, path: save(state, "/dev/full"))
    outcome = cli(case.file, *case.flags, "--total-timesteps", 100)
    assert_says_what_to_do(outcome, run_folder(tmp_path), ["no checkpoint exists"])
    assert "evaluation" not in outcome.out


@TWO_SCRIPTS
def test_a_run_folder_that_is_removed_ends_the_run(case, launch, tmp_path):
    """The workers end, too, and the folder is not made again."""
    mode = "async" if case.num_envs > 1 else "auto"
    job = launch(case.file, *LONG, *flags_of(mode))
    folder = job.wait_for_checkpoint(tmp_path).parent

    def removed():
        shutil.rmtree(folder, ignore_errors=True)  # a save may be under way
        return not folder.exists()

    wait_for(removed)
    outcome = job.wait()
    assert_says_what_to_do(outcome, folder, ["no checkpoint exists"])
    assert job.group_is_empty()
    assert not folder.exists()


# The clock


@pytest.mark.usefixtures("report_every_update")
def test_a_clock_that_is_set_back_changes_nothing(case, tmp_path, monkeypatch):
    """With time.time() an hour earlier at each reading, there are as many checkpoints as before."""
    saves, save = [], case.module.Run.save
    monkeypatch.setattr(
        case.module.Run, "save", lambda run, *name: saves.append(run.step) or save(run, *name)
    )
    steps = max(40, 5 * case.steps * case.num_envs)
    args = case.args(tmp_path, total_timesteps=steps, checkpoint_interval=1)
    agent, episodes = case.module.train(args)
    expected = saves.copy()
    saves.clear()
    clock = itertools.count(2_000_000_000.0, -3600.0)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    other, other_episodes = case.module.train(args)
    assert next(clock) < 2_000_000_000 - 3 * 3600
    assert len(set(expected)) > 2
    assert saves == expected
    assert other_episodes == episodes
    assert distance(agent, other) == 0.0


# Damaged and malicious checkpoints

MADE = {}  # the content of one checkpoint of each script


@pytest.fixture
def checkpoint(case, tmp_path_factory, capsys):
    """The path of a checkpoint, in a folder of its own."""
    folder = tmp_path_factory.mktemp("checkpoint")
    if case.name not in MADE:
        case.module.train(case.args(folder / "runs", total_timesteps=100))
        MADE[case.name] = Path(checkpoint_of(capsys.readouterr().out)).read_bytes()
    path = folder / "checkpoint.pt"
    path.write_bytes(MADE[case.name])
    return path


class Payload:
    """Runs code when it is unpickled: makes a file."""

    def __init__(self, function, file):
        self.function, self.file = function, file

    def __reduce__(self):
        code = f"open({str(self.file)!r}, 'w').close()"
        shell = f"touch {shlex.quote(str(self.file))}"
        return self.function, (shell if self.function is os.system else code,)


@pytest.mark.parametrize(
    ("form", "function", "where"),
    [
        ("zip", os.system, "agent"),
        ("zip", builtins.exec, "args"),
        ("legacy", os.system, "script"),
        ("legacy", builtins.exec, "agent"),
        ("pickle", os.system, "args"),
        ("pickle", builtins.exec, "script"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_code_in_a_checkpoint_is_refused_and_not_run(
    case, cli, checkpoint, tmp_path, recwarn, form, function, where
):
    """In both formats of PyTorch and in a plain pickle, as the first entry of the file."""
    proof = checkpoint.with_name("proof")
    state = torch.load(checkpoint, weights_only=True)
    state = {where: Payload(function, proof)} | {k: v for k, v in state.items() if k != where}
    if form == "pickle":
        checkpoint.write_bytes(pickle.dumps(state, protocol=2))
    else:
        torch.save(state, checkpoint, _use_new_zipfile_serialization=form == "zip")
    with contextlib.suppress(Exception):
        torch.load(checkpoint, weights_only=False)
    assert proof.exists()  # so the code would run
    proof.unlink()
    words = [f"--resume {checkpoint}: not a readable checkpoint"]
    assert_refused(cli(case.file, "--resume", checkpoint), tmp_path, words)
    with pytest.raises(case.module.InputError, match="not a readable checkpoint"):
        case.module.load(checkpoint)
    assert not proof.exists()
    assert len(recwarn) == 0


def test_a_plain_pickle_is_refused_without_a_warning(case, cli, checkpoint, tmp_path, recwarn):
    checkpoint.write_bytes(pickle.dumps({"script": case.name}))
    words = [f"--resume {checkpoint}: not a readable checkpoint"]
    assert_refused(cli(case.file, "--resume", checkpoint), tmp_path, words)
    assert len(recwarn) == 0


def test_a_checkpoint_that_was_cut_off_is_refused(case, cli, checkpoint, tmp_path, recwarn):
    content, rng = checkpoint.read_bytes(), random.Random(case.name)
    sizes = [0, 1, len(content) - 1, *(rng.randrange(len(content)) for _ in range(7))]
    for size in sizes:
        checkpoint.write_bytes(content[:size])
        words = [f"--resume {checkpoint}: not a readable checkpoint"]
        assert_refused(cli(case.file, "--resume", checkpoint), tmp_path, words)
    assert len(recwarn) == 0


def same(one, other):
    """Whether two checkpoints, or parts of them, are equal bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@numbered(20, by_default=1)
def test_a_checkpoint_with_flipped_bits_is_refused_or_unharmed(
    case, number, cli, checkpoint, tmp_path
):
    """A flipped bit may carry no data, for example in padding. The content is then unchanged."""
    content, rng = checkpoint.read_bytes(), random.Random(f"{case.name} {number}")
    original = torch.load(checkpoint, weights_only=True)
    refused = 0
    for flips in [1] * 8 + [10] * 4:
        damaged = bytearray(content)
        for _ in range(flips):
            damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        checkpoint.write_bytes(damaged)
        try:
            assert same(case.module.load(checkpoint), original)
        except case.module.InputError:
            words = [f"--resume {checkpoint}: not a readable checkpoint"]
            assert_refused(cli(case.file, "--resume", checkpoint), tmp_path, words)
            refused += 1
    assert refused > 0

"""Check that the current scripts reproduce the runs of earlier versions.

    python benchmarks/same_results.py

Each combination of experiment and version in results/reporting/summary.csv is trained for a few
thousand steps with its own flags, by that version and by the current one. The weights, the lengths
of the episodes and the evaluation must agree exactly, and the returns of the episodes to within
0.01, because earlier versions of reinforce_baseline.py added the rewards in float32. The earlier
versions come from Git. Takes about 20 minutes.
"""

import ast
import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from run import RESULTS, ROOT, read

STEPS = {  # at least three updates
    "a2c_discrete": 20_000,
    "a2c_continuous": 12_000,
    "ac_td0": 3_000,
    "reinforce_baseline": 20_000,
    "ddpg": 2_500,
}
LAUNCH = """
import importlib, sys, torch, tyro
script = importlib.import_module(sys.argv[1])
agent, episodes = script.train(tyro.cli(script.Args, args=sys.argv[2:]))
print(episodes)
print([weights.tolist() for weights in agent.state_dict().values()])
"""


def short(source: bytes) -> str:
    """The value of the column `source` for the text of a script."""
    return hashlib.sha256(source).hexdigest()[:8]


def versions(script: str) -> dict[str, bytes]:
    """All committed versions of a script: {source: text}."""
    path = f"{script}.py"
    commits = subprocess.check_output(["git", "log", "--format=%h", "--", path], cwd=ROOT)
    texts = [
        subprocess.check_output(["git", "show", f"{commit}:{path}"], cwd=ROOT)
        for commit in commits.decode().split()
    ]
    return {short(text): text for text in texts}


def outcome(script: str, source: bytes, flags: list[str]) -> list[str]:
    """Train; return the evaluation, the episodes and the weights."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, f"{script}.py").write_bytes(source)
        command = [sys.executable, "-c", LAUNCH, script, *flags]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}  # earlier versions began with more
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout.splitlines()[-3:]


def equal(one: list[str], other: list[str]) -> bool:
    """Whether two outcomes agree."""
    first, second = (np.array(ast.literal_eval(lines[1])) for lines in (one, other))
    close = first.shape == second.shape and np.allclose(first, second, rtol=0, atol=0.01)
    return one[::2] == other[::2] and close


def main() -> None:
    earlier = {script: versions(script) for script in STEPS}
    rows = [row for row in read(RESULTS / "summary.csv") if row["script"] in STEPS]
    names = "script", "env", "variant", "flags", "source"
    differing = 0
    for script, env, variant, flags, source in dict.fromkeys(
        tuple(r[n] for n in names) for r in rows
    ):
        present = (ROOT / f"{script}.py").read_bytes()
        if short(present) == source:
            continue
        words = ["--env-id", env, *shlex.split(flags), "--total-timesteps", str(STEPS[script])]
        words += ["--eval-episodes", "1"]
        words += ["--learning-starts", "500"] if script == "ddpg" else []
        if source not in earlier[script]:
            sys.exit(f"{script}.py: Git has no version {source}; is this a shallow clone?")
        both = [outcome(script, text, words) for text in (earlier[script][source], present)]
        assert both[0][0].startswith("evaluation")
        differing += not equal(*both)
        verdict = "equal" if equal(*both) else "DIFFERENT"
        print(verdict, script, env, variant, source, flush=True)
    sys.exit(differing > 0)


if __name__ == "__main__":
    main()

"""What holds for every script: no dead flag, no drift between copies, headers that agree."""

import ast
import difflib
import re
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))

# Functions that differ between scripts: how many versions there are, and why.
DIFFERENT_ON_PURPOSE = {
    "Args": (5, "each script has its own flags and defaults"),
    "Agent": (5, "the policy's distribution is what sets the scripts apart"),
    "mlp": (2, "the paper's initialisation in ddpg"),
    "make_env": (2, "Discrete or Box actions"),
    "make_envs": (3, "Discrete or Box actions; domain randomisation in a2c_discrete only"),
    "evaluate": (2, "a Discrete space may not start at 0; Box actions have bounds"),
    "update": (5, "rewards are scaled in a2c_continuous; the others are other algorithms"),
    "train": (5, "the loop is the algorithm"),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_is_read(script):
    tree = ast.parse((ROOT / script).read_text())
    (args,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Args")
    fields = {n.target.id for n in args.body if isinstance(n, ast.AnnAssign)}
    read = {
        node.attr
        for outside in tree.body
        if outside is not args
        for node in ast.walk(outside)
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) == "args"
    }
    assert fields - read == set()


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_is_explained(script):
    source = (ROOT / script).read_text()
    args = source[source.index("class Args") : source.index("def __post_init__")]
    for line in re.findall(r"^    \w+: .*$", args, re.M):
        assert "  # " in line, line


@pytest.mark.parametrize("script", SCRIPTS)
def test_header_agrees_with_requirements(script):
    block = re.search(r"^# /// script\n((?:# .*\n)+?)# ///$", (ROOT / script).read_text(), re.M)
    header = tomllib.loads(re.sub(r"^# ?", "", block[1], flags=re.M))
    pinned = {}
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        requirement = Requirement(line)
        pinned[requirement.name] = requirement
    for line in header["dependencies"]:
        wanted = Requirement(line)
        found = pinned[wanted.name]
        (version,) = found.specifier
        assert version.operator == "=="
        assert wanted.specifier.contains(version.version)
        assert wanted.extras == found.extras


@pytest.mark.parametrize("script", SCRIPTS)
def test_imports_no_sibling_and_docstring_is_short(script):
    tree = ast.parse((ROOT / script).read_text())
    names = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names.isdisjoint(Path(name).stem for name in SCRIPTS)
    assert len(ast.get_docstring(tree).splitlines()) <= 35


def definitions(script):
    """Name and source of each function and class."""
    source = (ROOT / script).read_text()
    return {
        node.name: ast.get_source_segment(source, node)
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }


def test_functions_of_one_name_are_identical():
    versions: dict[str, set[str]] = {}
    for script in SCRIPTS:
        for name, text in definitions(script).items():
            versions.setdefault(name, set()).add(text)
    differing = {name: len(texts) for name, texts in versions.items() if len(texts) > 1}
    assert differing == {name: number for name, (number, _) in DIFFERENT_ON_PURPOSE.items()}


def test_a2c_learns_continuous_actions_as_it_does_discrete_ones():
    """So that what is tested of one update holds for the other."""
    one, two = (definitions(f"a2c_{kind}.py")["update"] for kind in ("discrete", "continuous"))
    lines = list(difflib.ndiff(one.splitlines(), two.splitlines()))
    assert [line for line in lines if line[0] in "-?"] == []
    added = [line[2:].strip() for line in lines if line[0] == "+"]
    words = [
        "if args.norm_reward:",
        "rewards = (rewards / (agent.return_stat",
        "agent.actor.log_std",
    ]
    assert all(line.startswith(word) for line, word in zip(added, words, strict=True)), added


def test_nothing_refers_to_a_machine():
    for path in ROOT.rglob("*"):
        if path.suffix in {".py", ".md", ".toml", ".txt"} and ".venv" not in path.parts:
            text = path.read_text()
            for word in ("/work" + "/", "/tmp" + "/v", ".." + "/shared"):
                assert word not in text, (path, word)

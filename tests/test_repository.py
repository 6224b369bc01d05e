"""What holds for every script: no dead flag, no drift between copies, headers that agree."""

import ast
import io
import re
import tokenize
from collections import defaultdict
from pathlib import Path

import pytest
from packaging.requirements import Requirement

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest installs tomli
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PLUMBING = "# Plumbing: the same in all five files, except for environments and actions\n"
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py") if PLUMBING in path.read_text())

# Functions, classes and methods that differ between scripts: number of versions, and the reason.
DIFFERENT_ON_PURPOSE = {
    "Args": (5, "each script has its own flags and defaults"),
    "Args.__post_init__": (4, "checks across flags in all but ac_td0"),
    "Agent": (5, "the distribution of the policy is what sets the scripts apart"),
    "Agent.__init__": (5, "networks, initialisation and running statistics"),
    "Agent.act": (4, "categorical, Gaussian, deterministic"),
    "Agent.log_prob_and_entropy": (2, "categorical, Gaussian"),
    "Agent.value": (2, "a2c_continuous normalises observations"),
    "Rollout": (2, "a2c_continuous stores vectors of actions and discounted sums of rewards"),
    "Rollout.__init__": (2, "as for Rollout"),
    "Rollout.collect": (2, "as for Rollout"),
    "mlp": (2, "the paper's initialisation in ddpg"),
    "update": (5, "log sigma is clamped in a2c_continuous; the others are other algorithms"),
    "diagnostics": (4, "each algorithm has its own quantities to look at"),
    "train": (5, "the loop is the algorithm"),
    "make_env": (2, "Discrete or Box actions"),
    "make_envs": (3, "domain randomization in a2c_discrete; a warning in reinforce_baseline"),
    "to_env": (2, "a Discrete space may not start at 0; Box actions have bounds"),
}


def source_of(script):
    return (ROOT / script).read_text()


def definitions(tree, prefix=""):
    """Name and node of each function, class and method; a method's name includes its class."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield prefix + node.name, node
        if isinstance(node, ast.ClassDef):
            yield from definitions(node, f"{node.name}.")


def text_of(source, node):
    """The source of a function or class, with its decorators."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return "".join(source.splitlines(keepends=True)[first - 1 : node.end_lineno])


# Flags


def fields_of(tree):
    (args,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Args")
    return args, [n for n in args.body if isinstance(n, ast.AnnAssign)]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_is_read(script):
    tree = ast.parse(source_of(script))
    args, fields = fields_of(tree)
    read = {
        node.attr
        for outside in tree.body
        if outside is not args
        for node in ast.walk(outside)
        if isinstance(node, ast.Attribute)
        and "args" in (getattr(node.value, "id", None), getattr(node.value, "attr", None))
    }
    assert {field.target.id for field in fields} - read == set()


def groups_of_flags(script):
    """The comment that explains each flag, by group (Algorithm, Environment, Run)."""
    source = source_of(script)
    _, fields = fields_of(ast.parse(source))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0]: t.string for t in tokens if t.type == tokenize.COMMENT}
    groups = {}
    for field in fields:
        if title := comments.get(field.lineno - 1, ""):
            whole_line = source.splitlines()[field.lineno - 2].strip()
            if whole_line == title:
                group = groups.setdefault(title.removeprefix("# "), {})
        group[field.target.id] = comments.get(field.lineno, "").removeprefix("# ")
    return groups


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_is_explained(script):
    """By a comment on its first line, which is what --help shows."""
    groups = groups_of_flags(script)
    assert list(groups) == ["Algorithm", "Environment", "Run"]
    for group in groups.values():
        for name, comment in group.items():
            assert len(comment.split()) > 1, name


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_lists_and_explains_the_flags_of_algorithm_environment_and_run(script, cli):
    outcome = cli(script, "--help")
    assert outcome.status == 0
    shown = " ".join(re.sub(r"[│╭╮╰╯─]", " ", outcome.out).split())
    groups = groups_of_flags(script)
    flags = ["--" + name.replace("_", "-") for group in groups.values() for name in group]
    pattern = r"(?<= )(?:-h, )?(--[\w-]+)(?:, --no-[\w-]+)? (?:INT|FLOAT|STR|\{|\[|[a-zA-Z])"
    listed = [flag for flag in re.findall(pattern, shown) if flag in flags]
    assert list(dict.fromkeys(listed)) == flags
    for group in groups.values():
        for name, comment in group.items():
            assert f"{' '.join(comment.split())} (default:" in shown, name


# Headers and imports


@pytest.mark.parametrize("script", SCRIPTS)
def test_header_agrees_with_requirements(script):
    """The header's ranges include the pinned versions, and it needs no more than is pinned."""
    block = re.search(r"^# /// script\n((?:# .*\n)+?)# ///$", source_of(script), re.M)
    header = tomllib.loads(re.sub(r"^# ?", "", block[1], flags=re.M))
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = {requirement.name: requirement for requirement in map(Requirement, lines)}
    wanted = {
        requirement.name: requirement for requirement in map(Requirement, header["dependencies"])
    }
    for name, requirement in wanted.items():
        (version,) = pinned[name].specifier
        assert version.operator == "=="
        assert requirement.specifier.contains(version.version)
        assert requirement.extras <= pinned[name].extras
    # The header lists every package that the script imports, and no other one.
    names = imported(ast.parse(source_of(script)))
    assert wanted.keys() == {name for name in pinned if name in names} | {"tensorboard"}
    assert wanted["gymnasium"].extras == {"classic-control"}


def imported(tree):
    """The packages that a file imports."""
    nodes = list(ast.walk(tree))
    names = [alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("script", SCRIPTS)
def test_imports_no_sibling_and_docstring_is_short(script):
    tree = ast.parse(source_of(script))
    assert imported(tree).isdisjoint(Path(name).stem for name in SCRIPTS)
    assert len(ast.get_docstring(tree).splitlines()) <= 35


# Size


def code_lines(source, function):
    """The number of lines that hold code: neither blank, nor a comment, nor a docstring."""
    lines = set(range(function.lineno, function.end_lineno + 1))
    for node in ast.walk(function):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    texts = source.splitlines()
    return sum(not re.fullmatch(r"\s*(#.*)?", texts[line - 1]) for line in lines)


def nesting(node, depth=0):
    """The deepest nesting of for, while, if, with and try; elif does not nest."""
    deepest = depth
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                is_block = isinstance(child, ast.For | ast.While | ast.If | ast.With | ast.Try)
                is_elif = isinstance(node, ast.If) and name == "orelse" and len(value) == 1
                is_elif = is_elif and isinstance(child, ast.If)
                deepest = max(deepest, nesting(child, depth + (is_block and not is_elif)))
    return deepest


@pytest.mark.parametrize("script", SCRIPTS)
def test_functions_are_short_and_flat(script):
    source = source_of(script)
    too_long, too_deep = {}, {}
    for name, node in definitions(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            limit = 40 if name == "train" else 35
            if (lines := code_lines(source, node)) > limit:
                too_long[name] = f"{lines} lines, at most {limit}"
            if (depth := nesting(node)) > 4:
                too_deep[name] = depth
    assert (too_long, too_deep) == ({}, {})


# Copies


def test_functions_of_one_name_are_identical():
    versions = defaultdict(set)
    for script in SCRIPTS:
        source = source_of(script)
        for name, node in definitions(ast.parse(source)):
            versions[name].add(text_of(source, node))
    differing = {name: len(texts) for name, texts in versions.items() if len(texts) > 1}
    assert differing == {name: number for name, (number, _) in DIFFERENT_ON_PURPOSE.items()}


def test_plumbing_is_identical():
    """Everything below the line "Plumbing", except the functions that know the action space."""
    texts = {}
    for script in SCRIPTS:
        source = source_of(script)
        assert source.count(PLUMBING) == 1
        text = source[source.index(PLUMBING) :]
        for name, node in definitions(ast.parse(source)):
            if name in ("make_env", "make_envs", "to_env", "DomainRandomization"):
                removed = text_of(source, node)
                assert text.count(removed) == 1, name
                text = text.replace(removed, "")
        texts[script] = re.sub(r"\n{3,}", "\n\n\n", text)
    first = texts[SCRIPTS[0]]
    assert {name: text.splitlines() for name, text in texts.items()} == dict.fromkeys(
        texts, first.splitlines()
    )
    assert "class Run(" in first


def test_make_envs_only_adds_lines_to_that_of_a2c_continuous():
    lines = {}
    for script in ("a2c_continuous.py", "a2c_discrete.py", "reinforce_baseline.py"):
        nodes = dict(definitions(ast.parse(source_of(script))))
        lines[script] = text_of(source_of(script), nodes["make_envs"]).splitlines()
    for other in lines.values():
        rest = iter(other)  # `in` consumes it, so that the order counts, too
        assert [line for line in lines["a2c_continuous.py"] if line not in rest] == []


def test_nothing_refers_to_a_machine():
    """Search every text file, also in .github and .ci, but not in virtual environments or runs."""
    pending = [ROOT]
    while pending:
        for path in pending.pop().iterdir():
            if path.is_dir():
                is_other = path.name in ("runs", "__pycache__") or path.name.startswith(".")
                is_other = is_other and path.name not in (".github", ".ci")
                pending += [] if is_other or (path / "pyvenv.cfg").exists() else [path]
            elif path.suffix not in (".png", ".pyc"):
                text = path.read_text(errors="ignore")
                for word in ("/work" + "/", "/tmp" + "/v", ".." + "/shared"):
                    assert word not in text, (path, word)

"""The house: arrows point one way, the top level is what it is, every name says something."""

import ast
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = {"jaxpg": ROOT / "jaxpg", "jaxpg_envs": ROOT / "envs" / "jaxpg_envs"}
FORBIDDEN = {
    "jaxpg": {"jaxpg_envs", "envs", "experiments", "tests"},
    "jaxpg_envs": {"jaxpg", "experiments", "tests"},
}


def sources(package):
    return sorted(PACKAGES[package].rglob("*.py"))


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows_point_one_way(package):
    for path in sources(package):
        for name in imported(ast.parse(path.read_text())):
            assert name.split(".")[0] not in FORBIDDEN[package], f"{path} imports {name}"


def test_jaxpg_has_no_circle():
    modules = {}
    for path in sources("jaxpg"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = set(imported(ast.parse(path.read_text())))
    # A package that re-exports its own files is one room; circles are looked for between files.
    graph = {
        name: {target for target in targets if target in modules and target != name}
        for name, targets in modules.items()
        if not (ROOT / name.replace(".", "/")).is_dir()
    }
    done, on_path = set(), []

    def visit(name):
        assert name not in on_path, " -> ".join([*on_path[on_path.index(name) :], name])
        if name in done or name not in graph:
            return
        on_path.append(name)
        for target in graph[name]:
            visit(target)
        on_path.pop()
        done.add(name)

    for name in graph:
        visit(name)


def test_no_file_is_named_after_nothing():
    vague = {"utils", "helpers", "common", "misc", "util"}
    for package in PACKAGES:
        assert not {path.stem for path in sources(package)} & vague


def test_the_top_level_is_the_house():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    top = {path.split("/")[0] for path in tracked if not path.startswith(".")}
    assert top <= {
        "pyproject.toml",
        "jaxpg",
        "envs",
        "experiments",
        "tests",
        "notebooks",
        "README.md",
        "Makefile",
        "LICENSE",
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_a_docstring(package):
    for path in sources(package):
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
                assert ast.get_docstring(node), f"{path}: {node.name}"

"""The arrows of the house: who may import whom, read from the imports of every module."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import crowdplay_ingest
import crowdplay_lake

PACKAGES = {p.__name__: Path(p.__file__ or "").parent for p in (crowdplay_lake, crowdplay_ingest)}
MODULES = {
    ".".join([name, *path.relative_to(root).with_suffix("").parts]).removesuffix(".__init__"): path
    for name, root in PACKAGES.items()
    for path in sorted(root.rglob("*.py"))
}


def imports(module: str) -> Iterator[str]:
    """Every module that ``module`` imports, anywhere in it: absolute names, of `from` imports the names as well."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)


IMPORTS = {module: set(imports(module)) for module in MODULES}


def within(module: str, *rooms: str) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def importers(library: str) -> set[str]:
    return {module for module, found in IMPORTS.items() if any(within(name, library) for name in found)}


def test_the_modules_are_found() -> None:
    assert {"crowdplay_lake.lake", "crowdplay_lake.offline.d3rlpy", "crowdplay_ingest.machine"} <= set(MODULES)
    assert "crowdplay_lake.query" in IMPORTS["crowdplay_lake.lake"]
    assert "crowdplay_lake.errors" in IMPORTS["crowdplay_lake.cli.app"]


# Library → the only rooms that may import it. Prefixes: everything below them may, too.
ONLY_IN = {
    "pickle": ("crowdplay_ingest.recorder",),
    "cPickle": (),
    "dill": (),
    "cloudpickle": (),
    "joblib": (),
    "shelve": (),
    "marshal": (),
    "torch": ("crowdplay_lake.offline",),
    "d3rlpy": ("crowdplay_lake.offline",),
    "gym": ("crowdplay_lake.offline",),
    "gymnasium": ("crowdplay_lake.offline",),
    "minari": ("crowdplay_lake.offline.exports.minari",),
    "datasets": ("crowdplay_lake.offline.exports.huggingface",),
    "h5py": ("crowdplay_lake.offline",),
    "PIL": ("crowdplay_lake.offline.exports.huggingface", "crowdplay_lake.pictures"),
    "sqlalchemy": ("crowdplay_lake.orm",),
    "duckdb_engine": ("crowdplay_lake.orm",),
    "deltalake": ("crowdplay_lake.commit", "crowdplay_lake.delta", "crowdplay_lake.snapshot"),
    "duckdb": (
        "crowdplay_lake.query",
        "crowdplay_lake.views",
        "crowdplay_lake.lake",
        "crowdplay_lake.orm",
        "crowdplay_lake.statistics",
    ),
    "sqlite3": ("crowdplay_ingest",),
    "zipfile": ("crowdplay_ingest.source_zip", "crowdplay_lake.offline.exports.npz"),
    "aiohttp": ("crowdplay_ingest.source_remote",),
    "s3fs": (),
    "botocore": (),
    "boto3": (),
    "ale_py": ("crowdplay_ingest",),
    "multi_agent_ale_py": ("crowdplay_ingest",),
    "typer": ("crowdplay_lake.cli",),
    "av": ("crowdplay_lake.pictures.video",),
    "matplotlib": ("crowdplay_lake.offline.benchmark.results", "crowdplay_lake.pictures.charts"),
    "pandas": ("crowdplay_lake.query_result",),
    "cv2": (),
    # A forked process has another one read and write Delta's logs.
    # And the queries of web pages run in one that can be killed.
    "subprocess": ("crowdplay_lake.forked", "crowdplay_lake.web.queries"),
    "starlette": ("crowdplay_lake.web",),
    "uvicorn": ("crowdplay_lake.web",),
    "anyio": ("crowdplay_lake.web",),
}


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_imported_only_in_its_rooms(library: str) -> None:
    assert {module for module in importers(library) if not within(module, *ONLY_IN[library])} == set()


def test_the_lake_never_imports_ingest_but_in_the_command() -> None:
    allowed = ("crowdplay_lake.cli",)
    outside = {m for m in importers("crowdplay_ingest") if within(m, "crowdplay_lake") and not within(m, *allowed)}
    assert outside == set()


# What `crowdplay_ingest` may know of the lake: contracts and building blocks, nothing that reads one.
BUILDING_BLOCKS = {
    *("schema", "storage", "layout", "snapshot", "commit", "parts", "rewrite", "removal", "remote_faults"),
    *("pixels", "errors", "tagged", "keywords", "content", "games", "compiled"),
}


@pytest.mark.parametrize("module", [m for m in MODULES if within(m, "crowdplay_ingest")])
def test_ingest_imports_only_the_building_blocks_of_the_lake(module: str) -> None:
    known = {name.split(".")[1] for name in IMPORTS[module] if name.startswith("crowdplay_lake.")}
    # What is compared with the raw files comes back out of the lake.
    reads = {"findings", "replay"} if module.endswith("verify_raw") else set()
    assert known <= BUILDING_BLOCKS | reads
    assert "crowdplay_lake" not in IMPORTS[module]


@pytest.mark.parametrize("block", sorted(BUILDING_BLOCKS))
def test_building_blocks_do_not_know_who_uses_them(block: str) -> None:
    users = ("lake", "episode", "views", "query", "observations", "offline", "cli", "orm", "statistics")
    found = {n for n in IMPORTS[f"crowdplay_lake.{block}"] if within(n, *(f"crowdplay_lake.{user}" for user in users))}
    assert found == set()


def test_the_command_is_imported_by_nobody() -> None:
    assert {m for m in importers("crowdplay_lake.cli") if not within(m, "crowdplay_lake.cli")} == set()


def test_the_trainers_are_imported_only_when_asked_for() -> None:
    users = {m for m in importers("crowdplay_lake.offline") if not within(m, "crowdplay_lake.offline")}
    assert users <= {f"crowdplay_lake.cli.{name}" for name in ("caching", "exporting", "training")}


def test_the_pages_are_imported_only_when_asked_for() -> None:
    users = {m for m in importers("crowdplay_lake.web") if not within(m, "crowdplay_lake.web")}
    assert users == {"crowdplay_lake.cli.serving"}
    # What runs people's SQL has no need of a server.
    loaded = run("import sys, crowdplay_lake.web.query_process; print(*sorted(sys.modules))").split()
    assert set(loaded) & {"starlette", "uvicorn", "anyio", "typer"} == set()


@pytest.mark.parametrize("module", MODULES)
def test_no_eval_exec_or_assert(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text())
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)] == []
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert not called & {"eval", "exec", "compile", "__import__"}


@pytest.mark.parametrize("module", [m for m in MODULES if not m.endswith("__main__")])
def test_public_names_are_sorted_and_exist(module: str) -> None:
    try:
        loaded = importlib.import_module(module)
    except ImportError as error:
        pytest.skip(f"{error}")
    names = getattr(loaded, "__all__", [])
    assert all(hasattr(loaded, name) for name in names)
    assert len(set(names)) == len(names)
    # Capitals first, as ruff sorts them: constants, classes, functions.
    kinds = [(0 if n.isupper() else 1 if n[:1].isupper() else 2, n) for n in names]
    assert kinds == sorted(kinds)


def test_at_most_ten_public_names() -> None:
    assert crowdplay_lake.__all__ == sorted(crowdplay_lake.__all__)
    assert 1 <= len(crowdplay_lake.__all__) <= 10


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_what_it_is_and_is_read_in_one_sitting(module: str) -> None:
    text = MODULES[module].read_text()
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 550


HEAVY = [
    "torch", "gym", "gymnasium", "d3rlpy", "sqlalchemy", "pandas", "cv2", "ale_py", "multi_agent_ale_py",
    "crowdplay_ingest", "typer", "sqlite3", "IPython", "matplotlib", "minari", "datasets", "h5py", "PIL",
    "starlette", "uvicorn", "av",
]  # fmt: skip


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_the_lake_loads_nothing_heavy() -> None:
    loaded = run("import sys; from crowdplay_lake import Lake; print(*sorted(sys.modules))").split()
    assert "crowdplay_lake.lake" in loaded
    assert set(loaded) & {*HEAVY, "polars", "skimage", "numba"} == set()


def test_every_public_name_is_found() -> None:
    names = run("import crowdplay_lake as c; print(*[getattr(c, n).__name__ for n in c.__all__]); print(dir(c))")
    assert names.splitlines()[0].split() == crowdplay_lake.__all__
    assert all(repr(name) in names for name in crowdplay_lake.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Lakes'"):
        crowdplay_lake.Lakes  # noqa: B018


def test_importing_ingest_loads_no_game_and_no_recorder() -> None:
    loaded = run("import sys, crowdplay_ingest.pipeline; print(*sorted(sys.modules))").split()
    assert set(loaded) & {"ale_py", "multi_agent_ale_py", "crowdplay_ingest.recorder", "torch", "pandas"} == set()


def test_the_help_of_the_command_loads_none_of_what_the_commands_need() -> None:
    help_of_all = "import atexit, sys; from crowdplay_lake.cli import main; sys.argv = ['crowdplay-lake', '--help']; "
    told = run(help_of_all + "atexit.register(lambda: print(*sorted(sys.modules))); main()")
    assert "ingest" in told
    loaded = set(told.splitlines()[-1].split())
    assert "typer" in loaded
    assert loaded & {*HEAVY, "numpy", "pyarrow", "polars", "duckdb", "deltalake", "numba"} == {"typer"}


MISSING = [
    ("sqlalchemy", "import crowdplay_lake.orm", "orm"),
    (
        "duckdb_engine",
        "from crowdplay_lake.orm.session import lake_engine; lake_engine(None)",
        "orm",
    ),
    ("starlette", "import crowdplay_lake.web.server", "web"),
    ("uvicorn", "import crowdplay_lake.web.server", "web"),
    ("d3rlpy", "from crowdplay_lake.offline.d3rlpy import to_mdp_dataset; to_mdp_dataset([])", "d3rlpy"),
    ("torch", "import crowdplay_lake.offline.torch", "torch"),
    *(
        (
            library,
            f"from crowdplay_lake.offline.exports import export; export([], 'unused-v0', {to!r})",
            to,
        )
        for library, to in {"minari": "minari", "h5py": "hdf5", "datasets": "huggingface", "d3rlpy": "d3rlpy"}.items()
    ),
    (
        "d3rlpy",
        "from crowdplay_lake.offline.benchmark.algorithms import make_algorithm; "
        "make_algorithm('BC', (4, 84, 84), 4, 8, 'cpu')",
        "train",
    ),
    ("matplotlib", "from crowdplay_lake.offline.benchmark.results import require_plotting as r; r()", "train"),
    ("matplotlib", "from crowdplay_lake.pictures.charts import require_matplotlib as r; r()", "plot"),
    ("av", "from crowdplay_lake.pictures.video import require_av; require_av()", "video"),
    (
        "pandas",
        "import pyarrow as pa; from crowdplay_lake import QueryResult; QueryResult(pa.table({})).df()",
        "notebooks",
    ),
    (
        "ale_py",
        "from pathlib import Path; from crowdplay_ingest.recorder import record, sample_plan; "
        "record(Path('unused'), sample_plan(1, ['breakout']))",
        "record",
    ),
]


@pytest.mark.parametrize(("library", "use", "extra"), MISSING, ids=[library for library, *_ in MISSING])
def test_a_missing_extra_names_the_command_that_installs_it(
    library: str, use: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = (
        f"import sys; sys.modules[{library!r}] = None\n"
        "from crowdplay_lake.errors import MissingExtra\n"
        f"try:\n    exec({use!r})\nexcept MissingExtra as error:\n    print(error)"
    )
    assert f"pip install 'crowdplay-lake[{extra}]'" in run(code)

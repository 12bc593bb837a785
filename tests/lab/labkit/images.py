# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The container images of the lab, built from Debian packages without any container engine.

Each image holds what the official one holds as far as the collection uses it: the program, its paths, its entry point and its
place for configuration. Only files that are named, and the libraries these need, get in: an emulated machine has to unpack them.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import wheels
from .config import REPO
from .say import LabError

Say = Callable[[str], None]
FILES = Path(__file__).resolve().parent.parent / "images"
STANDINS = FILES.parent.parent / "standins"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Debian suites and the packages unpacked from them; their maintainer scripts are not run.
_TOOLS = ("bash", "dash", "coreutils", "libc-bin", "curl", "base-files")
_WATCHERS = ("prometheus", "prometheus-alertmanager", "prometheus-blackbox-exporter", "prometheus-node-exporter")
SUITES = {
    "trixie": (*_TOOLS, "haproxy", "docker-registry", "python3", "python3-pip", "libstdc++6", "busybox", *_WATCHERS),
    "sid": (*_TOOLS, "llama.cpp", "nginx"),
}
_COREUTILS = (
    "cat",
    "chmod",
    "cp",
    "echo",
    "env",
    "false",
    "head",
    "id",
    "ls",
    "mkdir",
    "mktemp",
    "mv",
    "printf",
    "pwd",
    "rm",
    "sleep",
    "sort",
    "stat",
    "tail",
    "touch",
    "tr",
    "true",
    "uname",
    "wc",
)
BASE = ("usr/bin/bash", "usr/bin/dash", "usr/bin/curl", *(f"usr/bin/{name}" for name in _COREUTILS))
BASE_LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64", "usr/bin/sh": "dash", "var/run": "/run"}
BASE_DIRS = {"tmp": (0o1777, 0), "root": (0o700, 0), "run": (0o755, 0), "var/tmp": (0o1777, 0), "usr/sbin": (0o755, 0)}

# Variants of the CPU backend for one family of processors each: the baseline and haswell (AVX2) serve them all.
_BACKENDS = (
    "alderlake",
    "cannonlake",
    "cascadelake",
    "cooperlake",
    "icelake",
    "ivybridge",
    "piledriver",
    "sandybridge",
    "sapphirerapids",
    "skylakex",
    "zen4",
)
_UNUSED_PYTHON = (
    "__pycache__",
    "_pyrepl",
    "curses",
    "dbm",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "sqlite3",
    "test",
    "tkinter",
    "turtledemo",
    "unittest",
    "venv",
    "multiprocessing",
    "asyncio",
    "xml",
    "xmlrpc",
    "wsgiref",
)


@dataclass(frozen=True)
class Recipe:
    """What an image is made of.

    :param paths: globs in the suite's root tree; directories count with all they hold.
    :param drop: names of files or directories left out of what the globs find.
    :param links: symbolic links, as path and target.
    :param dirs: directories, as path to mode and owner.
    :param copies: files from beside the lab, as path in the image to source.
    :param lock: the wheels of this lock lie in /wheels, where pip finds them.
    :param package: the files of this one package of the lock are in the image, in place of wheels.
    :param config: the image's configuration as container engines know it.
    """

    name: str
    tag: str
    suite: str
    paths: tuple[str, ...]
    config: dict[str, object]
    drop: tuple[str, ...] = ()
    links: dict[str, str] = field(default_factory=dict)
    dirs: dict[str, tuple[int, int]] = field(default_factory=dict)
    copies: dict[str, Path] = field(default_factory=dict)
    lock: Path | None = None
    package: str = ""


RECIPES = (
    Recipe(
        "nginx",
        # As the role's default: older ones follow no name of an upstream.
        "llm/nginx:1.30",
        "sid",
        ("usr/sbin/nginx", "etc/nginx/mime.types"),
        {
            "Entrypoint": ["/docker-entrypoint.sh"],
            "Cmd": ["nginx", "-g", "daemon off;"],
            "ExposedPorts": {"80/tcp": {}},
            "StopSignal": "SIGQUIT",
        },
        links={"var/log/nginx/access.log": "/dev/stdout", "var/log/nginx/error.log": "/dev/stderr"},
        dirs={"var/cache/nginx": (0o755, 101), "var/lib/nginx": (0o755, 101)},
    ),
    Recipe(
        "haproxy",
        "llm/haproxy:3.0",
        "trixie",
        ("usr/sbin/haproxy",),
        {
            "Entrypoint": ["docker-entrypoint.sh"],
            "Cmd": ["haproxy", "-f", "/usr/local/etc/haproxy/haproxy.cfg"],
            "User": "haproxy",
            "WorkingDir": "/var/lib/haproxy",
            "StopSignal": "SIGUSR1",
        },
        links={"usr/local/sbin/haproxy": "/usr/sbin/haproxy"},
        dirs={"var/lib/haproxy": (0o755, 99), "usr/local/etc/haproxy": (0o755, 0)},
    ),
    Recipe(
        "registry",
        "registry:2.8.3",
        "trixie",
        ("usr/bin/docker-registry",),
        {
            "Entrypoint": ["/entrypoint.sh"],
            "Cmd": ["/etc/docker/registry/config.yml"],
            "ExposedPorts": {"5000/tcp": {}},
            "Volumes": {"/var/lib/registry": {}},
        },
        links={"usr/bin/registry": "docker-registry"},
        dirs={"var/lib/registry": (0o755, 0)},
    ),
    Recipe(
        "llama-server",
        "llm/llama-server:b11669",
        "sid",
        ("usr/bin/llama-server", "usr/lib/*/ggml/backends0/libggml-cpu-*.so"),
        {
            "Entrypoint": ["/app/llama-server"],
            "Env": ["LLAMA_ARG_HOST=0.0.0.0"],
            "WorkingDir": "/app",
            "Healthcheck": {"Test": ["CMD", "curl", "-f", "http://localhost:8080/health"]},
        },
        drop=tuple(f"libggml-cpu-{family}.so" for family in _BACKENDS),
        links={"app/llama-server": "/usr/bin/llama-server"},
    ),
    Recipe(
        "ollama-standin",
        "llm/ollama-standin:0.1",
        "trixie",
        ("usr/bin/python3.[0-9]*", "usr/lib/python3.[0-9]*", "usr/bin/sha256sum"),
        {
            "Entrypoint": ["/bin/ollama"],
            "Cmd": ["serve"],
            "Env": ["OLLAMA_HOST=0.0.0.0:11434"],
            "ExposedPorts": {"11434/tcp": {}},
        },
        drop=_UNUSED_PYTHON,
        links={"usr/bin/python": "python3.13", "usr/bin/python3": "python3.13"},
        copies={"usr/bin/ollama": STANDINS / "ollama" / "ollama.py"},
    ),
)
# What the chat service stands on. The wheels are large, so these are built where they are asked for.
_LIBRARIES = tuple(
    f"usr/lib/*-linux-gnu/{name}" for name in ("libstdc++.so.6", "libgcc_s.so.1", "librt.so.1", "libdl.so.2", "libpthread.so.0")
)
_UNNEEDED = ("__pycache__", "idlelib", "test", "tkinter")
CHAT_RECIPES = (
    Recipe(
        "python",
        "llm/python:3.13",
        "trixie",
        ("usr/bin/python3.[0-9]*", "usr/lib/python3.[0-9]*", "usr/lib/python3/dist-packages/pip", *_LIBRARIES),
        {"Cmd": ["python3"], "Env": ["PIP_NO_INDEX=1", "PIP_FIND_LINKS=/wheels", "LANG=C.UTF-8"]},
        drop=("EXTERNALLY-MANAGED", *_UNNEEDED),
        links={"usr/bin/python": "python3.13", "usr/bin/python3": "python3.13"},
        # Debian's pip does not start without; nothing is fetched with it.
        copies={"etc/ssl/certs/ca-certificates.crt": Path("/etc/ssl/certs/ca-certificates.crt")},
        lock=REPO / "roles" / "llm_services" / "files" / "chat" / "requirements.txt",
    ),
    Recipe(
        "chroma",
        "llm/chroma:1.5.9",
        "trixie",
        ("usr/bin/python3.[0-9]*", "usr/lib/python3.[0-9]*", *_LIBRARIES),
        {
            "Entrypoint": ["/usr/local/bin/chroma"],
            "Cmd": ["run", "--path", "/data", "--host", "0.0.0.0", "--port", "8000"],
            "ExposedPorts": {"8000/tcp": {}},
        },
        drop=_UNNEEDED,
        links={"usr/bin/python": "python3.13", "usr/bin/python3": "python3.13"},
        lock=REPO / "requirements" / "chroma.txt",
        package="chromadb",
    ),
)


def _watcher(name: str, tag: str, program: str, *paths: str, **more: object) -> Recipe:
    """An image of a program of Prometheus' family, whose official one has busybox beside it.

    :param program: its name in the official image; Debian's has a prefix.
    :param paths: what it needs besides.
    """
    package = f"prometheus-{name}" if name != "prometheus" else name
    return Recipe(
        name,
        tag,
        "trixie",
        (f"usr/bin/{package}", "usr/bin/busybox", *paths),
        {"Entrypoint": [f"/bin/{program}"], "User": "65534", **more},
        links={"usr/bin/wget": "busybox", **({} if package == program else {f"usr/bin/{program}": package})},
    )


def _python(name: str, tag: str, standin: str = "", *, beside: str = "", **more: object) -> Recipe:
    """An image of Python with nothing but its own library; with a stand-in as its program, and what that imports, or without one."""
    return Recipe(
        name,
        tag,
        "trixie",
        ("usr/bin/python3.[0-9]*", "usr/lib/python3.[0-9]*", "usr/bin/busybox"),
        {"Entrypoint": ["/usr/bin/python3", "/standin.py"], **more} if standin else {"Cmd": ["python3"], **more},
        drop=tuple(part for part in _UNUSED_PYTHON if part != "sqlite3"),
        links={"usr/bin/python": "python3.13", "usr/bin/python3": "python3.13", "usr/bin/wget": "busybox"},
        copies={place: STANDINS / source for place, source in (("standin.py", standin), (beside, beside)) if source},
    )


# What the monitoring runs. Grafana, Loki, Alloy, cAdvisor and the GPU exporter are in no package of Debian's: stand-ins take their place.
MONITORING_RECIPES = (
    _watcher("prometheus", "llm/prometheus:2.53", "prometheus", WorkingDir="/prometheus"),
    _watcher(
        "alertmanager", "llm/alertmanager:0.28", "alertmanager", "usr/share/prometheus/alertmanager/*.tmpl", WorkingDir="/alertmanager"
    ),
    _watcher("blackbox-exporter", "llm/blackbox-exporter:0.26", "blackbox_exporter"),
    _watcher("node-exporter", "llm/node-exporter:1.9", "node_exporter"),
    _python("grafana-standin", "llm/grafana-standin:0.1", "grafana.py", User="472"),
    _python("cadvisor-standin", "llm/cadvisor-standin:0.1", "cadvisor.py", beside="exposition.py"),
    _python("gpu-exporter-standin", "llm/gpu-exporter-standin:0.1", "gpu_exporter.py", beside="exposition.py"),
    _python("logs-standin", "llm/logs-standin:0.1", "logs.py"),
    _python("python-plain", "llm/python-plain:3.13"),
)


@dataclass(frozen=True)
class Entry:
    """One thing of a layer: a directory, a link or a file, with content or taken from ``source``."""

    kind: bytes
    mode: int
    owner: int = 0
    target: str = ""
    source: Path | None = None


Entries = dict[str, Entry]


def build_images(cache: Path, *, say: Say, recipes: Sequence[Recipe] = RECIPES) -> dict[str, Path]:
    """Return the archive of every image, in ``docker load``'s format, building those that are missing.

    :param cache: a directory that is kept; archives are named by a hash of all that decides their content.
    :raises LabError: when a package tree cannot be made.
    """
    archives = {recipe.name: cache / "images" / f"{recipe.name}-{_key(recipe)}.tar" for recipe in recipes}
    for suite in SUITES:
        wanted = [recipe for recipe in recipes if recipe.suite == suite and not archives[recipe.name].exists()]
        if wanted:
            _build_suite(suite, wanted, archives, say)
    return archives


def tags() -> dict[str, str]:
    """The name and tag every image carries in its archive."""
    return {recipe.name: recipe.tag for recipe in (*RECIPES, *CHAT_RECIPES, *MONITORING_RECIPES)}


def _build_suite(suite: str, recipes: Sequence[Recipe], archives: dict[str, Path], say: Say) -> None:
    directory = archives[recipes[0].name].parent
    directory.mkdir(parents=True, exist_ok=True)
    tree = directory / f"tree-{suite}-{os.getpid()}"
    names = ", ".join(recipe.name for recipe in recipes)
    say(f"building the container images {names} from Debian {suite} (about half a minute) ...")
    begin = time.monotonic()
    try:
        _unpack(suite, tree, directory / f"build-{suite}.log")
        base = _base(tree)
        for recipe in recipes:
            size = _pack(recipe, tree, base, archives[recipe.name])
            say(f"image {recipe.tag}: {size / 1e6:.0f} MB")
    finally:
        shutil.rmtree(tree, ignore_errors=True)
    say(f"building the container images {names}: done in {time.monotonic() - begin:.1f} s")


def _key(recipe: Recipe) -> str:
    """A hash of all that decides the image's content, but for the packages' versions."""
    digest = hashlib.sha256(f"{os.uname().machine} {recipe.name}".encode())
    sources = [Path(__file__), *_overlay("base").values(), *_overlay(recipe.name).values(), *recipe.copies.values()]
    for path in sources:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    if recipe.lock:
        digest.update(wheels.key(recipe.lock, recipe.package).encode())
    return digest.hexdigest()[:12]


def _unpack(suite: str, tree: Path, log: Path) -> None:
    """Unpack the suite's packages; nothing is configured or run."""
    argv = ["mmdebstrap", "--variant=extract", f"--include={','.join(SUITES[suite])}"]
    argv += ['--aptopt=APT::Install-Recommends "false"', '--aptopt=Acquire::Check-Valid-Until "false"']
    if shutil.which(argv[0]) is None:
        raise LabError("mmdebstrap is not installed, and container images are built with it: apt-get install mmdebstrap")
    with log.open("wb") as sink:
        ended = subprocess.run([*argv, suite, str(tree)], stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, check=False)
    if ended.returncode:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
        raise LabError(f"mmdebstrap could not unpack Debian {suite} for the container images; the end of {log}:\n{last}")
    for name in ("bin", "sbin", "lib", "lib64"):
        if not (tree / name).exists() and (tree / "usr" / name).exists():
            (tree / name).symlink_to(f"usr/{name}")


def _base(tree: Path) -> Entries:
    """The layer all images of a suite share: a shell, a few tools, curl, accounts."""
    entries = _found(tree, BASE, drop=())
    entries.update(_made(BASE_LINKS, BASE_DIRS))
    entries.update(_copied(_overlay("base")))
    return entries


def _packages(recipe: Recipe, cache: Path) -> dict[str, Path]:
    """The wheels of the recipe's lock, or the files of its package."""
    if recipe.lock is None:
        return {}
    if not recipe.package:
        return {f"wheels/{wheel.name}": wheel for wheel in wheels.fetched(cache, recipe.lock).iterdir()}
    top = wheels.unpacked(cache, recipe.lock, recipe.package)
    return {f"usr/lib/python3/dist-packages/{path.relative_to(top)}": path for path in top.rglob("*") if path.is_file()}


def _application(recipe: Recipe, tree: Path, base: Entries, cache: Path) -> Entries:
    """The layer of one image: what it needs and the base does not hold."""
    entries = _found(tree, recipe.paths, drop=recipe.drop)
    entries.update(_made(recipe.links, recipe.dirs))
    entries.update(_copied({**_overlay(recipe.name), **recipe.copies, **_packages(recipe, cache)}))
    return {path: entry for path, entry in entries.items() if path not in base}


def _overlay(name: str) -> dict[str, Path]:
    top = FILES / name
    return {str(path.relative_to(top)): path for path in sorted(top.rglob("*")) if path.is_file()}


def _found(tree: Path, globs: Iterable[str], *, drop: Sequence[str]) -> Entries:
    """Entries for what the globs find, and for the libraries these files are linked to."""
    chosen: set[str] = set()
    for pattern in globs:
        matches = [path for path in tree.glob(pattern) if not set(path.parts) & set(drop)]
        if not matches:
            raise LabError(f"Debian's packages hold no {pattern}; an image is made of it: see {__file__}")
        for match in matches:
            inside = sorted(match.rglob("*")) if match.is_dir() and not match.is_symlink() else [match]
            chosen.update(str(path.relative_to(tree)) for path in inside if not set(path.parts) & set(drop))
    chosen |= _libraries(tree, sorted(chosen))
    entries: Entries = {}
    for path in chosen:
        entries.update(_taken(tree, path))
    return entries


def _taken(tree: Path, path: str) -> Entries:
    """The entry for a path of the tree and, for a link, for what it leads to inside the tree."""
    full = tree / path
    if full.is_symlink():
        target = os.readlink(full)
        entries = {path: Entry(tarfile.SYMTYPE, 0o777, target=target)}
        inside = os.path.normpath(Path("/", path).parent / target).lstrip("/")
        if (tree / inside).is_file() or (tree / inside).is_symlink():
            entries.update(_taken(tree, inside))
        return entries
    if full.is_dir():
        return {path: Entry(tarfile.DIRTYPE, 0o755)}
    return {path: Entry(tarfile.REGTYPE, full.stat().st_mode & 0o7777, source=full)}


def _libraries(tree: Path, paths: Sequence[str]) -> set[str]:
    """Paths of the shared libraries the ELF files among ``paths`` are linked to, as the tree's own loader finds them."""
    programs = [f"/{path}" for path in paths if _is_elf(tree / path)]
    if not programs:
        return set()
    ended = subprocess.run(
        ["chroot", str(tree), "/usr/bin/bash", "/usr/bin/ldd", *programs],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": PATH, "LC_ALL": "C"},
    )
    missing = sorted({line.split()[0] for line in ended.stdout.splitlines() if line.endswith("not found")})
    if missing or not ended.stdout:
        raise LabError(f"libraries of the container images are missing: {', '.join(missing) or ended.stderr.strip()}")
    words = (word for line in ended.stdout.splitlines() if line.startswith("\t") for word in line.split())
    return {_real_directory(tree, word.lstrip("/")) for word in words if word.startswith("/")}


def _is_elf(path: Path) -> bool:
    if path.is_symlink() and not path.exists():
        return False
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _real_directory(tree: Path, path: str) -> str:
    """The path with its directory's links resolved: /lib is a link to /usr/lib."""
    directory = (tree / path).parent.resolve()
    return str(directory.relative_to(tree.resolve()) / Path(path).name)


def _made(links: dict[str, str], dirs: dict[str, tuple[int, int]]) -> Entries:
    entries = {path: Entry(tarfile.SYMTYPE, 0o777, target=target) for path, target in links.items()}
    entries.update({path: Entry(tarfile.DIRTYPE, mode, owner) for path, (mode, owner) in dirs.items()})
    return entries


def _copied(files: dict[str, Path]) -> Entries:
    modes = {path: 0o755 if os.access(source, os.X_OK) else 0o644 for path, source in files.items()}
    return {path: Entry(tarfile.REGTYPE, modes[path], source=source) for path, source in files.items()}


def _layer(entries: Entries) -> bytes:
    """A layer's tar: sorted, undated, owned by number; the same entries give the same bytes."""
    whole = dict(entries)
    for path in entries:
        for parent in list(Path(path).parents)[:-1]:
            whole.setdefault(str(parent), Entry(tarfile.DIRTYPE, 0o755))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(whole):
            entry = whole[path]
            info = tarfile.TarInfo(path)
            info.type, info.mode, info.linkname = entry.kind, entry.mode, entry.target
            info.uid = info.gid = entry.owner
            content = entry.source.read_bytes() if entry.source else b""
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _pack(recipe: Recipe, tree: Path, base: Entries, archive: Path) -> int:
    """Write the archive and return its size; it appears under its name only when it is whole."""
    layers = [_layer(base), _layer(_application(recipe, tree, base, archive.parent.parent))]
    digests = [hashlib.sha256(layer).hexdigest() for layer in layers]
    config = json.dumps(_config(recipe, digests), sort_keys=True).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    parts = {f"{digest}.tar": layer for digest, layer in zip(digests, layers)}
    manifest = [{"Config": name, "RepoTags": [recipe.tag], "Layers": list(parts)}]
    parts[name] = config
    parts["manifest.json"] = json.dumps(manifest, sort_keys=True).encode()
    part = archive.with_suffix(f".{os.getpid()}.part")
    with tarfile.open(part, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path, content in sorted(parts.items()):
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(content), 0o644
            tar.addfile(info, io.BytesIO(content))
    part.replace(archive)
    return archive.stat().st_size


def _config(recipe: Recipe, digests: Sequence[str]) -> dict[str, object]:
    """The image's configuration: undated, so that the same content is the same image."""
    ours = dict(recipe.config)
    extra = ours.pop("Env", [])
    assert isinstance(extra, list)
    architectures = {"x86_64": "amd64", "aarch64": "arm64"}
    machine = os.uname().machine
    return {
        "architecture": architectures.get(machine, machine),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {**ours, "Env": [f"PATH={PATH}", *extra]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
        "history": [{"created_by": "base"}, {"created_by": recipe.name}],
    }


def main() -> int:
    """Build what is missing and print a line for each image: name, tag, archive."""
    parser = argparse.ArgumentParser(prog="python -m labkit.images", description="Build the lab's container images.")
    parser.add_argument("cache", type=Path, help="directory in which archives are kept")
    try:
        archives = build_images(parser.parse_args().cache, say=lambda text: print(f"lab: {text}", file=sys.stderr, flush=True))
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    for name, archive in archives.items():
        print(name, tags()[name], archive, sep="\t")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures the chain edge, balancer, engines inside the network that edge.py made, and prints JSON.

The engines are Ollama's stand-in, each in a namespace of its own; nginx and HAProxy are real and configured as the role does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import re
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "unit" / "llm_services"), str(HERE.parent / "tools")]

from loopback import KEY, OLLAMA, edge_files, program, until_open  # noqa: E402 - importable after the line above
from ports import free_port  # noqa: E402
from services import render  # noqa: E402

LOSSES, REQUESTS, EXPOSED = 30, 3000, 8
# Requests a second on each way, and the seconds an engine is away.
RATE, AWAY_S = 8.0, 5.0
# From one loss to the next: a request that was lost has time to be noticed (4 s) and to wait for its first token (20 s) elsewhere.
# Where engines vanish faster than they answer, nothing can be promised.
PACE_S = 25.0
# A client that waits longer than this for its first token has given up.
PATIENCE_S = 90.0
ENGINES = ("10.89.0.11", "10.89.0.12", "10.89.0.13")
SLOTS = 64
# What the peer is: nginx as most people have it, with the timeouts in question.
PEER = """
user root; worker_processes 1; pid {place}/peer.pid; error_log {place}/peer-error.log; daemon off;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {place}/peer-body; proxy_temp_path {place}/peer-proxy; client_max_body_size 32m;
  upstream engines {{ least_conn; {servers} }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      proxy_connect_timeout 10s; proxy_read_timeout 600s; proxy_send_timeout 600s;
    }}
  }}
}}
"""
# Answers at once and always the same, so that what is before it is measured.
INSTANT = """
worker_processes 1; pid {place}/{name}.pid; error_log {place}/{name}.log; daemon off;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {place}/{name}-body; default_type application/json; keepalive_requests 1000000;
  server {{
    listen {address}:11434;
    location / {{ return 200 '{{"object": "chat.completion", "choices": [{{"index": 0, "message": {{"content": "yes"}}}}]}}'; }}
  }}
}}
"""
BARE = """
global
  log stdout format raw local0 err
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend bare
  bind 127.0.0.1:{port} ssl crt {place}/both.pem
  default_backend engines
backend engines
  balance leastconn
{servers}
"""


class World:
    """The processes of a measurement, ended by their own ids."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.started: list[subprocess.Popen[bytes]] = []
        self.engines: dict[int, subprocess.Popen[bytes]] = {}
        self.port, self.peer, self.balancer, self.metrics = free_port(), free_port(), free_port(), free_port()
        # When the balancer last said of an engine that it is up or down.
        self.said: dict[str, float] = {}

    def start(self, argv: list[str], **more: Any) -> subprocess.Popen[bytes]:
        """Start a program that is ended with the rest."""
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, **more)
        self.started.append(process)
        return process

    def engine(self, number: int, **settings: str) -> None:
        """Start Ollama's stand-in in the engine's namespace."""
        store = self.place / f"store{number}"
        manifest = store / "manifests/registry.ollama.ai/library/tiny/latest"
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_text('{"layers": []}')
        values = {"OLLAMA_HOST": f"{ENGINES[number]}:11434", "OLLAMA_MODELS": str(store), "OLLAMA_NUM_PARALLEL": str(SLOTS), **settings}
        argv = [*self.inside(number), "env", *(f"{name}={value}" for name, value in values.items()), sys.executable, str(OLLAMA), "serve"]
        with (self.place / f"engine{number}.log").open("ab") as sink:
            self.engines[number] = self.start(argv, stdout=sink)

    def preload(self, number: int) -> None:
        """Have an engine load its model, as the role's start script does."""
        load = urllib.request.Request(f"http://{ENGINES[number]}:11434/api/generate", json.dumps({"model": "tiny"}).encode())
        for _attempt in range(200):
            with contextlib.suppress(OSError), urllib.request.urlopen(load, timeout=2):
                return
            time.sleep(0.1)
        raise SystemExit(f"engine {number + 1} does not load its model")

    def instant(self, number: int) -> None:
        """Start an engine that answers at once."""
        path = self.place / f"instant{number}.conf"
        path.write_text(INSTANT.format(place=self.place, name=f"instant{number}", address=ENGINES[number]))
        self.start([*self.inside(number), program("nginx", "nginx-light"), "-c", str(path)], stdout=subprocess.DEVNULL)

    def inside(self, number: int) -> list[str]:
        """The command prefix for an engine's namespace."""
        return ["ip", "netns", "exec", f"{hub()}-e{number + 1}"]

    def chain(self) -> None:
        """Edge and balancer as the role has them."""
        keys = free_port()
        ports = {"balancer": self.balancer, "metrics": self.metrics, "keys": keys}
        (self.place / "edge_keys").write_text(render("edge-keys.map.j2"))
        servers = [f"{address}:11434" for address in ENGINES]
        text = render(
            "haproxy.cfg.j2",
            __llm_services_servers=servers,
            llm_services_parallel=SLOTS,
            **{f"__llm_services_{name}_port": port for name, port in ports.items()},
        )
        path = self.place / "haproxy.cfg"
        path.write_text(text.replace("bind :", "bind 127.0.0.1:").replace("/run/secrets", str(self.place)))
        balancer = self.start([program("haproxy", "haproxy"), "-W", "-db", "-f", str(path)], stdout=subprocess.PIPE)
        threading.Thread(target=self._listen, args=(balancer,), daemon=True).start()
        edge = edge_files(self.place, self.port, 0, f"127.0.0.1:{self.balancer}", {"__llm_services_keys_server": f"127.0.0.1:{keys}"})
        # As the role has it.
        edge.write_text(edge.read_text().replace("worker_processes 1", "worker_processes 4"))
        self.start([program("nginx", "nginx-light"), "-e", "stderr", "-c", str(edge), "-g", "daemon off;"], stdout=subprocess.DEVNULL)
        until_open(self.port, self.started[-1], self.place / "error.log")

    def _listen(self, balancer: subprocess.Popen[bytes]) -> None:
        for line in balancer.stdout or ():
            # An engine is UP when its checks pass, and once more, without a reason, when it has its full share of the work.
            found = re.search(rb"Server engines/(engine\d) is (UP\.|UP|DOWN)", line)
            if found:
                self.said[f"{found[1].decode()} {found[2].decode().replace('UP.', 'WHOLE')}"] = time.monotonic()

    def forget(self, number: int) -> None:
        """Forget what the balancer said of an engine."""
        for state in ("UP", "DOWN", "WHOLE"):
            self.said.pop(f"engine{number + 1} {state}", None)

    def out(self, number: int) -> bool:
        """Whether the balancer has left an engine out and not taken it back."""
        down, up = (self.said.get(f"engine{number + 1} {state}", 0.0) for state in ("DOWN", "UP"))
        return down > up

    def until_said(self, number: int, state: str, seconds: float) -> float:
        """Wait until the balancer says it of an engine; when it did."""
        name, end = f"engine{number + 1} {state}", time.monotonic() + seconds
        while name not in self.said:
            if time.monotonic() > end:
                raise SystemExit(f"the balancer did not say within {seconds:.0f} s that {name}")
            time.sleep(0.005)
        return self.said[name]

    def until_up(self) -> None:
        """Wait until the balancer sees all engines."""
        for _attempt in range(600):
            if _up(_get(f"http://127.0.0.1:{self.metrics}/metrics")) == len(ENGINES):
                return
            time.sleep(0.1)
        raise SystemExit("the balancer does not see all engines")

    def context(self) -> ssl.SSLContext:
        """Trusts the edge's certificate."""
        return ssl.create_default_context(cafile=str(self.place / "tls.crt"))

    def end(self) -> None:
        """End what was started, in the opposite order."""
        for process in reversed(self.started):
            if process.poll() is None:
                process.terminate()
        for process in self.started:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def hub() -> str:
    """The namespace this program runs in."""
    return subprocess.run(["ip", "netns", "identify"], capture_output=True, text=True, check=True).stdout.strip()


def _get(url: str) -> str:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
        text: str = answer.read().decode()
        return text
    return ""


def _up(metrics: str) -> int:
    return len(re.findall(r'^haproxy_server_status\{proxy="engines",server="engine\d+",state="UP"\} 1$', metrics, re.MULTILINE))


def body(size: int, **standin: Any) -> bytes:
    """A streaming question of about that many bytes, and how the stand-in is to answer it."""
    question = {"model": "tiny", "stream": True, "messages": [{"role": "user", "content": "x" * size}]}
    return json.dumps({**question, "standin": {"tokens": 1, **standin}}).encode()


class Client:
    """One client of one way; keeps its connection where it may."""

    def __init__(self, port: int, context: ssl.SSLContext | None, address: str = "127.0.0.1") -> None:
        self.where = {"host": address, "port": port, "ssl": context, "server_hostname": "localhost" if context else None}
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, content: bytes) -> float:
        """Send a question, return the seconds until the first byte of its answer, and read it to its end.

        :raises OSError: also when the answer is not 200 or holds no token.
        """
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(**self.where)  # type: ignore[arg-type]
        assert self.reader is not None
        head = f"Host: localhost\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
        begin = time.monotonic()
        self.writer.write(f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n\r\n".encode() + content)
        answer = await self.reader.read(65536)
        first = time.monotonic() - begin
        while answer.startswith(b"HTTP/1.1 200") and not (b"token1" in answer and answer.endswith(b"0\r\n\r\n")):
            more = await self.reader.read(65536)
            if not more:
                break
            answer += more
        if b"token1" not in answer:
            raise OSError(answer.decode(errors="replace").partition("\r\n")[0] or "the connection was closed without an answer")
        if b"Connection: close" in answer:
            self.close()
        return first

    def close(self) -> None:
        """Leave."""
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


class Way:
    """What became of the requests on one way to the engines."""

    def __init__(self, port: int, context: ssl.SSLContext | None) -> None:
        self.port, self.context = port, context
        self.requests, self.exposed, self.slowest = 0, 0, 0.0
        self.reasons: Counter[str] = Counter()

    async def one(self, content: bytes) -> None:
        """One request on a connection of its own."""
        client, begin = Client(self.port, self.context), time.monotonic()
        self.requests += 1
        try:
            await asyncio.wait_for(client.ask(content), PATIENCE_S)
            self.slowest = max(self.slowest, time.monotonic() - begin)
        except asyncio.TimeoutError:
            self.reasons[f"no first token within {PATIENCE_S:.0f} s"] += 1
        except OSError as error:
            self.reasons[str(error) or repr(error)] += 1
        finally:
            client.close()

    def summary(self) -> dict[str, Any]:
        """As it is printed."""
        failed = sum(self.reasons.values())
        return {
            "requests": self.requests,
            "exposed": self.exposed,
            "failed": failed,
            "slowest": self.slowest,
            "reasons": dict(self.reasons),
        }


class Losses:
    """Engines vanish one after another while clients ask through edge and peer alike."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ways = {"edge": Way(world.port, world.context()), "peer": Way(world.peer, None)}
        self.exclusions: list[float] = []
        self.exposed: list[int] = []
        self.over = threading.Event()
        self.dice = random.Random(5)

    async def ask(self) -> None:
        """Keep asking at a steady rate, on both ways the same, until all losses have been."""
        tasks: set[asyncio.Task[None]] = set()
        moment = time.monotonic()
        while not self.over.is_set() or self.ways["edge"].requests < REQUESTS:
            # First tokens after 0.2 to 20 s, bodies of up to 100 KB, each magnitude as often as the others.
            first, size = (
                math.exp(self.dice.uniform(math.log(0.2), math.log(20))),
                math.exp(self.dice.uniform(math.log(200), math.log(99_000))),
            )
            for via, way in self.ways.items():
                task = asyncio.create_task(way.one(body(int(size), first_token_s=first, via=via)))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            moment += 1 / RATE
            await asyncio.sleep(max(0.0, moment - time.monotonic()))
        await asyncio.gather(*tasks)

    def cut(self, number: int) -> None:
        """Let an engine vanish without a word, with all its connections, and come back as a new one."""
        world = self.world
        waiting = self._until_exposed(number)
        world.forget(number)
        begin = time.monotonic()
        subprocess.run(["ip", "link", "set", f"e{number + 1}", "down"], check=True)
        self.exclusions.append(world.until_said(number, "DOWN", 20) - begin)
        self.exposed.append(waiting["edge"])
        for via, way in self.ways.items():
            way.exposed += waiting.get(via, 0)
        # Its connections are gone with it, and its last words do not arrive.
        world.engines[number].kill()
        world.engines[number].wait()
        world.engine(number)
        time.sleep(max(0.0, begin + AWAY_S - time.monotonic()))
        subprocess.run(["ip", "link", "set", f"e{number + 1}", "up"], check=True)
        world.preload(number)
        world.until_said(number, "WHOLE", 60)

    def _until_exposed(self, number: int) -> dict[str, int]:
        """Wait until enough requests of ours wait on this engine, and the balancer sees it; how many of each way."""
        for _attempt in range(1200):
            with contextlib.suppress(ValueError):
                waits = json.loads(_get(f"http://{ENGINES[number]}:11434/standin/waiting"))
                counts = {via: sum(seconds >= 0.2 for seconds in waits.get(via, [])) for via in self.ways}
                if counts["edge"] >= EXPOSED and not self.world.out(number):
                    return counts
            time.sleep(0.05)
        raise SystemExit(f"not {EXPOSED} requests waited on engine {number + 1} within a minute")

    def run(self) -> dict[str, Any]:
        """All of it."""
        client = threading.Thread(target=lambda: asyncio.run(self.ask()), daemon=True)
        client.start()
        begin = time.monotonic()
        for loss in range(LOSSES):
            time.sleep(max(0.0, begin + loss * PACE_S - time.monotonic()))
            self.cut(loss % len(ENGINES))
            print(f"bench: loss {loss + 1} of {LOSSES}: {self.exposed[-1]} exposed, out after {self.exclusions[-1]:.2f} s", file=sys.stderr)
        self.over.set()
        client.join(timeout=PATIENCE_S + 600)
        ways = {name: way.summary() for name, way in self.ways.items()}
        return {"losses": LOSSES, "exclusion_s": self.exclusions, "least_exposed": min(self.exposed), **ways}


def losses(world: World) -> dict[str, Any]:
    """Silent losses, with the peer on the same engines at the same time."""
    for number in range(len(ENGINES)):
        world.engine(number)
    world.chain()
    path = world.place / "peer.conf"
    servers = " ".join(f"server {address}:11434;" for address in ENGINES)
    path.write_text(PEER.format(place=world.place, servers=servers, port=world.peer))
    world.start([program("nginx", "nginx-light"), "-c", str(path)], stdout=subprocess.DEVNULL)
    for number in range(len(ENGINES)):
        world.preload(number)
    world.until_up()
    return Losses(world).run()


def overhead(world: World) -> dict[str, Any]:
    """Seconds to the first byte, through the chain and without it, in turn and on kept connections."""
    for number in range(len(ENGINES)):
        world.engine(number, STANDIN_FIRST_TOKEN_S="0.2")
    world.chain()
    for number in range(len(ENGINES)):
        world.preload(number)
    world.until_up()
    seconds: dict[str, list[float]] = {"edge": [], "direct": []}
    sizes = [200, 1000, 4000, 20_000, 99_000]

    async def client(own: int) -> None:
        ways = {"edge": Client(world.port, world.context()), "direct": Client(11434, None, ENGINES[own % len(ENGINES)])}
        for number in range(REQUESTS // clients):
            for name, way in ways.items():
                seconds[name].append(await way.ask(body(sizes[number % len(sizes)])))
        for way in ways.values():
            way.close()

    clients = 6

    async def all_of_them() -> None:
        await asyncio.gather(*(client(own) for own in range(clients)))

    asyncio.run(all_of_them())
    return seconds


def rps(world: World) -> dict[str, Any]:
    """Answers a second for ten seconds, in turn, three times; at least one was asked for each."""
    for number in range(len(ENGINES)):
        world.instant(number)
    world.chain()
    world.until_up()
    (world.place / "both.pem").write_text((world.place / "tls.crt").read_text() + (world.place / "edge_tls_key").read_text())
    servers = "\n".join(f"  server engine{number} {address}:11434" for number, address in enumerate(ENGINES))
    path = world.place / "bare.cfg"
    path.write_text(BARE.format(place=world.place, servers=servers, port=world.peer))
    world.start([program("haproxy", "haproxy"), "-db", "-f", str(path)], stdout=subprocess.DEVNULL)
    until_open(world.peer, world.started[-1], path)
    script = world.place / "ask.lua"
    content = body(1000).decode()
    script.write_text(f'wrk.method = "POST"\nwrk.body = [[{content}]]\nwrk.headers["Authorization"] = "Bearer {KEY}"\n')
    found: dict[str, Any] = {"edge": [], "peer": [], "requests": 0}
    for _pair in range(3):
        for name, port in (("edge", world.port), ("peer", world.peer)):
            rate, count = _wrk(script, port)
            found[name].append(rate)
            found["requests"] += count if name == "edge" else 0
    return found


def _wrk(script: Path, port: int) -> tuple[float, int]:
    """Answers a second, and how many there were; anything but 200 ends the measurement."""
    argv = [program("wrk", "wrk"), "-t1", "-c32", "-d10s", "-s", str(script), f"https://127.0.0.1:{port}/v1/chat/completions"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"wrk on port {port} saw errors: {said}")
    rate, count = re.search(r"Requests/sec:\s+([\d.]+)", said), re.search(r"(\d+) requests in", said)
    assert rate
    assert count
    return float(rate[1]), int(count[1])


def main(argv: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="llm-edge-") as place:
        world = World(Path(place))
        try:
            print(json.dumps({"losses": losses, "overhead": overhead, "rps": rps}[argv[0]](world)))
        finally:
            world.end()


if __name__ == "__main__":
    main(sys.argv[1:])

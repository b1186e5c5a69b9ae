"""Machines of a cluster as this one can have them, by Linux's namespaces: each has a network address, and memory that it shares, of its own."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from tests.conftest import ROOT
from tests.scale.conftest import title_of

# Of those for private use, one that few have.
_NET = "10.213.47"
_PORT = 6379
# In what each has for itself Ray keeps its sockets, and the objects that it hands around on one machine.
_APART = 'mkdir -p /tmp/ray && mount -t tmpfs none /tmp/ray && mount -t tmpfs none /dev/shm && exec "$@"'


class Machine:
    """One that has joined the cluster. `address`: where the others, and this process, find it."""

    def __init__(self, name: str, address: str, plug: tuple[str, str], process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.address = address
        self._switch, self._port = plug
        self._process = process

    @property
    def inside(self) -> list[str]:
        """The beginning of a command that is to be run there."""
        return ["nsenter", f"--target={self._process.pid}", "--net", "--mount", f"--wd={ROOT}"]

    def processes(self) -> list[psutil.Process]:
        found = []
        for pid in _ip("netns", "pids", self.name).split():
            with suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(pid)))
        return found

    def runs(self, title: str) -> bool:
        """Whether one of its processes has that in its title."""
        return any(title in title_of(each) for each in self.processes())

    @contextmanager
    def held(self, title: str) -> Iterator[None]:
        """Whatever has that in its title takes requests, and gets no further with them."""
        processes = [each for each in self.processes() if title in title_of(each)]
        for each in processes:
            each.suspend()
        yield
        for each in processes:
            with suppress(psutil.NoSuchProcess):
                each.resume()

    def switch_off(self) -> None:
        """All its processes are gone, and whoever talks to them is told."""
        while found := self.processes():
            for each in found:
                with suppress(psutil.NoSuchProcess):
                    each.send_signal(signal.SIGKILL)
            self._process.wait()

    def unplug(self) -> None:
        """Nothing reaches it any more, and nobody is told."""
        _ip("-n", self._switch, "link", "set", self._port, "down")

    def plug_in(self) -> None:
        _ip("-n", self._switch, "link", "set", self._port, "up")


class Cluster:
    """Machines on one network; the first that joins is Ray's head. `variables`: the environment of what is run there."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder
        self._name = f"marey{secrets.token_hex(2)}"
        self._joined = 0
        secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.variables = {"RAY_ADDRESS": f"{_NET}.1:{_PORT}", "RAY_USAGE_STATS_ENABLED": "0", **secret}
        # The switch is a namespace too: rules of this machine, on what may pass, must not hold there.
        self._space(self._name)
        _ip("-n", self._name, "link", "add", "bridge", "up", "type", "bridge")
        _ip("link", "add", self._name, "type", "veth", "peer", "name", "p0", "netns", self._name)
        _ip("-n", self._name, "link", "set", "p0", "master", "bridge", "up")
        _ip("addr", "add", f"{_NET}.254/24", "dev", self._name)
        _ip("link", "set", self._name, "up")

    def join(self, *, cores: int) -> Machine:
        """Another machine, with so many cores to hand out."""
        self._joined += 1
        name, port, address = f"{self._name}-{self._joined}", f"p{self._joined}", f"{_NET}.{self._joined}"
        self._space(name)
        _ip("-n", self._name, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("-n", self._name, "link", "set", port, "master", "bridge", "up")
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", name, "link", "set", device, "up")
        where = [f"--address={_NET}.1:{_PORT}"] if self._joined > 1 else ["--head", f"--port={_PORT}"]
        ray = [Path(sys.executable).with_name("ray"), "start", *where, f"--node-ip-address={address}"]
        ray += [f"--num-cpus={cores}", "--block"]
        log = self._stack.enter_context((self._folder / f"{name}.log").open("wb"))
        process = subprocess.Popen(
            ["ip", "netns", "exec", name, "unshare", "--mount", "sh", "-c", _APART, "sh", *ray],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **self.variables, "PYTHONPATH": str(ROOT)},
        )
        machine = Machine(name, address, (self._name, port), process)
        self._stack.callback(machine.switch_off)
        until = time.monotonic() + 60
        while not machine.runs("raylet/raylet"):
            assert process.poll() is None, Path(log.name).read_text()
            assert time.monotonic() < until, Path(log.name).read_text()
            time.sleep(0.1)
        return machine

    def _space(self, name: str) -> None:
        _ip("netns", "add", name)
        self._stack.callback(_ip, "netns", "del", name)


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout

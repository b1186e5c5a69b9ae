"""The RayService of docker/k8s/ray: what it says to Ray is what Ray, started by its own command, serves."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from service.bundle.store import Bundle
from service.scale import application
from service.scale.names import ENGINES, JOBS, REQUESTS
from service.scale.spread import Spread
from tests.conftest import ROOT

START_S = 90


@pytest.fixture
def config() -> dict[str, Any]:
    text = (ROOT / "docker" / "k8s" / "ray" / "rayservice.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(yaml.safe_load(text)["spec"]["serveConfigV2"])
    return found


def test_it_names_applications_that_exist_with_arguments_that_are_taken(config: dict[str, Any]) -> None:
    ServeDeploySchema.model_validate(config)
    assert [each["name"] for each in config["applications"]] == [ENGINES, REQUESTS, JOBS]
    for each in config["applications"]:
        module, _, name = each["import_path"].partition(":")
        assert module == application.__name__
        assert callable(getattr(application, name))
        assert Spread(**each["args"]).engine_gpus == 0.5


def test_ray_serves_it(
    config: dict[str, Any], color_bundle: Bundle, tmp_path: Path, make_picture: Callable[..., bytes]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    config["http_options"] = {"host": "127.0.0.1", "port": port}
    for each in config["applications"]:  # this machine is smaller than those that it is written for
        each["args"] = {"ingress": "1", "engines": "1", "ingress_cpus": 0, "engine_cpus": 0}
        for deployment in each.get("deployments", ()):
            deployment["ray_actor_options"] = {"num_cpus": 0}
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [Path(sys.executable).with_name("serve"), "run", "--address", "local", str(tmp_path / "serve.yaml")]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MAREY_BUNDLES": str(color_bundle.path),
        "MAREY_JOBS": str(tmp_path / "jobs"),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            url, until = f"http://127.0.0.1:{port}", time.monotonic() + START_S
            while not (ready(f"{url}/health/ready") and ready(f"{url}/jobs")):
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.2)
            answer = httpx.post(f"{url}/classify/image", files={"file": make_picture("red")}, timeout=30)
            assert answer.json()["predictions"][0]["label"] == "red"
        finally:
            process.send_signal(signal.SIGINT)


def ready(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10).status_code == 200
    except httpx.TransportError:
        return False

"""docker-compose.yml against its schema, the Dockerfile, the settings and .env.example."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from service.bundle.store import SHIPPED
from service.settings import Settings

ROOT = Path(__file__).parents[2]
# Those that are built here; what watches them is other people's, see tests/monitoring/test_services.py.
SERVICES = ["engine", "api", "cpu", "build"]
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")


def default_of(text: str) -> str:
    """`${NAME:-default}` → default."""
    return re.fullmatch(r"\$\{\w+:-(.*)\}", text).group(1)


def volumes(service: dict) -> dict[str, dict]:
    return {volume["target"]: volume for volume in service["volumes"]}


def test_it_is_valid_by_the_compose_specification() -> None:
    tool = Path(sys.executable).with_name("check-jsonschema")
    command = [tool, "--builtin-schema", "vendor.compose-spec", ROOT / "docker-compose.yml"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_every_service_builds_its_target(compose, dockerfile) -> None:
    built = {name: service for name, service in compose["services"].items() if "build" in service}
    assert list(built) == SERVICES
    targets = {name: service["build"]["target"] for name, service in built.items()}
    assert targets == {"engine": "engine", "api": "gpu", "cpu": "cpu", "build": "build"}
    assert set(targets.values()) <= set(dockerfile)
    for service in built.values():
        assert (ROOT / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert "image" not in service  # nothing that a registry could answer for
        defaults = dict(line.split("=") for line in dockerfile["requirements"].of("ARG"))
        for argument, value in service["build"].get("args", {}).items():
            assert value == f"${{{argument}:-{defaults[argument]}}}"
        assert ("SERVE_EXTRAS" in service["build"]["args"]) == (service["build"]["target"] != "build")


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_guarded_and_limited(compose, name: str) -> None:
    service = compose["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service["tmpfs"][0].startswith("/tmp:size=")


@pytest.mark.parametrize("name", ["api", "cpu"])
def test_the_service_is_reached_where_the_settings_say_and_by_default_from_this_host_alone(
    compose, dockerfile, name: str
) -> None:
    service = compose["services"][name]
    inside = dockerfile.environment(service["build"]["target"])["MAREY_PORT"]
    default = Settings.model_fields
    assert service["ports"] == [
        f"${{MAREY_HOST:-{default['host'].default}}}:${{MAREY_PORT:-{default['port'].default}}}:{inside}"
    ]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][:2] == ["CMD", "marey-health"]
    assert int(service["stop_grace_period"].removesuffix("s")) > default["drain_s"].default


def test_engines_are_built_first_and_cannot_be_changed_by_what_serves_them(compose, dockerfile) -> None:
    engine, api = compose["services"]["engine"], compose["services"]["api"]
    assert api["depends_on"] == {"engine": {"condition": "service_completed_successfully"}}
    assert engine["restart"] == "no"
    cache = dockerfile.environment("engine")["MAREY_ENGINE_CACHE"]
    assert dockerfile.environment("gpu")["MAREY_ENGINE_CACHE"] == cache
    built, served = volumes(engine)[cache], volumes(api)[cache]
    assert built["source"] == served["source"]
    assert built["source"] in compose["volumes"]
    assert (built.get("read_only"), served.get("read_only")) == (None, True)
    for service in (engine, api):
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


def test_a_machine_without_a_gpu_starts_one_service_and_no_other(compose) -> None:
    cpu = compose["services"]["cpu"]
    assert cpu["profiles"] == ["cpu"]
    assert "depends_on" not in cpu
    assert "reservations" not in cpu["deploy"]["resources"]
    assert [name for name, service in compose["services"].items() if "profiles" not in service] == ["engine", "api"]


@pytest.mark.parametrize("name", ["engine", "api", "cpu"])
def test_bundles_are_mounted_read_only_and_by_default_those_that_ship(compose, dockerfile, name: str) -> None:
    service = compose["services"][name]
    mount = volumes(service)[dockerfile.environment(service["build"]["target"])["MAREY_BUNDLES"]]
    assert mount["read_only"] is True
    assert (ROOT / default_of(mount["source"])).resolve() == SHIPPED


def test_every_setting_reaches_the_service_and_none_that_does_not_exist(compose) -> None:
    settings = {f"MAREY_{name.upper()}" for name in Settings.model_fields}
    interpolated = set(re.findall(r"\$\{(MAREY_\w+)", TEXT))
    for name in ("engine", "api", "cpu"):
        passed = dict(compose["services"][name]["environment"])
        assert passed.pop("MAREY_KEYS") == "${MAREY_KEYS:+/etc/marey/keys}"
        assert default_of(passed.pop("OTEL_EXPORTER_OTLP_ENDPOINT")) == "http://collector:4318"
        assert not set(passed) & interpolated
        assert set(passed) | interpolated == settings - {"MAREY_ENGINE_CACHE", "MAREY_JOBS", "MAREY_SPOOL"}
        assert set(passed.values()) == {None}  # as they are, or not at all


@pytest.mark.parametrize("name", ["api", "cpu"])
def test_jobs_and_large_uploads_lie_on_a_volume_and_keys_come_from_the_host(compose, dockerfile, name: str) -> None:
    service = compose["services"][name]
    environment, mounts = dockerfile.environment(service["build"]["target"]), volumes(service)
    (state,) = (target for target in mounts if environment["MAREY_JOBS"].startswith(f"{target}/"))
    assert environment["MAREY_SPOOL"] == state
    assert mounts[state]["source"] in compose["volumes"]
    assert "read_only" not in mounts[state]
    keys = mounts["/etc/marey/keys"]
    assert (default_of(keys["source"]), keys["read_only"]) == ("/dev/null", True)


def test_the_training_container_works_in_a_folder_of_the_host_as_its_owner(compose, dockerfile) -> None:
    build = compose["services"]["build"]
    assert list(volumes(build)) == [dockerfile.last("build", "WORKDIR")]
    assert default_of(build["user"]) == "1000:1000"
    assert build["profiles"] == ["build"]


def examples() -> dict[str, str]:
    return dict(re.findall(r"^#(\w+)=(.*)$", EXAMPLE, flags=re.MULTILINE))


def test_the_example_has_every_variable_and_none_that_does_not_exist() -> None:
    settings = {f"MAREY_{name.upper()}" for name in Settings.model_fields}
    assert set(examples()) == settings | set(re.findall(r"\$\{(\w+):-", TEXT))


def test_the_defaults_in_the_example_are_the_defaults(compose, dockerfile) -> None:
    here = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", TEXT))
    for name, value in examples().items():
        field = Settings.model_fields.get(name.removeprefix("MAREY_").lower())
        if name in here:
            assert value == here[name]
        elif name in ("MAREY_ENGINE_CACHE", "MAREY_JOBS", "MAREY_SPOOL"):
            assert value == dockerfile.environment("gpu")[name]
        elif field is not None and field.default_factory is None and field.default not in (None, ()):
            assert value == str(field.default).lower()


def test_every_line_of_the_example_can_be_taken_as_it_is(monkeypatch) -> None:
    for name, value in examples().items():
        monkeypatch.setenv(name, value)
    assert Settings().devices == (0,)

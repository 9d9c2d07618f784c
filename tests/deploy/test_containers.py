"""The container files, read by parsers: nothing here starts a container."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.configfile import load_config, load_routes

ROOT = Path(__file__).parents[2]
COMPOSE = "docker-compose.gpu.yml"
SLUICE = [sys.executable, "-c", "from gateway.cli import main; main()"]
SERVICES = ["triton", "gateway", "prometheus", "grafana", "locust"]


def compose() -> dict[str, Any]:
    """The compose file with its anchors resolved."""
    return yaml.safe_load((ROOT / COMPOSE).read_text())


def dockerfile() -> list[tuple[str, str]]:
    """(instruction, arguments) of the Dockerfile, continuation lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [tuple(line.split(None, 1)) for line in lines if line.strip()]  # type: ignore[misc]


def stage(name: str) -> list[tuple[str, str]]:
    """The instructions of one stage, without its FROM."""
    found: list[tuple[str, str]] = []
    inside = False
    for instruction, arguments in dockerfile():
        if instruction == "FROM":
            inside = arguments.endswith(f" AS {name}")
        elif inside:
            found.append((instruction, arguments))
    assert found, f"no stage {name}"
    return found


def test_the_services_are_all_there() -> None:
    """Triton, the gateway, Prometheus, Grafana, and Locust only on request."""
    services = compose()["services"]
    assert sorted(services) == sorted(SERVICES)
    assert {name for name in services if services[name].get("profiles")} == {"locust"}
    assert services["locust"]["profiles"] == ["loadtest"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_confined(name: str) -> None:
    """No root, no capabilities, a read-only root file system, bounded processor, memory, processes and logs."""
    service = compose()["services"][name]
    user, _, _ = service["user"].partition(":")
    assert user.isdecimal()
    assert int(user) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices"} & set(service)
    assert {"cpus", "memory", "pids"} <= set(service["deploy"]["resources"]["limits"])
    assert service["logging"]["options"]["max-size"]
    tag = service["image"].partition(":")[2]
    assert tag
    assert name in {"gateway", "locust"} or "latest" not in tag


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "locust"])
def test_a_service_tells_whether_it_is_well(name: str) -> None:
    """A health check with an interval, a time-out and a start period; a restart after a crash."""
    service = compose()["services"][name]
    assert {"test", "interval", "timeout", "retries", "start_period"} <= set(service["healthcheck"])
    assert service["restart"] == "unless-stopped"


def test_only_triton_reserves_a_gpu() -> None:
    """The reservation is the one of the compose specification: driver, count and capabilities."""
    reservations = {
        name: service["deploy"]["resources"].get("reservations") for name, service in compose()["services"].items()
    }
    (device,) = reservations.pop("triton")["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]
    assert device["count"]
    assert set(reservations.values()) == {None}


def test_only_the_data_plane_is_public() -> None:
    """Triton has no published port; the admin API, Prometheus and Grafana are bound to this machine."""
    published = {name: service.get("ports", []) for name, service in compose()["services"].items()}
    assert published["triton"] == published["locust"] == []
    public = [port for ports in published.values() for port in ports if not port.startswith("127.0.0.1:")]
    assert public == ["${SLUICE_PORT:-8080}:8080"]
    assert set(compose()["services"]["triton"]["networks"]) == {"inference"}
    assert compose()["networks"]["inference"]["internal"] is True


def test_what_a_service_refers_to_exists() -> None:
    """Networks, volumes, secrets and dependencies are declared; mounted paths are in the repository."""
    file = compose()
    for service in file["services"].values():
        assert set(service["networks"]) <= set(file["networks"])
        assert set(service.get("secrets", [])) <= set(file["secrets"])
        for other, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}
            assert "test" in file["services"][other]["healthcheck"]
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in file["volumes"], source
        if "build" in service:
            assert stage(service["build"]["target"])


def test_no_secret_is_in_the_repository() -> None:
    """The only secret is a file that is ignored by git, and no environment variable has a password."""
    assert compose()["secrets"] == {
        "sluice_admin_token": {"file": "${SLUICE_TOKEN_FILE:-./deploy/secrets/admin-token}"}
    }
    assert (ROOT / "deploy/secrets/.gitignore").read_text().splitlines()[-2:] == ["*", "!.gitignore"]
    for service in compose()["services"].values():
        assert not [key for key in service.get("environment", {}) if re.search(r"PASSWORD|SECRET$|TOKEN$", key)]


@pytest.mark.skipif(shutil.which("docker") is None, reason="docker is not installed")
def test_compose_itself_accepts_the_file() -> None:
    """`docker compose config` needs no engine, only the plugin."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("the compose plugin is not installed")
    command = ["docker", "compose", "--file", COMPOSE, "--profile", "loadtest", "config", "--quiet"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["gateway", "loadtest"])
def test_an_image_runs_without_rights(name: str) -> None:
    """The final stages end as a numbered user and inherit no build tools."""
    instructions = stage(name)
    assert ("USER", "10001:10001") in instructions
    assert not [arguments for instruction, arguments in instructions if instruction == "RUN"]
    copies = [arguments for instruction, arguments in instructions if instruction == "COPY"]
    assert all(arguments.startswith("--from=build") for arguments in copies)


def test_the_gateway_image_has_no_torch() -> None:
    """It is the last stage, so the default, and is built without extras, from pinned packages."""
    assert dockerfile()[-1][0] == "CMD"
    assert [arguments for instruction, arguments in dockerfile() if instruction == "FROM"][-1] == "base AS gateway"
    installs = [arguments for instruction, arguments in stage("build") if "pip install" in arguments]
    assert installs == ["/srv/sluice/bin/pip install --constraint constraints.txt ."]


def test_the_build_context_has_what_is_copied() -> None:
    """Each COPY source exists and is let through by .dockerignore."""
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for instruction, arguments in dockerfile():
        if instruction == "COPY" and not arguments.startswith("--from"):
            for source in arguments.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert source.removeprefix("./") in let_through, source


def test_the_gateway_accepts_its_files() -> None:
    """sluice.yaml and routes.yaml of the deployment are valid and fit together."""
    config = load_config(ROOT / "deploy/sluice/sluice.yaml")
    assert load_routes(ROOT / "deploy/sluice/routes.yaml", config.pools).routes
    targets = {backend.url for pool in config.pools for backend in pool.backends}
    assert targets == {"http://triton:8000"}
    secret = f"/run/secrets/{compose()['services']['gateway']['secrets'][0]}"
    assert config.admin.token_file == secret
    assert (ROOT / "deploy/prometheus/prometheus.yml").read_text().count(secret) == 1


def test_prometheus_scrapes_who_is_there() -> None:
    """Every target is a service of the compose file, reachable over a shared network."""
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    services = compose()["services"]
    targets = [t for job in config["scrape_configs"] for part in job.get("static_configs", []) for t in part["targets"]]
    assert sorted(targets) == ["gateway:8081", "localhost:9090", "triton:8002"]
    for target in targets:
        host = target.split(":")[0]
        if host != "localhost":
            assert set(services[host]["networks"]) & set(services["prometheus"]["networks"])


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_accepts_its_file() -> None:
    """Promtool reads the configuration; the secret exists only where it is deployed."""
    command = ["promtool", "check", "config", "--syntax-only", "deploy/prometheus/prometheus.yml"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


def test_grafana_finds_its_source_and_its_dashboards() -> None:
    """The data source is the Prometheus of the compose file; dashboards are looked for where they are mounted."""
    provisioning = ROOT / "deploy/grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert source["isDefault"] is True
    (provider,) = yaml.safe_load((provisioning / "dashboards/sluice.yml").read_text())["providers"]
    mounts = dict(volume.split(":")[:2] for volume in compose()["services"]["grafana"]["volumes"])
    assert mounts["./deploy/grafana/dashboards"] == provider["options"]["path"]


def test_the_commands_of_the_images_exist() -> None:
    """`serve` and `loadtest run` take the options that they are given, tried as a dry run where no server is needed."""
    command = compose()["services"]["locust"]["command"]
    result = subprocess.run([*SLUICE, *command[:2], "--help"], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    for option in command[2:]:
        assert option.partition("=")[0] in result.stdout
    arguments = ["serve", "--dry-run", "--config", "deploy/sluice/sluice.yaml", "--routes", "deploy/sluice/routes.yaml"]
    result = subprocess.run([*SLUICE, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr

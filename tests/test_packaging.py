"""Examples for deployment, and documents: that every command, flag and variable in them exists, and that the examples
are what the programs expect that read them. `tests.e2e.test_deploying` has real proxies read theirs."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from ifserver.config import arguments, command_line
from ifserver.config.configuration import CONFIG_VARIABLE, Configuration
from ifserver.config.schema import Kind
from ifserver.config.settings import SECTIONS, all_settings
from ifserver.config.sources import from_file
from ifserver.errors import ConfigurationError
from ifserver.observe.viewer import command as viewer
from tests.command_lines import arguments_in_yaml, command_lines, flags_named, variables_named

ROOT = Path(__file__).parent.parent
PACKAGING = ROOT / "packaging"
#: The README first.
DOCUMENTS = [*sorted(ROOT.glob("*.rst"), reverse=True), *sorted((ROOT / "docs").rglob("*.rst"))]
EXAMPLES = sorted(path for path in PACKAGING.rglob("*") if path.is_file())
DOCKERFILE = PACKAGING / "docker/Dockerfile"
#: Fields of the journal, which look like variables.
JOURNAL = {"IFSERVER_STATUS", "IFSERVER_STREAM", "IFSERVER_REQUEST_ID"}
#: Tables there have other servers' flags beside ours.
COMING_FROM = ROOT / "docs/howto/coming_from.rst"

by_name = pytest.mark.parametrize("path", [*DOCUMENTS, *EXAMPLES], ids=lambda path: str(path.relative_to(ROOT)))


# Commands, flags and variables.


def flags_of(command: str) -> set[str]:
    """The flags of a command that has settings."""
    sections = command_line.COMMANDS[command].sections
    found = {"-h", "--help", "--help-all", "--config"}
    found |= {"--json"} if command in ("publish", "check", "settings") else set()
    found |= {"--example", "--rst"} if command == "settings" else set()
    found |= {"--bytes", "--close", "--exclude", "--admin"} if command == "publish" else set()
    for flag in command_line.flags_of(command):
        found |= set(flag.names)
        if flag.settings[0].kind is Kind.SWITCH:
            found |= {command_line.switched_off(name) for name in flag.names if name.startswith("--")}
    return found | {each.name for each in command_line.SHORTHANDS if each.path.partition(".")[0] in sections}


# The last three are those of `pause` and `pool`, which have no settings.
ALL_FLAGS = {"--version", "--for", "--wait", "--reset"}.union(*map(flags_of, command_line.COMMANDS))


def problem(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is wrong with a command line; empty: nothing."""
    if words[0] in command_line.VIEWERS:
        with pytest.raises(SystemExit):
            viewer.main([words[0], "--help"])
        known = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", capsys.readouterr().out))
        return ", ".join(word for word in words if word.startswith("-") and word not in known)
    if words in (["publish"], ["completion"]):
        return ""  # the command is only named
    if words[0] == "completion":
        return "" if words[1:2] and words[1] in command_line.SHELLS else f"no such shell: {words[1:]}"
    if "..." in words:
        known = flags_of(words[0])
        return ", ".join(word for word in words if word.startswith("-") and word.partition("=")[0] not in known)
    # The file is on the reader's machine.
    plain = [word for i, word in enumerate(words) if word != "--config" and words[max(0, i - 1)] != "--config"]
    try:
        given = arguments.parse(plain, {})
        if plain == words and given.command != "settings":
            arguments.command_settings(given, {})
    except SystemExit as error:
        return capsys.readouterr().err if error.code else ""
    except ConfigurationError as error:
        # What is missing may be in a file, or in the environment.
        return "" if " is missing: give " in str(error) else str(error)
    return ""


def lines_of(path: Path) -> list[list[str]]:
    text = path.read_text("utf-8")
    found = command_lines(text)
    if path.suffix == ".yaml":
        found += arguments_in_yaml(text)
    if path == DOCKERFILE:
        found += map(json.loads, re.findall(r"^#?\s*CMD (\[.*\])", text, re.M))
    return found


@by_name
def test_every_command_line_is_understood(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # a checkout, which is where some of them are for
    found = {" ".join(words): problem(words, capsys) for words in lines_of(path) if words[0] not in ("--help",)}
    assert {line: wrong for line, wrong in found.items() if wrong} == {}


def test_command_lines_are_found() -> None:
    """So that the test above does not hold because nothing is looked at."""
    everywhere = [words for path in (*DOCUMENTS, *EXAMPLES) for words in lines_of(path)]
    assert {words[0] for words in everywhere} >= {"run", "serve", "worker", "check", "settings", "status"}
    for path in (*DOCUMENTS[:1], COMING_FROM, ROOT / "docs/howto/machines.rst", PACKAGING / "haproxy/haproxy.cfg"):
        assert lines_of(path), path
    assert len(lines_of(PACKAGING / "docker/compose.yaml")) >= 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("   ifserver run a:b -p 1   # why", ["run", "a:b", "-p", "1"]),
        ("#   /opt/x/bin/ifserver serve \\\n#       --cluster a=redis://h", ["serve", "--cluster", "a=redis://h"]),
        ("see ``ifserver run\na:b`` there", ["run", "a:b"]),
        ("ExecStart=/usr/bin/ifserver worker", ["worker"]),
        ("    $ ifserver check --json | less", ["check", "--json"]),
    ],
)
def test_how_command_lines_are_found(text: str, words: list[str]) -> None:
    assert command_lines(text) == [words]


@pytest.mark.parametrize("line", ["run a:b --no-such", "serve --cluster main", "run a", "status --no-such"])
def test_what_is_wrong_is_seen(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert problem(line.split(), capsys)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_flag_exists(path: Path) -> None:
    named = flags_named(path.read_text("utf-8"))
    if path == COMING_FROM:
        named = {flag for row in rows_of(path) for flag in flags_named(row[1])}
        assert len(named) > 40
    others = (
        {name for flag in command_line.others_of("settings") for name in flag.names} if path == COMING_FROM else set()
    )
    unknown = named - ALL_FLAGS - others
    assert not unknown or unknown - flags_of_manage() == set()


@functools.cache
def flags_of_manage() -> set[str]:
    """Those that ``manage.py`` has for the commands that pages name, where ifserver is one of its apps."""
    code = """
import django
from django.conf import settings
from django.core.management import get_commands, load_command_class
settings.configure(INSTALLED_APPS=["ifserver.django", "django.contrib.staticfiles"])
django.setup()
for name in ("runserver", "ifserver", "check"):
    parser = load_command_class(get_commands()[name], name).create_parser("manage.py", name)
    print(*(flag for action in parser._actions for flag in action.option_strings))
"""
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "--noasgi" in shown
    return set(shown.split())


def rows_of(path: Path) -> Iterator[list[str]]:
    """The rows of the simple tables with three columns in a document."""
    spans: list[tuple[int, int]] = []
    row: list[str] = []
    bars = 0
    for line in path.read_text("utf-8").splitlines():
        if re.fullmatch(r"=+ +=+ +=+", line):
            if row:
                yield row
            bars = (bars + 1) % 3  # above and below the names of the columns, and at the end
            row, spans = [], [match.span() for match in re.finditer("=+", line)]
        elif bars and line[0] == " " and row:
            row = [f"{cell} {line[start:end].strip()}" for cell, (start, end) in zip(row, spans, strict=True)]
        elif bars:
            if row:
                yield row
            row = [line[start:end].strip() for start, end in spans]
    assert not bars, "a table that does not end"


@by_name
def test_every_variable_exists(path: Path) -> None:
    settings = {setting.variable for setting in all_settings().values()}
    named = {name for name in variables_named(path.read_text("utf-8")) if not name.startswith("IFSERVER_REDIS_")}
    assert named - settings - JOURNAL - {CONFIG_VARIABLE} == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_of_settings_is_understood(path: Path) -> None:
    """Literal blocks that begin with a section."""
    blocks = re.findall(r"::\n\n((?:    .*\n|\n)+)", path.read_text("utf-8"))
    files = [
        text for text in map(textwrap.dedent, blocks) if re.match(r"\[(clusters|" + "|".join(SECTIONS) + r")\]\n", text)
    ]
    assert files or path.name not in ("configuring.rst", "machines.rst", "deploy.rst")
    for text in files:
        configuration = Configuration(from_file(text, path.name), path.name)
        if configuration.has("layer.clusters"):
            configuration.layer({})


# Docker and Kubernetes.


def settings_of(words: list[str]) -> dict[str, Any]:
    """The values of all settings after a command line, by path."""
    configuration = arguments.parse(words, {}).configuration
    return {path: configuration.of(path).value for path in all_settings()}


def least_s(words: list[str]) -> float:
    """How long the end of a process may take that was started so, in seconds."""
    settings = settings_of(words)
    if words[0] == "serve":
        return float(settings["front.shutdown_delay_s"] + settings["front.drain_timeout_s"])
    # 2 s that a worker gets beyond its own timeouts, 5 s for those that are killed, 2 s for the last messages.
    return float(settings["worker.drain_timeout_s"] + settings["worker.shutdown_timeout_s"] + 9)


def compose() -> Any:
    return yaml.safe_load((PACKAGING / "docker/compose.yaml").read_text())


def test_compose_waits_for_the_end_and_asks_the_admin_endpoint() -> None:
    ours = {name: each for name, each in compose()["services"].items() if name.startswith(("server", "worker"))}
    assert len(ours) == 4
    for service in ours.values():
        words = service["command"]
        assert least_s(words) < int(service["stop_grace_period"].removesuffix("s"))
        section = "front" if words[0] == "serve" else "worker"
        assert settings_of(words)[f"{section}.admin"] == "0.0.0.0:9100"
        assert "http://127.0.0.1:9100/readyz" in service["healthcheck"]["test"][-1]
        assert service["healthcheck"]["test"][0] == "CMD"
        compile(service["healthcheck"]["test"][-1], "healthcheck", "exec")
        assert "${IFSERVER_REDIS_PASSWORD:?" in service["environment"]["IFSERVER_REDIS_PASSWORD"]
        assert service["networks"]


def test_compose_is_where_haproxy_looks_for_it() -> None:
    services = compose()["services"]
    [volume] = services["haproxy"]["volumes"]
    config = (PACKAGING / "docker" / volume.partition(":")[0]).read_text()
    addresses = {services[name]["networks"]["inside"]["ipv4_address"] for name in ("server-1", "server-2")}
    assert set(re.findall(r"^\s*server \S+ ([\d.]+):8000", config, re.M)) == addresses
    proxy = services["haproxy"]["networks"]["inside"]["ipv4_address"]
    redis = services["redis"]["networks"]["inside"]["ipv4_address"]
    settings = settings_of(services["server-1"]["command"])
    assert (settings["front.proxy_protocol"], settings["front.proxy_protocol_networks"]) == (True, (proxy,))
    for service in (services["server-1"], services["worker-1"]):
        assert f"main=redis://{redis}" in service["command"]
    assert "noeviction" in services["redis"]["command"][-1]


def manifests() -> dict[tuple[str, str], Any]:
    """The objects that ``kustomization.yaml`` names, by kind and name."""
    folder = PACKAGING / "kubernetes"
    names = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    assert sorted([*names, "kustomization.yaml"]) == sorted(path.name for path in folder.iterdir())
    objects = [each for name in names for each in yaml.safe_load_all((folder / name).read_text())]
    return {(each["kind"], each["metadata"]["name"]): each for each in objects}


@pytest.mark.parametrize(("name", "command"), [("ifserver", "serve"), ("ifserver-worker", "worker")])
def test_pods_end_in_order_and_are_asked_at_the_admin_endpoint(name: str, command: str) -> None:
    objects = manifests()
    spec = objects["Deployment", name]["spec"]
    pod, [container] = spec["template"]["spec"], spec["template"]["spec"]["containers"]
    words = container["args"]
    assert words[0] == command
    assert least_s(words) < pod["terminationGracePeriodSeconds"]
    assert "lifecycle" not in container
    settings, ports = settings_of(words), {port["name"]: port["containerPort"] for port in container["ports"]}
    section = "front" if command == "serve" else "worker"
    assert settings[f"{section}.admin"] == f"0.0.0.0:{ports['admin']}"
    for probe, path in (("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": "admin"}
    if command == "serve":
        assert (settings["listen.host"], settings["listen.port"]) == ("0.0.0.0", ports["http"])
        assert settings["front.shutdown_delay_s"] > 0
    [variable] = container["env"]
    reference = variable["valueFrom"]["secretKeyRef"]
    assert variable["name"] == "IFSERVER_REDIS_PASSWORD"
    assert reference["key"] in objects["Secret", reference["name"]]["stringData"]
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_labels_and_names_fit_together() -> None:
    objects = manifests()
    for (kind, name), each in objects.items():
        spec = each.get("spec", {})
        if kind == "Deployment":
            assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
        elif kind in ("Service", "PodDisruptionBudget"):
            selector = spec["selector"].get("matchLabels", spec["selector"])
            assert selector == objects["Deployment", name]["spec"]["selector"]["matchLabels"]
        for port in spec.get("ports", ()):
            [container] = objects["Deployment", name]["spec"]["template"]["spec"]["containers"]
            assert port["targetPort"] in {each["name"] for each in container["ports"]}
    assert ("Service", "redis") in objects
    assert ("PodDisruptionBudget", "ifserver") in objects


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not here")
def test_kubectl_reads_the_manifests() -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(PACKAGING / "kubernetes")], capture_output=True, text=True, timeout=120, check=True
    )
    found = [each["metadata"]["name"] for each in yaml.safe_load_all(done.stdout)]
    assert len(found) == len(manifests())
    assert "registry.example.com/ifserver:1" in done.stdout


def test_the_dockerfile_copies_what_is_there_and_is_let_have_it() -> None:
    text = DOCKERFILE.read_text()
    lines = [line for line in text.splitlines() if line.startswith("COPY ") and "--from" not in line]
    sources = [word for line in lines for word in line.split()[1:-1]]
    assert sources
    ignored = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    let = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source, pattern) for pattern in let), source
    assert sorted(let) == sorted(sources)
    assert ignored[1] == "*"


def test_the_dockerfile_ends_in_order_and_not_as_root() -> None:
    text = DOCKERFILE.read_text()
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", text, re.M)
    assert [name for _, name in stages] == ["build", "ifserver", "hello"]
    targets = {
        each["build"]["target"] for each in compose()["services"].values() if "build" in each
    }  # fmt: skip
    assert targets == {"ifserver", "hello"}
    [_, final] = text.split(" AS ifserver\n")
    for line in ("USER 10001", "STOPSIGNAL SIGTERM", "HEALTHCHECK", 'ENTRYPOINT ["ifserver"]', "COPY --from=build"):
        assert f"\n{line}" in final, line
    assert not re.search(r"^(CMD|ENTRYPOINT) (?!\[)", text, re.M), "not in the exec form: signals would not arrive"
    assert "apt-get" not in text
    folders = re.findall(r"^WORKDIR (\S+)$", text, re.M)
    assert folders == ["/source", "/app"]


def test_what_is_copied_is_enough_to_build(tmp_path: Path) -> None:
    """The wheel, as the Dockerfile does. `tests.test_distribution` installs it."""
    source = tmp_path / "source"
    copied = re.findall(r"^COPY (.*) \./$|^COPY (ifserver) ifserver$", DOCKERFILE.read_text(), re.M)
    for name in " ".join(a or b for a, b in copied[:2]).split():
        target = source / name
        target.parent.mkdir(exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps", "--no-index"]
    built = [*pip, "--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(built, check=True, timeout=120, cwd=tmp_path)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = {path.relative_to(ROOT) for path in (ROOT / "ifserver").rglob("*") if path.is_file()}
    assert {str(path) for path in package if path.suffix != ".pyc"} - names == set()


def test_the_dockerfile_is_what_its_linter_wants() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    told = subprocess.run([linter, "--no-color", str(DOCKERFILE)], capture_output=True, text=True)
    assert (told.returncode, told.stdout + told.stderr) == (0, "")

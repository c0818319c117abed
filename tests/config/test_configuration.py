"""Which value holds, where it came from, and that an error says so."""

from __future__ import annotations

import pytest
from msgspec import NODEFAULT, structs

from ifserver.config.configuration import (
    DEFAULT,
    CommandSettings,
    Configuration,
    Given,
    describe_changes,
    differences,
    given_text,
    live_paths,
    located,
    unknown,
    updated,
)
from ifserver.config.pools import PoolSettings, rules_of
from ifserver.config.settings import (
    SECTIONS,
    FrontSettings,
    LayerSettings,
    ListenSettings,
    WorkerSettings,
    all_settings,
)
from ifserver.errors import ConfigurationError

CLUSTERS = {"layer.clusters": Given((Given("a=redis://h", "f:2"), Given("b=redis://i,redis://j", "f:3")), "f:1")}


def configuration(**given: object) -> Configuration:
    return Configuration({path.replace("__", "."): Given(value, f"f:{path}") for path, value in given.items()})


def test_every_field_of_every_section_is_a_setting_with_a_variable_of_its_own() -> None:
    settings = all_settings()
    fields = [f"{section}.{name}" for section, struct in SECTIONS.items() for name in struct.__struct_fields__]
    assert list(settings) == fields
    assert len({setting.variable for setting in settings.values()}) == len(settings)
    assert settings["front.max_body_bytes"].variable == "IFSERVER_FRONT_MAX_BODY_BYTES"


def test_what_nobody_gave_has_its_default() -> None:
    nothing = configuration()
    for path, setting in all_settings().items():
        assert nothing.of(path) == Given(setting.default, DEFAULT)
    assert nothing.make(FrontSettings) == FrontSettings()
    assert nothing.make(ListenSettings) == ListenSettings()
    assert nothing.of("worker.application").value is NODEFAULT


def test_what_was_given_holds() -> None:
    made = configuration(front__max_headers=3, worker__processes=2)
    assert made.of("front.max_headers") == Given(3, "f:front__max_headers")
    assert made.make(FrontSettings) == FrontSettings(max_headers=3)
    assert made.make(WorkerSettings, application="a:b") == WorkerSettings(application="a:b", processes=2)
    assert (made.has("front.max_headers"), made.has("front.max_connections")) == (True, False)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, FrontSettings()),
        ({"front__max_connections_per_client": 3}, FrontSettings(max_connections_per_client=3, uncounted_networks=())),
        (
            {"front__max_connections_per_client": 3, "front__uncounted_networks": ("::1",)},
            FrontSettings(max_connections_per_client=3, uncounted_networks=("::1",)),
        ),
        (
            {"front__trusted_proxies": ("::2",)},
            FrontSettings(trusted_proxies=("::2",), proxy_protocol_networks=("::2",)),
        ),
        ({"front__trusted_proxies": ()}, FrontSettings()),
    ],
)
def test_one_setting_may_follow_from_another(given: dict[str, object], found: FrontSettings) -> None:
    assert configuration(**given).make(FrontSettings) == found


def test_some_texts_are_kept_in_another_form() -> None:
    settings = all_settings()
    assert given_text(settings["front.allowed_origins"], "https://A", "f:1").value == ("https://a",)
    assert given_text(settings["front.root_path"], "/app/", "f:1").value == "/app"


def test_what_follows_says_from_what() -> None:
    made = configuration(front__trusted_proxies=("::2",))
    assert made.of("front.proxy_protocol_networks") == Given(("::2",), "follows from front.trusted_proxies")


def test_for_development_one_worker_runs_and_an_edit_closes_no_websocket() -> None:
    made = configuration(worker__reload=True)
    assert made.of("worker.processes") == Given(1, "follows from worker.reload")
    assert made.make(FrontSettings).resumable_paths == ("*",)
    made = configuration(worker__reload=True, worker__processes=3, front__resumable_paths=("/ws/*",))
    assert made.of("worker.processes").value == 3
    assert made.make(FrontSettings).resumable_paths == ("/ws/*",)
    made = configuration(worker__reload=False)
    assert made.of("worker.processes").value is None
    assert made.make(FrontSettings).resumable_paths == ()


# Errors.


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"front__root_path": "x"}, "f:front__root_path: front.root_path: 'x': must begin with '/'"),
        ({"front__trusted_proxies": ("x",)}, "f:front__trusted_proxies: front.trusted_proxies: 'x': does not appear"),
    ],
)
def test_an_error_of_a_section_names_the_place(given: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        configuration(**given).make(FrontSettings)
    assert str(caught.value).startswith(said)


def test_so_does_one_of_the_application() -> None:
    with pytest.raises(ConfigurationError, match=r"^f:worker__application: worker.application: 'x': expected MODULE"):
        configuration(worker__application="x").make(WorkerSettings)


def test_what_nobody_gave_has_no_place() -> None:
    assert str(configuration().error("front.root_path: no")) == "front.root_path: no"
    assert str(configuration().error("nothing of that kind")) == "nothing of that kind"
    assert str(located("f:1", "no")) == "f:1: no"


def test_what_must_be_given() -> None:
    with pytest.raises(ConfigurationError, match=r"^an application is missing: .* IFSERVER_WORKER_APPLICATION$"):
        configuration().make(WorkerSettings)
    with pytest.raises(ConfigurationError, match=r"^a cluster is missing: .* IFSERVER_LAYER_CLUSTERS$"):
        configuration().layer({})


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        ("f:1", "f:1: listen.fd 9: Bad file descriptor"),
        ("IFSERVER_LISTEN_FD", "IFSERVER_LISTEN_FD: listen.fd 9: Bad file descriptor"),
        ("--fd", "--fd 9: Bad file descriptor"),
    ],
)
def test_an_error_may_also_name_a_flag(origin: str, said: str) -> None:
    found = Configuration({"listen.fd": Given((9,), origin)}).error("--fd 9: Bad file descriptor")
    assert str(found) == said


# Clusters.


def test_clusters_are_parsed_where_their_passwords_are_known() -> None:
    layer = Configuration({**CLUSTERS, "layer.home": Given("b", "f:9")}).layer({"IFSERVER_REDIS_PASSWORD": "geheim"})
    assert isinstance(layer, LayerSettings)
    assert [cluster.name for cluster in layer.clusters] == ["a", "b"]
    assert layer.home_cluster.name == "b"
    assert {node.password for cluster in layer.clusters for node in cluster.nodes} == {"geheim"}


def test_no_clusters() -> None:
    assert configuration().clusters({}) == ()


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        ("f:2", "f:2: clusters: a: 'http://x': unknown scheme"),
        ("--cluster", "--cluster a: 'http://x': unknown scheme"),
    ],
)
def test_an_error_in_a_cluster_names_the_place(origin: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Configuration({"layer.clusters": Given((Given("a=http://x", origin),), origin)}).clusters({})
    assert str(caught.value).startswith(said)


def test_a_home_that_does_not_exist() -> None:
    with pytest.raises(ConfigurationError, match=r"^f:9: layer.home: no cluster is named 'c', there are: a, b$"):
        Configuration({**CLUSTERS, "layer.home": Given("c", "f:9")}).layer({})


def test_nothing_is_like_it() -> None:
    assert unknown("xyz", ["abc"]) == "xyz: unknown"
    assert unknown("front.frob", ["front.file_roots"]) == "front.frob: unknown", "what is alike is the section"
    assert unknown("x\nz", ["abc"]) == r"'x\nz': unknown", "errors fit one line"


# Settings that are read again.


def test_differences() -> None:
    old = CommandSettings(front=FrontSettings(max_headers=3), listen=ListenSettings(port=1))
    assert differences(old, old) == []
    new = CommandSettings(front=FrontSettings(max_headers=4, root_path="/a"), listen=ListenSettings(port=2))
    assert differences(old, new) == ["listen.port", "front.max_headers", "front.root_path"]
    assert differences(CommandSettings(), CommandSettings(worker=WorkerSettings(application="a:b"))) == ["worker"]


def test_what_is_told() -> None:
    first = CommandSettings(front=FrontSettings(max_headers=3), listen=ListenSettings(port=1))
    second = CommandSettings(front=FrontSettings(max_headers=4, root_path="/a"), listen=ListenSettings(port=1))
    third = CommandSettings(front=FrontSettings(max_headers=4, root_path="/b"), listen=ListenSettings(port=2))
    live = {"front.max_headers", "front.root_path"}
    assert describe_changes(first, first, first, live) == ["no setting has changed"]
    assert describe_changes(first, first, second, live) == [
        "changed, for what begins now: front.max_headers, front.root_path"
    ]
    assert describe_changes(first, second, third, live) == [
        "changed, for what begins now: front.root_path",
        "changed, but a restart is needed for: listen.port",
    ]
    assert describe_changes(first, third, third, live) == ["changed, but a restart is needed for: listen.port"], (
        "it still is"
    )
    assert describe_changes(first, third, first, live) == [
        "changed, for what begins now: front.max_headers, front.root_path"
    ]


def test_what_needs_a_restart_stays_as_it_is() -> None:
    old, new = FrontSettings(max_headers=3, access_log="a"), FrontSettings(max_headers=4, access_log="b")
    assert updated(old, new) == FrontSettings(max_headers=4, access_log="a")


def test_pools() -> None:
    one = PoolSettings(name="one", application="a:b", paths=("/a",))
    other = PoolSettings(name="other", application="a:b")
    old = CommandSettings(pools=(one,))
    new = CommandSettings(pools=(structs.replace(one, paths=("/b",), processes=3), other))
    assert differences(old, new) == ["pools.one.paths", "pools.one.processes", "pools.other"]
    assert differences(new, old)[-1] == "pools.other"
    assert describe_changes(old, old, new, rules_of(new.pools)) == [
        "changed, for what begins now: pools.one.paths",
        "changed, but a restart is needed for: pools.one.processes, pools.other",
    ]


def test_what_could_not_be_taken_over_has_not_changed_and_needs_no_restart() -> None:
    old = CommandSettings()
    new = CommandSettings(front=FrontSettings(file_roots=("/no",), max_headers=4))
    assert describe_changes(old, old, new, live_paths() - {"front.file_roots"}) == [
        "changed, for what begins now: front.max_headers"
    ]

"""The settings: what is accepted, what is refused, and whether the operator learns why."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from node.config import FIELDS, Config, check_values, load_config, parse_address, write_config
from node.home import Home
from protocol.errors import ConfigError

VALUES = {
    "node.authority": "Alder",
    "node.country": "XA",
    "node.network": "test.example",
    "node.contact": "duty@alder.example",
}
MINIMAL = """
[node]
authority = "Alder"
country = "XA"
network = "test.example"
contact = "duty@alder.example"
"""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PICKET_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home(tmp_path)
    found.config.write_text(MINIMAL, encoding="utf-8")
    return found


def with_file(home: Home, text: str) -> Config:
    home.config.write_text(text, encoding="utf-8")
    return load_config(home)


def refusal(home: Home, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        with_file(home, text)
    assert caught.value.fix, "every refusal says what to do"
    line = caught.value.diagnostics()
    assert "\n" not in line
    return line


# --- origins ---------------------------------------------------------------------------------
def test_each_value_says_whether_it_is_default_file_or_environment(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PICKET_LOG__LEVEL", "debug")
    config = with_file(home, MINIMAL + '[peer]\ncarry = false\n[log]\nlevel = "error"\n')
    assert config.origins["node.role"] == "default"
    assert config.origins["peer.carry"] == "picket.toml"
    assert config.origins["log.level"] == "PICKET_LOG__LEVEL"
    assert set(config.origins) == {field.key for field in FIELDS}


def test_the_environment_beats_the_file(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICKET_PEER__CARRY", "true")
    monkeypatch.setenv("PICKET_PEER__ENDPOINTS", "wss://a.example:443, wss://b.example:443,")
    monkeypatch.setenv("PICKET_NODE__AUTHORITY", "From outside")
    config = with_file(home, MINIMAL + '[peer]\ncarry = false\nendpoints = ["wss://c.example:1"]\n')
    assert config.peer.carry is True
    assert config.peer.endpoints == ("wss://a.example:443", "wss://b.example:443")
    assert config.node.authority == "From outside"


def test_the_environment_can_supply_what_the_file_lacks(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PICKET_NODE__CONTACT", "duty desk")
    lines = [line for line in MINIMAL.splitlines() if not line.startswith("contact")]
    assert with_file(home, "\n".join(lines)).node.contact == "duty desk"


def test_a_missing_required_setting_is_named(home: Home) -> None:
    line = refusal(home, MINIMAL.replace("contact", "# contact"))
    assert "node.contact is missing" in line


# --- unknown keys ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "named", "suggested"),
    [
        ('[http]\nlistn = "127.0.0.1:1"', "http.listn", "http.listen"),
        ('[htp]\nlisten = "127.0.0.1:1"', "htp.listen", "http.listen"),
        ("[peer]\ncary = true", "peer.cary", "peer.carry"),
        ("[peer]\nCarry = true", "peer.Carry", "peer.carry"),
        ('[keystore]\npassphrase = "hunter2hunter2"', "keystore.passphrase", "passphrase_file"),
        ("[peer.carry]\nx = true", "peer.carry", "true or false"),
        ("[[http]]\nlisten = 1", "http", ""),
    ],
)
def test_a_misspelt_setting_in_the_file_is_an_error_with_a_suggestion(
    home: Home, text: str, named: str, suggested: str
) -> None:
    line = refusal(home, MINIMAL + text + "\n")
    assert named in line
    assert suggested in line
    assert "hunter2" not in line


def test_a_setting_outside_a_section_is_an_error(home: Home) -> None:
    assert "'listen'" in refusal(home, 'listen = "127.0.0.1:1"\n' + MINIMAL)


@pytest.mark.parametrize(
    ("variable", "suggested"),
    [
        ("PICKET_HTTP__LISTN", "http.listen"),
        ("PICKET_NODE_COUNTRY", "node.country"),
        ("PICKET_PASSPHRASE", ""),
    ],
)
def test_a_misspelt_environment_variable_is_an_error_that_names_it(
    home: Home, monkeypatch: pytest.MonkeyPatch, variable: str, suggested: str
) -> None:
    monkeypatch.setenv(variable, "correct horse")
    line = refusal(home, MINIMAL)
    assert variable in line
    assert suggested in line
    assert "correct horse" not in line


def test_the_variable_that_names_the_folder_is_no_setting(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PICKET_HOME", str(home.path))
    assert load_config(home).node.country == "XA"


# --- types and values ------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[peer]\ncarry = "yes"', "peer.carry"),
        ("[peer]\ncarry = 1", "peer.carry"),
        ('[peer]\nendpoints = "wss://a.example:443"', "peer.endpoints"),
        ("[peer]\nendpoints = [1]", "peer.endpoints"),
        ("[http]\nlisten = 8463", "http.listen"),
        ("[http]\nlisten = 2026-03-01", "http.listen"),
        ("[log]\nlevel = true", "log.level"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_name(home: Home, text: str, key: str) -> None:
    line = refusal(home, MINIMAL + text + "\n")
    assert line.startswith(f"picket.toml: {key} ")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("node.authority", ""),
        ("node.authority", "   "),
        ("node.authority", "A" * 257),
        ("node.authority", "Alder\tBirch"),
        ("node.authority", "Alder\u202eBirch"),
        ("node.country", "xa"),
        ("node.country", "XAA"),
        ("node.role", "boss"),
        ("node.language", "de"),
        ("peer.listen", "127.0.0.1"),
        ("peer.listen", "127.0.0.1:65536"),
        ("peer.listen", "127.0.0.1:08462"),
        ("peer.listen", "::1:8462"),
        ("http.listen", "http://127.0.0.1:8463"),
        ("http.listen", "127.0.0.1:8463 "),
        ("log.level", "verbose"),
        ("log.format", "xml"),
        ("peer.endpoints", "https://node.example:443"),
        ("peer.endpoints", "wss://node.example"),
        ("peer.endpoints", "wss://node.example:443/path"),
        ("peer.endpoints", "wss://user@node.example:443"),
        ("peer.endpoints", "wss://"),
    ],
)
def test_a_bad_value_is_refused_by_key_and_origin(
    home: Home, monkeypatch: pytest.MonkeyPatch, key: str, value: str
) -> None:
    variable = f"PICKET_{key.replace('.', '__').upper()}"
    monkeypatch.setenv(variable, value)
    line = refusal(home, MINIMAL)
    assert line.startswith(f"{variable}: {key} is ")


def test_a_text_for_a_yes_or_no_from_the_environment_is_refused(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PICKET_PEER__DIAL", "maybe")
    line = refusal(home, MINIMAL)
    assert "PICKET_PEER__DIAL" in line
    assert "true or false" in line


def test_more_endpoints_than_a_card_holds_are_refused(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PICKET_PEER__ENDPOINTS", ",".join(["wss://a.example:443"] * 9))
    assert "at most 8 endpoints" in refusal(home, MINIMAL)


@pytest.mark.parametrize("address", ["0.0.0.0:8463", "[::]:8463", "192.0.2.1:80", "node.example:1"])
def test_an_endpoint_that_other_machines_reach_needs_a_flag(
    home: Home, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("PICKET_HTTP__LISTEN", address)
    assert "allow_remote" in refusal(home, MINIMAL)
    monkeypatch.setenv("PICKET_HTTP__ALLOW_REMOTE", "true")
    assert load_config(home).http.listen == address


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:8463", "localhost:65535", ""])
def test_loopback_addresses_need_no_flag(
    home: Home, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("PICKET_HTTP__LISTEN", address)
    assert load_config(home).http.listen == address


def test_a_reachable_address_from_the_environment_is_blamed_on_the_environment(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PICKET_HTTP__LISTEN", "0.0.0.0:8463")
    line = refusal(home, MINIMAL)
    assert "PICKET_HTTP__LISTEN" in line
    assert "picket.toml" not in line.partition("http.listen is")[0]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("node.example.org:65535", ("node.example.org", 65535)),
        ("[2001:db8::1]:443", ("2001:db8::1", 443)),
    ],
)
def test_an_address_is_host_and_port(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["a:1\n", "a:\u0661", "[]:1", "[::1]", ":1", "a:-1", "a b:1", "a:1:2"]
)
def test_anything_else_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        parse_address(text)


# --- the file itself -------------------------------------------------------------------------
def test_a_folder_without_a_node_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no node in") as caught:
        load_config(Home(tmp_path))
    assert "picket init" in caught.value.fix


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    Home(tmp_path).config.mkdir()
    with pytest.raises(ConfigError, match=r"picket\.toml cannot be read: Is a directory"):
        load_config(Home(tmp_path))


@pytest.mark.parametrize(
    "data",
    [b"[node\n", b"\xff\xfe", b'[node]\nauthority = "a"\nauthority = "b"\n', b"a = \x00\n"],
    ids=["cut", "not UTF-8", "a key twice", "a null"],
)
def test_a_malformed_file_is_refused_in_one_line(home: Home, data: bytes) -> None:
    home.config.write_bytes(data)
    with pytest.raises(ConfigError, match=r"picket\.toml is not valid TOML") as caught:
        load_config(home)
    assert "\n" not in caught.value.diagnostics()


# --- writing ---------------------------------------------------------------------------------
def test_a_written_file_loads_to_what_was_given_and_the_defaults(tmp_path: Path) -> None:
    given_values: dict[str, Any] = {
        **VALUES,
        "node.authority": 'Ministry "of" \\ Précurseurs, отдел 7 ☂',
        "peer.endpoints": ["wss://a.example:443", "wss://[2001:db8::1]:8462"],
        "peer.carry": False,
        "http.hosts": ['x"y', "z\\"],
        "keystore.passphrase_file": '/etc/picket/"a"\\b # c',
    }
    write_config(Home(tmp_path), given_values)
    config = load_config(Home(tmp_path))
    for field in FIELDS:
        section, name = field.key.split(".")
        wanted = given_values.get(field.key, field.default)
        wanted = tuple(wanted) if field.kind is list else wanted
        assert getattr(getattr(config, section), name) == wanted, field.key
        assert config.origins[field.key] == (
            "picket.toml" if field.key in given_values else "default"
        )


@given(text=st.text(max_size=80))
@example(text='"')
@example(text="\\")
@example(text='\\"\n[http]\nallow_remote = true\n#')
@example(text="\x7f")
@example(text="\r\n")
@example(text="\u2028\u0085")
@example(text="\\u0041")
@example(text="\ud800")
@settings(deadline=None, max_examples=150)
def test_no_path_is_changed_between_writing_and_loading(text: str) -> None:
    """A path may hold nearly any character: it survives exactly, or it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        try:
            write_config(home, {**VALUES, "keystore.passphrase_file": text})
            config = load_config(home)
        except ConfigError:
            assert not text.isprintable()
        else:
            assert config.keystore.passphrase_file == text
            assert config.http.allow_remote is False


@given(text=st.text(max_size=260))
@example(text="A\nB")
@example(text='A"\ncountry = "XZ')
@example(text="A\x7fB")
@example(text="A\ud800B")
@settings(deadline=None, max_examples=150)
def test_a_name_survives_exactly_or_is_refused_by_its_key(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        try:
            write_config(home, {**VALUES, "node.authority": text})
            config = load_config(home)
        except ConfigError as error:
            assert "node.authority" in error.message
        else:
            assert config.node.authority == text
            assert config.node.country == "XA"


def test_writing_never_replaces_a_file(home: Home) -> None:
    before = home.config.read_bytes()
    with pytest.raises(ConfigError, match="exists already"):
        write_config(home, VALUES)
    assert home.config.read_bytes() == before


def test_writing_an_unknown_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no setting 'node\.autority'"):
        write_config(Home(tmp_path), {**VALUES, "node.autority": "Alder"})
    assert not Home(tmp_path).config.exists()


def test_writing_without_a_required_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"node\.contact is missing"):
        write_config(Home(tmp_path), {k: v for k, v in VALUES.items() if k != "node.contact"})
    assert not Home(tmp_path).config.exists()


# --- checking before writing -----------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"node.country": "Holland"}, "node.country"), ({"peer.listen": "8462"}, "peer.listen"),
        ({"peer.endpoints": ["https://a.example:1"]}, "peer.endpoints"),
        ({"http.listen": "0.0.0.0:8463"}, "http.listen"), ({"node.contry": "XA"}, "node.contry"),
    ],
    ids=repr,
)  # fmt: skip
def test_values_are_refused_before_anything_is_made(change: dict[str, Any], named: str) -> None:
    check_values(VALUES)
    with pytest.raises(ConfigError, match=re.escape(named)) as caught:
        check_values(VALUES | change)
    assert caught.value.fix


@pytest.mark.parametrize("key", sorted(VALUES))
def test_a_value_that_is_required_is_missed_before_anything_is_made(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is missing"):
        check_values({name: value for name, value in VALUES.items() if name != key})


def test_an_address_that_the_environment_allows_is_not_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PICKET_HTTP__ALLOW_REMOTE", "true")
    check_values({**VALUES, "http.listen": "0.0.0.0:8463"})

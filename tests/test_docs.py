"""What the documents say is checked against the code: settings, routes, codes, commands, tests."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from configparser import RawConfigParser
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import typer.main

from keys import trust
from node import (
    __version__,
    api,
    app,
    approval_desk,
    calls,
    follow_up,
    keydesk,
    list_updates,
    locking,
    logview,
    own_dates,
    pairing,
    peer_clocks,
    record_views,
    recording,
    retention,
    service,
    signer_client,
)
from node.cli.main import app as commands
from node.cli.terminal import Exit
from node.config import FIELDS
from node.service import SCOPES, Service
from protocol import errors, limits
from protocol.incident import parse_incident
from protocol.policy import format_policy, make_policy, parse_policy
from tests.factories import card_body

ROOT: Final = Path(__file__).parents[1]
OPERATING: Final = ROOT / "docs" / "operating.md"
INTEGRATING: Final = ROOT / "docs" / "integrating.md"
THREATS: Final = ROOT / "docs" / "threat-model.md"
DOCUMENTS: Final = (
    ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
)  # fmt: skip
PASSPHRASE: Final = b"correct horse battery"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PICKET_HOME", raising=False)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


# --- reading ---------------------------------------------------------------------------------
def section(path: Path, heading: str) -> str:
    """The text under *heading*, to the next of the same or a higher level."""
    text = path.read_text(encoding="utf-8")
    level = heading.split(" ", 1)[0]
    start = text.index(f"\n{heading}\n") + len(heading) + 2
    end = re.search(rf"^#{{1,{len(level)}}} ", text[start:], re.MULTILINE)
    return text[start : start + end.start()] if end else text[start:]


def rows(text: str) -> list[list[str]]:
    """The cells of all table rows in *text*, without heads and rules."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rules = [at for at, row in enumerate(cells) if set("".join(row)) <= set("-: ")]
    skipped = {*rules, *(at - 1 for at in rules)}
    return [row for at, row in enumerate(cells) if at not in skipped]


def blocks(path: Path, language: str) -> Iterator[str]:
    """The fenced blocks of *language* in *path*, also those inside list items."""
    fence = re.compile(rf"^( *)```{language}\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
    for found in fence.finditer(path.read_text(encoding="utf-8")):
        yield found[2]


def coded(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def without_blocks(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


# --- settings, codes, routes -----------------------------------------------------------------
def default_of(value: object) -> str:
    if value is ...:
        return "required"
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def test_every_setting_is_documented_with_its_default() -> None:
    table = {row[0]: row[1] for row in rows(section(OPERATING, "## Settings"))}
    assert table == {f"`{field.key}`": default_of(field.default) for field in FIELDS}


def test_every_exit_code_is_documented() -> None:
    table = rows(section(OPERATING, "### Exit codes"))
    assert [int(row[0]) for row in table] == [int(code) for code in Exit]


def notices_of(module: str) -> set[str]:
    """The codes of the notices that a module gives: the first of each tuple that it yields."""
    return {
        str(node.value.elts[0].value)
        for node in ast.walk(ast.parse(Path(module).read_text(encoding="utf-8")))
        if isinstance(node, ast.Yield)
        and isinstance(node.value, ast.Tuple)
        and isinstance(node.value.elts[0], ast.Constant)
    }


def test_every_notice_is_documented() -> None:
    given = notices_of(service.__file__) | notices_of(logview.__file__)
    given |= notices_of(keydesk.__file__) | notices_of(signer_client.__file__)
    given |= notices_of(pairing.__file__) | notices_of(recording.__file__)
    given |= notices_of(peer_clocks.__file__) | notices_of(approval_desk.__file__)
    given |= notices_of(retention.__file__) | notices_of(own_dates.__file__)
    given |= notices_of(follow_up.__file__) | notices_of(record_views.__file__)
    given |= notices_of(list_updates.__file__)
    table = rows(section(OPERATING, "### Notices in status"))
    notices = [coded(row[0])[0] for row in table if row[0] != "code"]
    documented = notices[: notices.index("connect-failed")]
    assert {"log-fork", "unopened"} <= given
    assert sorted(documented) == sorted(given)


def test_every_code_in_the_documents_of_links_is_a_code_of_the_program() -> None:
    known = {kind.code for kind in kinds(errors.PicketError)}
    text = section(OPERATING, "### Notices in status").partition("Why a peer is not linked")[2]
    documented = {code for row in rows(text) for code in coded(row[0])}
    assert len(documented) > 5
    assert documented <= known


def test_the_table_of_levels_says_what_each_level_allows() -> None:
    allowed = {
        row[0].split("`")[1]: [cell == "yes" for cell in row[1:]]
        for row in rows(section(OPERATING, "## Pair with another authority"))
    }
    expected = {
        level.value: [
            level in trust._LINKS,
            level in trust._AUTHORS,
            level in trust._CARRIERS,
            level is trust.Level.SHARE,
        ]
        for level in trust.Level
        if level is not trust.Level.REVOKED  # nothing reaches it yet
    }
    assert allowed == expected


def test_every_route_is_documented_with_method_path_and_scope() -> None:
    table = [
        (row[0], row[1].strip("`"), row[2].strip("`"))
        for row in rows(section(INTEGRATING, "## Routes"))
    ]
    assert sorted(table) == sorted((r.method, r.path, r.scope) for r in api.ROUTES)


def test_every_scope_is_documented() -> None:
    table = rows(section(INTEGRATING, "## Tokens and scopes"))
    assert [row[0].strip("`") for row in table] == list(SCOPES)


def made(kind: type[errors.PicketError]) -> errors.PicketError:
    if kind is errors.MethodError:
        return errors.MethodError("x", allowed="GET")
    return kind("x")


def kinds(base: type[errors.PicketError]) -> list[type[errors.PicketError]]:
    return [base, *(leaf for child in base.__subclasses__() for leaf in kinds(child))]


def test_every_error_code_is_documented_with_its_status() -> None:
    documented = {
        code: int(row[1])
        for row in rows(section(INTEGRATING, "## Errors"))
        for code in coded(row[0])
    }
    # Links fail between nodes; no answer of the local endpoint has their codes.
    answered = [k for k in kinds(errors.PicketError) if not issubclass(k, errors.LinkError)]
    assert documented == {kind.code: calls.problem(made(kind), "").status for kind in answered}


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("body of one request", f"{limits.MAX_REQUEST // 1024} KiB; of one import "
         f"{limits.MAX_REQUEST_IMPORT // 2**20} MiB and {limits.MAX_IMPORT_LINES:,} lines"),
        ("page", f"{limits.MAX_PAGE}"),
        ("recipients of one envelope", f"{limits.MAX_RECIPIENTS}, carriers {limits.MAX_CARRIERS}"),
        ("encoded record", f"{limits.MAX_BODY // 1024} KiB"),
        ("drafts", f"{limits.MAX_DRAFTS:,}"),
        ("deliveries waiting", f"{limits.MAX_OUTBOX:,}; a release beyond is answered `busy`"),
        ("life of an envelope with carriers",
         f"{limits.MAX_LIFETIME_MS // 86_400_000} days; its author goes on offering it"),
    ],
)  # fmt: skip
def test_limits_are_those_of_the_program(what: str, said: str) -> None:
    assert dict(row[:2] for row in rows(section(INTEGRATING, "## Limits")))[what] == said


def test_the_unit_hands_over_the_passphrase_under_the_name_that_the_node_looks_for() -> None:
    (text,) = blocks(OPERATING, "ini")
    unit = RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    assert unit["Service"]["Type"] == "simple"
    assert unit["Service"]["LoadCredential"].split(":")[0] == locking.CREDENTIAL
    assert resolve(shlex.split(unit["Service"]["ExecStart"])[1:], whole=True) == ["run"]
    stops = {int(code) for code in unit["Service"]["RestartPreventExitStatus"].split()}
    assert stops == {Exit.USAGE, Exit.REFUSED, Exit.UNVERIFIED}


def test_each_notice_about_logs_is_explained() -> None:
    table = rows(section(OPERATING, "### What the notices about logs mean"))
    assert {coded(row[0])[0] for row in table} == notices_of(logview.__file__)


def test_the_example_of_a_policy_is_one_and_asks_whom_it_says() -> None:
    peers = ("birch", "cedar", "dogwood")
    whole = format_policy(
        make_policy(card_body("alder").log, [(n, card_body(n).witness) for n in peers], 2)
    )
    (changed,) = blocks(OPERATING, "policy")
    kept = whole.splitlines()[:-2]
    assert [line.split(" ")[0] for line in whole.splitlines()[-2:]] == ["group", "quorum"]
    policy = parse_policy("\n".join([*kept, changed]))
    assert policy.witnesses["public"].url == "https://witness.example"

    def met(*names: str) -> bool:
        keys = [f"{name}.{kind}" for name in names for kind in ("ed", "mldsa")]
        return policy.satisfied([*keys, "public"]) and not policy.satisfied(keys)

    assert met("birch", "dogwood")
    assert not met("birch")


# --- commands --------------------------------------------------------------------------------
def resolve(arguments: list[str], *, whole: bool) -> list[str]:
    """The path of a command line in the command tree.

    Raises:
        AssertionError: a command or option does not exist, or, where *whole*, something is missing.
    """
    command: Any = typer.main.get_command(commands)
    path: list[str] = []
    found: set[str] = set()
    positional = 0
    words = iter(arguments)
    for word in words:
        options = {
            name: parameter
            for parameter in command.params
            if parameter.param_type_name == "option"
            for name in (*parameter.opts, "--help")
        }
        if word.startswith("-") and word != "-":
            name, given, _ = word.partition("=")
            assert name in options, f"picket {' '.join(path)} has no option {name}"
            found.add(name)
            if name not in {"--help", "--version"} and not options[name].is_flag and not given:
                assert next(words, None) is not None, f"{name} has no value"
        elif hasattr(command, "commands"):
            assert word in command.commands, f"picket {' '.join(path)} has no command {word!r}"
            command = command.commands[word]
            path.append(word)
        else:
            positional += 1
    if whole and not found & {"--help", "--version"}:
        assert not hasattr(command, "commands"), f"picket {' '.join(path)} does nothing alone"
        expected = [p for p in command.params if p.param_type_name == "argument"]
        open_ended = any(p.nargs == -1 for p in expected)
        assert positional == len(expected) or (open_ended and positional > len(expected)), (
            f"picket {' '.join(path)} takes {len(expected)}"
        )
        missing = [
            p.opts for p in command.params
            if p.param_type_name == "option" and p.required and not found & set(p.opts)
        ]  # fmt: skip
        assert not missing, f"picket {' '.join(path)} needs {missing}"
    return path


def lines_of(path: Path) -> Iterator[list[str]]:
    """The arguments of each call of picket in the shell blocks of *path*."""
    for block in blocks(path, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            call: list[str] = []
            for word in [*words, "&&"]:
                if word not in {"&&", "|", ";", "<", ">"}:
                    call.append(word)
                    continue
                if (arguments := picket_call(call)) is not None:
                    yield arguments
                call = []


def picket_call(words: list[str]) -> list[str] | None:
    """The arguments of *words* if they call picket, through sudo, env and exec as well."""
    words = list(words)
    while words and (words[0] in {"exec", "sudo", "env"} or re.match(r"[A-Z_]+=", words[0])):
        first = words.pop(0)
        if first == "sudo" and words and words[0] == "-u":
            del words[:2]
    if not words or Path(words[0]).name != "picket" or words[1:] == ["$@"]:
        return None
    return words[1:]


def test_every_command_line_in_a_document_can_be_typed() -> None:
    faults, seen = [], set()
    for path in DOCUMENTS:
        for arguments in lines_of(path):
            try:
                seen.add(" ".join(resolve(arguments, whole=True)))
            except AssertionError as error:
                faults.append(f"{path.name}: picket {' '.join(arguments)}: {error}")
    assert not faults, "\n".join(faults)
    assert {"init", "peers approve", "incidents release", "log accept", "tokens create"} <= seen


def test_every_command_named_in_a_sentence_exists() -> None:
    faults, count = [], 0
    for path in DOCUMENTS:
        for code in coded(without_blocks(path)):
            if not code.startswith("picket ") or not re.match(r"picket [-a-z]+", code):
                continue
            count += 1
            try:
                resolve(shlex.split(code)[1:], whole=False)
            except AssertionError as error:
                faults.append(f"{path.name}: {code}: {error}")
    assert not faults, "\n".join(faults)
    assert count > 10


# --- tests, links, words ---------------------------------------------------------------------
@cache
def functions_of(path: Path) -> dict[str, bool]:
    """The test functions of a file, and whether each is among the long ones."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name: any("mark.long" in ast.unparse(mark) for mark in node.decorator_list)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.name.startswith("test_")
    }


def test_every_test_that_the_threat_model_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`(†?)", THREATS.read_text(encoding="utf-8"))
    faults = []
    for file, name, long in named:
        found = functions_of(ROOT / file) if (ROOT / file).is_file() else {}
        if name not in found:
            faults.append(f"{file}::{name} does not exist")
        elif found[name] != bool(long):
            faults.append(f"{file}::{name} is marked wrongly")
    assert not faults, "\n".join(faults)
    assert len(named) > 50


def test_every_threat_has_a_promise_and_a_test() -> None:
    table = rows(section(THREATS, "## Threats, promises, tests"))
    assert {row[0] for row in table} == set("STRIDE")
    for row in table:
        assert len(row) == 5, row
        assert row[3], row
        assert "::test_" in row[4], row


def slugs(path: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", without_blocks(path), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", head.lower()) for head in heads)
    return {head.replace(" ", "-") for head in kept}


def test_every_relative_link_leads_somewhere() -> None:
    faults, count = [], 0
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)\s]+)\)", without_blocks(path)):
            if re.match(r"[a-z]+:", target):
                continue
            count += 1
            file, _, fragment = target.partition("#")
            place = (path.parent / file).resolve() if file else path
            if not place.exists() or not place.is_relative_to(ROOT):
                faults.append(f"{path.name}: {target} does not exist")
            elif fragment and fragment not in slugs(place):
                faults.append(f"{path.name}: {target} has no such heading")
    assert not faults, "\n".join(faults)
    assert count > 20


def test_no_document_speaks_of_the_machine_it_was_written_on() -> None:
    foreign = re.compile(
        r"/(tmp|root|home|work|Users)/"
        r"|\b(this|that|last|next|previous|earlier|work|working|coding|development) session\b",
        re.IGNORECASE,
    )
    found = [
        f"{path.name}: {match[0]}"
        for path in DOCUMENTS
        for match in foreign.finditer(path.read_text(encoding="utf-8"))
    ]
    assert not found


def test_the_changelog_has_a_section_for_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## [{__version__}] - " in text


def test_the_decisions_are_numbered_without_a_gap_and_have_the_same_parts() -> None:
    files = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [path.name[:4] for path in files] == [f"{n:04d}" for n in range(1, len(files) + 1)]
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert text.startswith(f"# {path.name[:4]}: "), path.name
        parts = re.findall(r"^## (.+)$", text, re.MULTILINE)
        assert parts == ["Context", "Options", "Decision", "Consequences"], path.name


# --- examples --------------------------------------------------------------------------------
def documents_in(block: str) -> list[Any]:
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(block):
        value, at = decoder.raw_decode(block, at)
        found.append(value)
        at += len(block[at:]) - len(block[at:].lstrip())
    return found


def example() -> dict[str, Any]:
    """The incident of docs/integrating.md."""
    (found,) = [
        value
        for block in blocks(INTEGRATING, "json")
        for value in documents_in(block)
        if "external_ref" in value
    ]
    incident: dict[str, Any] = found
    return incident


def test_the_examples_are_json_and_the_incident_is_one() -> None:
    assert sum(len(documents_in(block)) for block in blocks(INTEGRATING, "json")) > 10
    incident = example()
    assert incident.pop("external_ref") == "CASE-2026-0017"
    assert parse_incident(incident).face.summary.startswith("Twelve drums")


def make_node(home: Path, name: str, country: str) -> None:
    values = {
        "node.authority": f"{name} Authority", "node.country": country,
        "node.network": "demo.example", "node.contact": "duty@example.org",
        "peer.listen": "", "http.listen": "",
    }  # fmt: skip
    app.initialise(home, values, PASSPHRASE)


def card_of(home: Path) -> str:
    with app.open_service(home) as opened:
        card: str = opened.card()["card"]
    return card


def release_example(opened: Service, card: str) -> tuple[bytes, dict[str, Any]]:
    """Release the example to the node of *card*; return the exact bytes and the proof."""
    peer, _ = opened.add_peer(card, "birch")
    opened.approve_peer(
        "birch", level="share", safety_digits=peer["safety_number"], method="voice", by="A. B."
    )
    incident = example()
    made = opened.create_draft(incident, external_ref=incident.pop("external_ref"))
    opened.release(
        made["id"], to=["birch"], annex_to=None, carriers=[], separately=False, digest=None
    )
    return opened.raw(made["id"], 0), opened.proof(made["id"], 0)


def test_the_documented_program_verifies_a_proof_and_refuses_one_changed_byte(
    tmp_path: Path,
) -> None:
    alder, birch = tmp_path / "alder", tmp_path / "birch"
    make_node(alder, "Alder", "XA")
    make_node(birch, "Birch", "XB")
    with app.open_service(alder, lambda: PASSPHRASE) as opened:
        wire, proof = release_example(opened, card_of(birch))
        (tmp_path / "alder.card").write_text(opened.card()["card"], encoding="ascii")
    (program,) = blocks(INTEGRATING, "python")
    (tmp_path / "verify.py").write_text(program, encoding="utf-8")
    (tmp_path / "proof.json").write_text(json.dumps(proof), encoding="utf-8")
    (tmp_path / "envelope.bin").write_bytes(wire)

    def verify() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "verify.py", "demo.example", "alder.card", "alder.card",
             "envelope.bin", "proof.json"],
            cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    assert verify().stdout.startswith(f"RELEASED: entry {proof['index']} of "), verify().stderr
    changed = bytearray(wire)
    changed[-1] ^= 1
    (tmp_path / "envelope.bin").write_bytes(changed)
    refused = verify()
    assert refused.returncode != 0
    assert not refused.stdout

"""Routes by which an operator backs a node up, and looks after one that was restored."""

from __future__ import annotations

from typing import Final

from node.calls import OPERATOR, Call, Response, get, known, reply, route
from protocol.errors import NotFoundError, RequestError
from protocol.suite import DIGEST_SIZE


def _begin(call: Call) -> Response:
    known(call.body, "attachments")
    service = call.service
    attachments = get(call.body, "attachments", bool, True)
    row = service.core.backups.begin(who=call.who, attachments=attachments)
    return reply({**row, "network": service.config.node.network})


def _state(call: Call) -> Response:
    return reply(call.service.core.backups.state(call.parts["id"]))


def _made(call: Call) -> Response:
    known(call.body, "manifest", "size")
    try:
        manifest = bytes.fromhex(get(call.body, "manifest", str))
    except ValueError:
        manifest = b""
    if len(manifest) != DIGEST_SIZE or manifest.hex() != call.body["manifest"]:
        raise RequestError("manifest is no digest", fix="send 64 small hexadecimal digits")
    size = get(call.body, "size", int)
    if size < 1:
        raise RequestError("size is no number of bytes", fix="send the size of the file")
    made = call.service.core.backups.made(
        call.parts["id"], manifest=manifest, size=size, who=call.who
    )
    return reply(made)


def _cancel(call: Call) -> Response:
    call.service.core.backups.cancel(call.parts["id"])
    return reply({"cancelled": True})


def _restored(call: Call) -> Response:
    row = call.service.core.restored.row()
    if row is None:
        raise NotFoundError("this node waits for nothing", fix="see: picket status")
    return reply(row)


def _go_on(call: Call) -> Response:
    known(call.body, "by")
    call.service.core.restored.go_on(get(call.body, "by", str))
    return reply({"signs": True})


def _levels(call: Call) -> Response:
    known(call.body, "by")
    service = call.service
    service.core.restored.levels_checked(
        get(call.body, "by", str), fetching=service.network.pulling()
    )
    return reply({"releases": True})


ROUTES: Final = (
    route("POST", "/backups", OPERATOR, _begin, "Begin a snapshot of this node for a backup"),
    route("GET", "/backups/{id}", OPERATOR, _state, "How far the snapshot is copied"),
    route("POST", "/backups/{id}/made", OPERATOR, _made, "Log that the backup is written"),
    route("DELETE", "/backups/{id}", OPERATOR, _cancel, "Delete the snapshot"),
    route("GET", "/restored", OPERATOR, _restored, "How a restored node stands"),
    route("POST", "/restored/go-on", OPERATOR, _go_on,
           "Let a restored node sign though not all peers were heard"),
    route("POST", "/restored/levels", OPERATOR, _levels,
           "Say that the trust levels of a restored node were gone through"),
)  # fmt: skip

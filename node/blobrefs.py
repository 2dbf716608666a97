"""Which envelopes name which attachment, and who may have it for that; in node.db.

- A locked node serves by these rows: they say that an envelope names a blob, and nothing of it.
- Whoever may read one such envelope may have the blob: its author and its recipients. A carrier,
  who cannot open the envelope, may not.
"""

from __future__ import annotations

from collections.abc import Iterable

from node.store import Store
from node.streams import READER


class BlobRefs:
    """The table ``blob_refs``."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, envelope_id: bytes, blob_ids: Iterable[bytes]) -> None:
        """Note that an envelope names blobs. Call inside a transaction."""
        for blob_id in blob_ids:
            self._store.run("INSERT OR IGNORE INTO blob_refs VALUES (?, ?)", blob_id, envelope_id)

    def forget(self, envelope_ids: Iterable[bytes]) -> None:
        """Note that these envelopes are erased. Call inside a transaction."""
        for envelope_id in envelope_ids:
            self._store.run("DELETE FROM blob_refs WHERE envelope_id = ?", envelope_id)

    def naming(self, blob_id: bytes) -> frozenset[bytes]:
        """Return the ids of the envelopes that name the blob."""
        rows = self._store.rows("SELECT envelope_id FROM blob_refs WHERE blob_id = ?", blob_id)
        return frozenset(row["envelope_id"] for row in rows)

    def known(self, blob_id: bytes) -> bool:
        """Whether any envelope names the blob."""
        return bool(self._store.scalar("SELECT 1 FROM blob_refs WHERE blob_id = ?", blob_id))

    def may_have(self, blob_id: bytes, peer: bytes) -> bool:
        """Whether *peer* wrote or may read an envelope that names the blob."""
        return bool(
            self._store.scalar(
                "SELECT 1 FROM blob_refs r JOIN envelopes e ON e.id = r.envelope_id "
                "JOIN members m USING (author, incarnation, stream) "
                "WHERE r.blob_id = ? AND m.node_id = ? AND m.role = ? LIMIT 1",
                blob_id, peer, READER,
            )
        )  # fmt: skip

    def sources(self, blob_id: bytes) -> list[bytes]:
        """Return who may hold the blob, the authors of envelopes that name it first."""
        rows = self._store.rows(
            "SELECT m.node_id, max(m.node_id = e.author) AS wrote "
            "FROM blob_refs r JOIN envelopes e ON e.id = r.envelope_id "
            "JOIN members m USING (author, incarnation, stream) "
            "WHERE r.blob_id = ? AND m.role = ? GROUP BY m.node_id "
            "ORDER BY wrote DESC, m.node_id",
            blob_id, READER,
        )  # fmt: skip
        return [row["node_id"] for row in rows]

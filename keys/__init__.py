"""Identities, key cards, the keystore and the trust store."""

"""The deterministic simulator: many real nodes on one virtual clock, from one seed.

What runs is the code of the node itself: session, gossip, core, log, outbox and SQLite. Only what
is outside of it is replaced: clock, random bytes, primitives, disk and network.
"""

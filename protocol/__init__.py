"""Pure rules of Picket: formats, verification, state machines; no I/O of any kind."""

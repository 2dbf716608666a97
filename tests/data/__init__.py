"""Makes the reference data that comes from other collections."""

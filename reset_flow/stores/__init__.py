"""Places to keep flows."""

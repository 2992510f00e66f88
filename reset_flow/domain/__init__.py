"""Values and rules of a reset. No I/O, nothing awaited, no driver."""

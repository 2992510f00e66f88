"""Ways to talk to a broker."""

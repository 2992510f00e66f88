"""Lets processes elsewhere wait for a reset: durable engines, and receivers of webhooks. Only ids pass through them."""

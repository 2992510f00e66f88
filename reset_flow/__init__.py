"""Carries a password reset through the API of a broker, from request to working password."""

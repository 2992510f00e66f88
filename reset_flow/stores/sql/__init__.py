"""The schemas of the stores that speak SQL, and what their rows hold."""

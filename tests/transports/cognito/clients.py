"""What is known of the pool beforehand."""

PLAIN, WITH_SECRET, ALIKE = "plainclient", "secretclient", "alikeclient"
"""App clients: without a secret, with one, and with `PreventUserExistenceErrors`."""

CLIENT_SECRET = "51kq0secretofnobody"

FIRST_PASSWORD = "First-Passw0rd"
"""Of every user, until it is reset."""

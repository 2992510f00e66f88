"""Flow data in, sealed records out, and back."""

"""Carries out one command: admit, save the intent, call, decide, save, publish."""

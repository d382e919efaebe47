"""The lecture's claims as measured experiments: `python -m experiments`."""

"""Faults of public code, each rewritten in a few lines with its mended form, and right rules of unusual form."""

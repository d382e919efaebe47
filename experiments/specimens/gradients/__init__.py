"""Rules for derivatives."""

"""What users call: each turns what it is given into a case for the engine."""

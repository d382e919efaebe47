"""What judges: a case, the truth with its rounding, the comparison, the checks in their order."""

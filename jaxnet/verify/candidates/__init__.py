"""The forms in which people write derivatives, each as a candidate."""

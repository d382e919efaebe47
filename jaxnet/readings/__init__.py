"""What one backward pass can tell beside the gradient: every leaf is replaced by one that returns something else."""

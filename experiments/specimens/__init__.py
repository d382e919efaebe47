"""What the verifier is put to the proof on: rules and optimizers, right ones and wrong ones, planted and found."""

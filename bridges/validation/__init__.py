"""Does the dense model's behaviour bear the circuit out? (METHOD §6). Start at `validate.validate_circuit`."""

"""Evidence: what says how far a circuit can be trusted, one check per module, graded by `grades`. Start at `gather`."""

"""Circuits: pruning a task's nodes out of a sparse model and checking what was found (METHOD §3). Start at `prune.prune`."""

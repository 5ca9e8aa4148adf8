"""Training: one loop for every objective (METHOD §2). Start at `loop.train`."""

"""Whole jobs, from what a user names to what is written. The command line and the public package call these."""

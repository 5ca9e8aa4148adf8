"""Experiments: the same training repeated under settings that differ in one thing, compared over equal seeds."""

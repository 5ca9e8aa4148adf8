"""Pairs of prompts that differ in one rule and in their next token, for pruning circuits and validating edits."""

from sparse_model.tasks.registry import TASKS, find_task
from sparse_model.tasks.task import Task, TaskError, TextPair

__all__ = ["TASKS", "Task", "TaskError", "TextPair", "find_task"]

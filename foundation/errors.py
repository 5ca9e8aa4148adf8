"""The errors a person can mend. The command line prints their one line and exits 2."""


class UserError(ValueError):
    """The user's input is wrong. The message is one line: what is wrong, why, and what to do instead."""

    def __str__(self) -> str:
        # quoted input may hold lone surrogates, which no stream can write
        return super().__str__().encode("utf-8", "backslashreplace").decode("utf-8")


class StoppedEarly(Exception):  # noqa: N818 (an outcome, not an error)
    """A signal asked the run to stop; its state is on disk."""

"""The one error this package raises for something the user gave it."""

from foundation.errors import UserError


class AttachError(UserError):
    """A model, site, edit or weight that cannot be used; one line saying what, why, and what to do instead."""

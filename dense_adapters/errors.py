"""The one error this package raises for something the user gave it."""


class AttachError(ValueError):
    """A model, site, edit or weight that cannot be used; one line saying what, why, and what to do instead."""

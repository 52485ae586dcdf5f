"""What can be wrong with data once a run is under way."""


class UnreadablePicture(ValueError):
    """A picture or its record cannot be read; the message names it."""

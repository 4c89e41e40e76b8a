"""Errors of the message channel; no file of the folder is below this one."""


class MessageError(Exception):
    """A message is refused; the text names value and what is allowed."""


class FramingError(MessageError):
    """Where the next message begins is not known any more: the connection cannot go on."""


class PeerGoneError(Exception):
    """The front-end closed the connection."""

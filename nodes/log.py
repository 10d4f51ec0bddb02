"""The pack's logger; its name is a constant because under ComfyUI `__name__` is a file path."""

import logging

PREFIX = "[sparse_videogen]"
log = logging.getLogger("sparse_videogen")


def say(method: str, message: str) -> None:
    """Logs a line at INFO."""
    log.info("%s %s: %s", PREFIX, method, message)

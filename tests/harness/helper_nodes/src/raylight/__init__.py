"""Stands where raylight's package would: the pack's nodes for it are shown."""

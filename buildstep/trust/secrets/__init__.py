"""Secrets that have no place in an image: their formats, and how contents are looked through for them."""

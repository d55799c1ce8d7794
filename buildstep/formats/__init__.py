"""Bytes in and out: archives, compression, image layouts. No policy."""

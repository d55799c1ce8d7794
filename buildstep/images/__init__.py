"""Base images and published ones."""

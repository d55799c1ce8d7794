"""Known vulnerabilities of what is in an image, by databases that are here: no network, no token."""

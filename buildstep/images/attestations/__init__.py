"""What is said of an image in a registry: how it is pushed, read again and copied along."""

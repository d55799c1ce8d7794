"""What an image is made of: its packages, by every database in it, and the files that no package owns."""

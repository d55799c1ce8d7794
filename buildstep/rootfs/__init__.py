"""Work inside an image's root."""

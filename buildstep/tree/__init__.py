"""What a directory tree is: its entries, its digest, what changed."""

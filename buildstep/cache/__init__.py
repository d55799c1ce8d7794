"""What is kept to be quick; all of it can be made again."""

"""What can be proved of an artifact: keys and signatures."""

"""Real servers for tests: each on free loopback ports, stopped by what started it."""

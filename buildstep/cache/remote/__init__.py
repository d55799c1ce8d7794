"""The shared cache: what one agent made, for others that can check who made it."""

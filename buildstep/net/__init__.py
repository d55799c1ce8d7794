"""Protocol clients."""

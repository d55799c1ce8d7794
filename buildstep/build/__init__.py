"""The build: plan and execute."""

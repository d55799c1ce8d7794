"""buildstep: turn a base image and a proto directory into an installable image, inside the agent."""

__version__ = "0.1.0"

"""HRD, the language in which templates and instances are written."""

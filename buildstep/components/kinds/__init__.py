"""Kinds of images that components have: one file each, a row of the table `KINDS` each."""

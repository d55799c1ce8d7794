"""Places where actions run: each hands a call to the runtime there, and reads what it says."""

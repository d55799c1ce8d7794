"""Where jobs run: one file each, a row of the table `EXECUTORS` each."""

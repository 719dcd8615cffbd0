"""Where runs are executed: one file per executor."""

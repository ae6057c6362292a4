"""What several commands need: arguments, logs, progress, a report's own rows."""

"""Training loops, schedules, callbacks."""

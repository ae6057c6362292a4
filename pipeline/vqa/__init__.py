"""Questions on a schedule: ticks, and uncertain answers given again."""

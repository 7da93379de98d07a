"""From episodes to trainers. Each trainer's module is imported when it is asked for, with its extra installed."""

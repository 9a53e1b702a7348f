"""The life of a turn: accepted by the service, kept by the supervisor, run by the runner."""

"""The broker: clients' socket, stream log, fan-out, credit, resume."""

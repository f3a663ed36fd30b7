"""The engine of the module: what Python runs inside redis-server. Only server.py, a command, runs outside."""

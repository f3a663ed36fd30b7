"""The engine of the module: what the Python inside redis-server runs. server.py alone runs outside, as a command."""
